"""A simulation as a camera: recorded scores, or frames, at a chosen rate; for commissioning and load tests."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path

from edge_ad.cameras.base import Delivered, EndOfFrames, Pace, Picture, RecordedScore, Unreadable
from edge_ad.config import PlaybackConfig
from edge_ad.errors import CameraError, DataError
from edge_ad.images import list_images, read_image

Recording = RecordedScore | Path  # of one part; `part_id` is the file's name here, and numbered when it is played


class Playback:
    """Plays its recordings in order and for ever, or up to a number of parts (implements `Camera`).

    A part's id is the recording's file and the part's number, from 1: `good-007.png#1207`. So a restart goes on behind
    the last part that has its result, and none is played twice.
    """

    complete = True

    def __init__(self, config: PlaybackConfig, resume_after: str | None) -> None:
        """Take what to play, and the id of the last part that has its result."""
        self._config = config
        self._played = _number_of(resume_after)
        self._recordings: list[Recording] = []
        self._pace = Pace(1.0 / config.rate_hz)

    def open(self) -> None:
        """See `Camera.open`."""
        if self._config.scores is not None:
            self._recordings = list(read_scores(self._config.scores))
        elif self._config.frames is not None:
            self._recordings = list(_frames(self._config.frames))

    def read(self) -> Delivered | None:
        """See `Camera.read`."""
        is_over = self._config.count is not None and self._played >= self._config.count
        if is_over and self._config.at_end == "stop":
            raise EndOfFrames
        if not self._pace.wait():
            return None
        self._pace.advance()
        if is_over:
            return None
        recording = self._recordings[self._played % len(self._recordings)]
        self._played += 1
        return _play(recording, self._played)

    def close(self) -> None:
        """See `Camera.close`; there is nothing to release."""


def read_scores(path: Path) -> list[RecordedScore]:
    """The scores of a CSV with the columns `file` and `score`; NaN is a score that the model could not give.

    Raises:
        CameraError: it cannot be read, has no such columns or no rows, or a score is no number.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # spreadsheets put a mark before the first column
            table = csv.DictReader(file)
            _refuse_other_columns(path, table.fieldnames or ())
            rows = list(table)
        scores = [RecordedScore(Path(row["file"]).name, float(row["score"])) for row in rows]
    except OSError as error:
        raise CameraError(f"cannot read the scores {path}: {error.strerror}") from error
    except (TypeError, ValueError, csv.Error) as error:  # TypeError: a row that is too short
        raise CameraError(f"{path} holds no recorded scores: {error}") from error
    if not scores:
        raise CameraError(f"{path} has no rows: record scores with edge-ad-train evaluate --scores")
    return scores


def _refuse_other_columns(path: Path, columns: Sequence[str]) -> None:
    if not {"file", "score"} <= set(columns):
        found = ", ".join(map(repr, columns)) or "none"
        raise CameraError(f"{path} needs the columns file and score, separated by commas; it has {found}"[:300])


def _frames(folder: Path) -> list[Path]:
    try:
        return list_images(folder)
    except DataError as error:
        raise CameraError(str(error)) from error


def _play(recording: Recording, number: int) -> Delivered:
    if isinstance(recording, RecordedScore):
        return RecordedScore(f"{recording.part_id}#{number}", recording.score)
    part_id = f"{recording.name}#{number}"
    try:
        return Picture(read_image(recording), part_id)
    except DataError as error:
        return Unreadable(part_id, str(error))


def _number_of(part_id: str | None) -> int:
    """The number in a part's id; 0 where a simulation did not give it."""
    found = re.fullmatch(r".*#(\d+)", part_id or "", flags=re.DOTALL)
    return int(found[1]) if found else 0
