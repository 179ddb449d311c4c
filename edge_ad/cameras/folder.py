"""A folder of images as a camera: replay, commissioning and tests."""

from __future__ import annotations

from pathlib import Path

from edge_ad.cameras.base import Delivered, EndOfFrames, Pace, Picture, Unreadable
from edge_ad.config import FolderCamera
from edge_ad.errors import CameraError, DataError
from edge_ad.images import SUFFIXES, read_image

SETTLED_S = 0.5  # a new file whose size stays the same for so long is complete


class Folder:
    """Every image of a folder exactly once, in order of name (implements `Camera`).

    A damaged image is delivered as `Unreadable`, because its part needs a result too. While waiting for new files,
    one is taken only once its size has stopped changing: OpenCV decodes half a JPEG without complaint.
    """

    complete = True

    def __init__(self, config: FolderCamera, resume_after: str | None) -> None:
        """Take the folder, and the name of the last file that has its result."""
        self._config = config
        self._resume_after = resume_after
        self._taken: set[str] = set()
        self._ready: list[Path] = []
        self._growing: dict[Path, int] = {}
        self._pace = Pace(config.interval_s)
        self._rescan = Pace(SETTLED_S)

    def open(self) -> None:
        """See `Camera.open`."""
        images = list(self._sizes())
        if not images and self._config.at_end == "stop":
            raise CameraError(f"no images in {self._config.path}: expected {', '.join(s[1:] for s in SUFFIXES)} files")
        self._ready = [path for path in images if self._resume_after is None or path.name > self._resume_after]
        self._taken = {path.name for path in images}

    def read(self) -> Delivered | None:
        """See `Camera.read`."""
        if not self._pace.wait():
            return None
        if not self._ready:
            self._look_for_more()
            return None
        path = self._ready.pop(0)
        self._pace.advance()
        try:
            return Picture(read_image(path), path.name)
        except DataError as error:
            return Unreadable(path.name, str(error))

    def close(self) -> None:
        """See `Camera.close`; there is nothing to release."""

    def _look_for_more(self) -> None:
        if self._config.at_end == "stop":
            raise EndOfFrames
        if not self._rescan.wait():
            return
        self._rescan.advance()
        sizes = {path: size for path, size in self._sizes().items() if path.name not in self._taken}
        self._ready = [path for path, size in sizes.items() if self._growing.get(path) == size]
        self._taken.update(path.name for path in self._ready)
        self._growing = sizes

    def _sizes(self) -> dict[Path, int]:
        """The images of the folder in order of name, with their sizes in bytes."""
        folder = self._config.path
        try:
            images = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())
            return {path: path.stat().st_size for path in images}
        except OSError as error:
            raise CameraError(f"cannot read the folder {folder}: {error.strerror}") from error
