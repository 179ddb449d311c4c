"""A folder of images as a camera: replay, commissioning and tests."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from loguru import logger

from edge_ad.cameras.base import Delivered, EndOfFrames, Pace, Picture, Unreadable
from edge_ad.config import FolderCamera
from edge_ad.errors import CameraError, DataError
from edge_ad.images import SUFFIXES, is_image, read_image

SETTLED_S = 0.5  # a file whose size stays the same for so long is complete

Order = tuple[list[str | int], str]


class Folder:
    """Every image of a folder exactly once, in order of name (implements `Camera`).

    A damaged image is delivered as `Unreadable`, because its part needs a result too. Where it waits for new files, one
    is taken only once its size has stopped changing: OpenCV decodes half a JPEG without complaint.

    A new file is taken whatever its name. But after a restart only names tell what was inspected: all that sort up to
    the last of them. So a part whose name sorts before an earlier one's does not put that mark back.
    """

    complete = True

    def __init__(self, config: FolderCamera, resume_after: str | None) -> None:
        """Take the folder, and the name up to which all files have their result."""
        self._config = config
        self._waits = config.at_end == "wait"
        self._before = resume_after  # until a scan has found files
        self._last = resume_after  # of the names that were taken, the one that sorts last
        self._taken: set[str] = set()
        self._ready: list[Path] = []
        self._growing: dict[Path, int] = {}
        self._pace = Pace(config.interval_s)
        self._rescan = Pace(SETTLED_S)

    def open(self) -> None:
        """See `Camera.open`."""
        sizes = self._sizes_of_new()
        if self._waits:
            self._scan_again_for(sizes)
            return
        if not sizes and not self._taken:
            raise CameraError(f"no images in {self._config.path}: expected {', '.join(s[1:] for s in SUFFIXES)} files")
        self._ready = list(sizes)

    def read(self) -> Delivered | None:
        """See `Camera.read`."""
        if not self._pace.wait():
            return None
        if not self._ready:
            self._look_for_more()
            return None
        path = self._ready.pop(0)
        try:
            shot: Picture | Unreadable = Picture(read_image(path), path.name, self._mark(path.name))
        except DataError as error:
            if self._waits and isinstance(error.__cause__, FileNotFoundError):
                logger.warning("camera {}: {} has gone before it was read", self._config.name, path)
                return None
            shot = Unreadable(path.name, str(error), self._mark(path.name))
        self._last = shot.resume_after
        self._taken.add(path.name)
        self._pace.advance()
        return shot

    def close(self) -> None:
        """See `Camera.close`; there is nothing to release."""

    def _mark(self, name: str) -> str:
        """What sorts last once a file is taken."""
        return name if self._last is None else max(name, self._last, key=order)

    def _look_for_more(self) -> None:
        if not self._waits:
            raise EndOfFrames
        if not self._rescan.wait():
            return
        sizes = self._sizes_of_new()
        self._ready = [path for path, size in sizes.items() if self._growing.get(path) == size]
        self._scan_again_for(sizes)

    def _scan_again_for(self, sizes: dict[Path, int]) -> None:
        """Compare with these sizes, `SETTLED_S` from now, however long ago the last scan was."""
        self._growing = sizes
        self._rescan = Pace(SETTLED_S)
        self._rescan.advance()

    def _sizes_of_new(self) -> dict[Path, int]:
        """The images that were not taken, in order of name, with their sizes in bytes."""
        files = self._files()
        if files and self._before is not None:
            self._leave_out(files, self._before)
            self._before = None
        return {path: about.st_size for path, about in files.items() if path.name not in self._taken}

    def _leave_out(self, files: dict[Path, os.stat_result], last: str) -> None:
        """Count as inspected what sorts up to the last result; say so, for a file that came late would be among it."""
        done = [path for path in files if order(path.name) <= order(last)]
        self._taken.update(path.name for path in done)
        newest = max(done, key=lambda path: files[path].st_mtime_ns, default=None)
        if newest is not None:
            logger.log(
                "INFO" if newest.name == last else "WARNING",
                "camera {}: {} files that sort up to {} count as inspected; if the newest, {}, was not, name it anew",
                *(self._config.name, len(done), last, newest.name),
            )

    def _files(self) -> dict[Path, os.stat_result]:
        """The images of the folder in order of name, with what the file system knows of them."""
        try:
            paths = list(filter(is_image, self._config.path.iterdir()))
            found = {path: about for path in paths if (about := _stat(path)) and stat.S_ISREG(about.st_mode)}
        except OSError as error:
            raise CameraError(f"cannot read the folder {self._config.path}: {error.strerror}") from error
        return dict(sorted(found.items(), key=lambda item: order(item[0].name)))


def order(name: str) -> Order:
    """The key that sorts names with the numbers in them by value: part-8 before part-10."""
    pieces = re.split("([0-9]+)", name)  # text, digits, text, ...
    return [int(piece) if i % 2 else piece for i, piece in enumerate(pieces)], name


def _stat(path: Path) -> os.stat_result | None:
    """None of a file that was renamed or removed meanwhile."""
    try:
        return path.stat()
    except FileNotFoundError:
        return None
