"""One daemon per state directory: two would number the same outbox and share one client id at the broker.

The file that it locks says who it is: its process, and what it has noted of itself, each of one length, so that it fits
over what is there on a full disk as well.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from edge_ad.errors import BusyError, ConfigError

LOCK_FILE = "daemon.lock"
NOTE_CHARACTERS = 64


def in_use(state_dir: Path, *, if_unknown: bool = True) -> bool:
    """Whether a daemon holds the state directory at present; nothing is made or written.

    `if_unknown` is the answer where this user may not look: then it is somebody's.
    """
    try:
        with (state_dir / LOCK_FILE).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    except OSError:
        return if_unknown
    return False


def noted(state_dir: Path) -> str:
    """What the daemon that holds the state directory has noted; empty if none does, or this user may not look."""
    if not in_use(state_dir, if_unknown=False):
        return ""
    return "".join((state_dir / LOCK_FILE).read_text().splitlines()[1:]).strip()


@contextmanager
def locked(state_dir: Path) -> Iterator[Callable[[str], None]]:
    """Hold the state directory; the kernel frees it when the process ends, however it ends.

    Yields:
        Notes a text of at most NOTE_CHARACTERS ASCII characters, for `noted`.

    Raises:
        ConfigError: the directory cannot be made or written.
        BusyError: another daemon holds it, or what is left of one: a thread that hangs in a driver keeps it locked.
    """
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(state_dir / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise ConfigError(f"cannot use state_dir {state_dir}: {error.strerror}") from error
    with os.fdopen(descriptor, "r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = file.readline().strip() or "unknown"
            raise BusyError(
                f"another edge-ad (process {holder}) uses {state_dir}: stop it, or give this station its own state_dir"
            ) from error

        def note(text: str) -> None:
            file.seek(0)
            file.write(f"{os.getpid():<19}\n{text:<{NOTE_CHARACTERS}}\n")
            file.flush()

        note("")
        yield note
