"""What must survive a power cut."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

TEMPORARY = ".new"  # how the names of unfinished files end


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk: a file written and synced is else still without its name."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that whoever reads it, also after a power cut, finds what was there before or all of `data`.

    Two may write the same file at once: each has a temporary file of its own, and the last to finish wins.

    Raises:
        OSError: as of a full disk; what was there before is untouched.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{TEMPORARY}")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:  # Ctrl-C too must leave nothing behind
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)
