"""Keeps the frames that the daemon decoded, so that their scores can be computed again offline."""

from __future__ import annotations

import re
import shutil

from loguru import logger

from edge_ad.config import RecordingConfig
from edge_ad.images import encode_png
from edge_ad.records import Frame
from edge_ad.snapshots import FREE_BYTES, by_age

_OURS = re.compile(r"\d{10}\.png")
_UNFINISHED = "unfinished.part"  # no image suffix: nobody takes half a frame for one


class Recorder:
    """Full frames as lossless PNG, named by frame_id; the oldest goes when there are `max_frames`.

    Recording is for commissioning: it takes time of the loop's turn, after the result is handed over (a frame of
    1920 x 1080 about 0.1 s), and a disk that is nearly full stops it: what is left is the outbox's.
    """

    def __init__(self, config: RecordingConfig) -> None:
        """Take the folder; what an earlier run has recorded there is taken over with the first frame."""
        self._dir = config.dir
        self._max_frames = config.max_frames
        self._problem = ""
        self._kept: dict[str, None] | None = None  # by age, oldest first; not looked for yet

    def record(self, frame: Frame) -> None:
        """Write a frame; a failure is logged once and tried again with the next frame."""
        try:
            self._write(frame)
        except OSError as error:
            self._report(error.strerror or str(error))
        else:
            self._report("")

    def _write(self, frame: Frame) -> None:
        self._dir.mkdir(parents=True, exist_ok=True)
        kept = self._kept if self._kept is not None else self._found()
        self._kept = kept
        name = f"{frame.frame_id:010d}.png"
        data = encode_png(frame.image)
        if shutil.disk_usage(self._dir).free < len(data) + FREE_BYTES:
            raise OSError(f"less than {FREE_BYTES >> 20} MB of the disk would be left for the results")
        unfinished = self._dir / _UNFINISHED
        try:
            unfinished.write_bytes(data)
            unfinished.replace(self._dir / name)
        except OSError:  # half a frame would hold what little room there is
            unfinished.unlink(missing_ok=True)
            raise
        kept.pop(name, None)
        kept[name] = None
        while len(kept) > self._max_frames:
            oldest = next(iter(kept))
            (self._dir / oldest).unlink(missing_ok=True)
            del kept[oldest]

    def _found(self) -> dict[str, None]:
        """The frames of earlier runs by age."""
        ours = (path for path in self._dir.iterdir() if _OURS.fullmatch(path.name))
        return dict.fromkeys(path.name for path in by_age(ours))

    def _report(self, problem: str) -> None:
        if problem == self._problem:
            return
        self._problem = problem
        if problem:
            logger.error("recording to {} stopped: {}; inspection goes on", self._dir, problem)
        else:
            logger.info("recording to {} goes on", self._dir)
