"""One daemon per state directory: two would number the same outbox and share one client id at the broker."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge_ad.errors import BusyError, ConfigError

LOCK_FILE = "daemon.lock"


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


@contextmanager
def locked(state_dir: Path) -> Iterator[None]:
    """Hold the state directory; the kernel frees it when the process ends, however it ends.

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
            holder = file.read().strip() or "unknown"
            raise BusyError(
                f"another edge-ad (process {holder}) uses {state_dir}: stop it, or give this station its own state_dir"
            ) from error
        file.seek(0)
        file.write(f"{os.getpid():<19}\n")  # always of one length: over what is there, it fits on a full disk as well
        file.flush()
        yield
