"""What must survive a power cut."""

from __future__ import annotations

import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

TEMPORARY = ".new"  # how the names of unfinished files end


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk: a file written and synced is else still without its name."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def match_folder(descriptor: int, folder: Path) -> None:
    """Give what root has just made in a folder to the folder's owner, as readable as the folder but theirs to write.

    Without it a service that runs as that owner cannot read what a person made with sudo.

    Args:
        descriptor: of a new file or folder, opened; a path could have been exchanged meanwhile.
        folder: where it lies.
    """
    if os.geteuid() != 0:
        return
    like, mine = folder.stat(), os.fstat(descriptor)
    with suppress(OSError):  # root of a container or over NFS may not; then the reader says what it cannot read
        os.fchown(descriptor, like.st_uid, like.st_gid)
    os.fchmod(descriptor, like.st_mode & (0o755 if stat.S_ISDIR(mine.st_mode) else 0o644))


def make_folders(folder: Path, *, private: bool = False) -> list[Path]:
    """Make a folder and those that lead to it, where missing, with owner and mode as `match_folder` says.

    Args:
        folder: the innermost.
        private: its owner alone is to read it.

    Returns:
        Those that were made, the innermost first.

    Raises:
        OSError: one cannot be made.
    """
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    for each in reversed(missing):
        each.mkdir(mode=0o700 if private and each == folder else 0o777, exist_ok=True)  # two may do so at once
        descriptor = os.open(each, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            match_folder(descriptor, each.parent)
            if private and each == folder:
                os.fchmod(descriptor, 0o700)
        finally:
            os.close(descriptor)
        sync_folder(each.parent)
    return missing


def write_whole(path: Path, data: bytes, *, as_its_folder: bool = False) -> None:
    """Write a file so that whoever reads it, also after a power cut, finds what was there before or all of `data`.

    Two may write the same file at once: each has a temporary file of its own, and the last to finish wins.

    Args:
        path: the file.
        data: all of it.
        as_its_folder: it is to have owner and mode as `match_folder` says.

    Raises:
        OSError: as of a full disk; what was there before is untouched.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{TEMPORARY}")
    try:
        with temporary.open("xb") as file:
            if as_its_folder:
                match_folder(file.fileno(), path.parent)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:  # Ctrl-C too must leave nothing behind
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)
