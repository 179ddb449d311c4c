"""Built engines on disk, one place ("slot") for each bundle, builder and precision.

    <state>/engines/<slot>/engine.json       what is in service: its key, its file, its hash, how it was proved
                          <hash>.plan        the engine
                          .lock              held while building
                   timing-<GPU>-<version>.bin TensorRT's measurements of kernels, for the next build
                   onnxruntime/, openvino/   what these keep, see `vendor_cache`
                   area_resize-<sm>-<OpenCV>-....cubin  the kernel that prepares frames (edge_ad/engines/kernel.py)

`engine.json` names an engine that has been proved and lies on the disk; it changes by an atomic rename. So a reader and
a power cut see the old engine or the new one, and a build that fails changes nothing. The hash protects against damage;
whoever may write here may run code in the daemon, so only the owner may. What root builds belongs to the state
directory's owner, for the daemon to find it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from loguru import logger
from pydantic import Field, ValidationError

from edge_ad.bundle import Bundle
from edge_ad.config import Strict
from edge_ad.durable import TEMPORARY, make_folders, match_folder, write_whole
from edge_ad.engines.key import EngineKey, differences
from edge_ad.errors import BackendError, first_line

RECORD = "engine.json"
LOCK_FILE = ".lock"


class EngineRecord(Strict):
    """`engine.json`: the engine in service."""

    schema_: Literal["edge-ad/engine/1"] = Field("edge-ad/engine/1", alias="schema")
    key: EngineKey
    plan: str = Field(pattern=r"^[0-9a-f]{12}\.plan$")
    sha256: str
    bytes: int
    built_at: str
    build_s: float
    golden_errors: dict[str, float] = Field(description="largest difference from the bundle's golden outputs")


class NoEngineError(BackendError):
    """There is no engine that runs here; the message says why."""


def engines_path(state_dir: Path | None = None) -> Path:
    """The folder of all engines: in `state_dir`, else where systemd or the desktop's convention has state.

    Raises:
        BackendError: nothing says where, and the user has no home.
    """
    given = os.environ.get("STATE_DIRECTORY", "").split(":")[0]  # of the unit, StateDirectory=
    if state_dir is None and not given:  # only now: a service's user may have no home
        home = os.environ.get("XDG_STATE_HOME")
        return (Path(home) if home else _home() / ".local" / "state") / "edge-ad" / "engines"
    return (state_dir or Path(given)) / "engines"


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError as error:  # neither $HOME nor an entry in the passwd file
        raise BackendError("no folder for engines, this user has no home: set $STATE_DIRECTORY") from error


def engines_dir(state_dir: Path | None = None) -> Path:
    """The same, made where it is missing.

    Raises:
        BackendError: it cannot be made, or nothing says where.
    """
    folder = engines_path(state_dir)
    try:
        make_folders(folder, private=True)
    except OSError as error:
        raise BackendError(
            f"cannot make {folder} ({error.strerror}): give --state-dir, or set $STATE_DIRECTORY"
        ) from error
    return folder


def vendor_cache(bundle: Bundle, precision: str, engine: str, release: str) -> Path | None:
    """A folder where an engine that compiles at each start keeps what it compiled; None, with a line, where it cannot.

    Each bundle, precision and release has its own, whatever the engine takes for the same graph. What comes from it is
    held to the golden images at each start, as what was compiled anew. It may be deleted.

    Args:
        bundle, precision: what is compiled.
        engine, release: what compiles it.
    """
    try:
        folder = engines_dir() / engine / f"{bundle.digest[:12]}-{precision}-{release}"
        make_folders(folder, private=True)
    except (BackendError, OSError) as error:
        logger.info("what {} compiles is not kept, each start compiles anew: {}", engine, first_line(error))
        return None
    return folder


def records(folder: Path) -> list[EngineRecord]:
    """What is in service, of all bundles; a record that cannot be read is left out."""
    found = []
    for path in sorted(folder.glob(f"*/{RECORD}")):
        with suppress(OSError, ValidationError):
            found.append(EngineRecord.model_validate_json(path.read_bytes()))
    return found


def in_service(folder: Path, key: EngineKey, *, to_run: bool = False) -> EngineRecord:
    """The record of the engine for `key`; `to_run` as `differences` has it.

    Raises:
        NoEngineError: there is none, or the one there was built for something else; saying for what.
        BackendError: this user may not read it.
    """
    slot = folder / key.slot
    try:
        record = EngineRecord.model_validate_json((slot / RECORD).read_bytes())
    except FileNotFoundError as error:
        raise NoEngineError(f"no engine of bundle {key.bundle[:12]} in {key.precision} has been built yet") from error
    except PermissionError as error:
        raise _refused("read", slot / RECORD, error, folder) from error
    except (OSError, ValidationError) as error:
        raise NoEngineError(f"{slot / RECORD} cannot be read") from error
    changed = differences(record.key, key, to_run=to_run)
    if changed:
        raise NoEngineError(f"the engine in {slot} was built for something else ({changed})")
    return record


def read_plan(folder: Path, record: EngineRecord) -> bytes:
    """The bytes of an engine in service.

    Raises:
        NoEngineError: its file is gone or damaged.
        BackendError: this user may not read it.
    """
    path = folder / record.key.slot / record.plan
    try:
        plan = path.read_bytes()
    except PermissionError as error:
        raise _refused("read", path, error, folder) from error
    except OSError as error:
        raise NoEngineError(f"{path} cannot be read ({error.strerror})") from error
    if hashlib.sha256(plan).hexdigest() != record.sha256:
        raise NoEngineError(f"{path} was damaged")
    return plan


def write_plan(folder: Path, key: EngineKey, plan: bytes) -> Path:
    """Write an engine beside the one in service; it is not in service yet.

    A build that gives the same bytes again has the name of the engine in service: until all is written, that one lies
    there untouched.

    Raises:
        BackendError: there is no room for it.
    """
    path = folder / key.slot / f"{hashlib.sha256(plan).hexdigest()[:12]}.plan"
    try:
        write_whole(path, plan, as_its_folder=True)
    except OSError as error:
        raise _refused("write", path, error, folder) from error
    return path


def switch(folder: Path, record: EngineRecord) -> None:
    """Put an engine in service, then remove what it replaces; the slot must be held.

    Raises:
        BackendError: the record cannot be written; the old engine stays in service.
    """
    slot = folder / record.key.slot
    try:
        write_whole(slot / RECORD, record.model_dump_json(by_alias=True, indent=1).encode(), as_its_folder=True)
    except OSError as error:
        raise _refused("write", slot / RECORD, error, folder) from error
    for file in (*slot.glob("*.plan"), *slot.glob(f"*{TEMPORARY}")):  # the latter of builds that were killed
        if file.name != record.plan:
            file.unlink()


@contextmanager
def building(folder: Path, key: EngineKey) -> Iterator[None]:
    """Hold the slot: two processes that want the same engine build it once, the second waits.

    Raises:
        BackendError: the slot cannot be made.
    """
    slot = folder / key.slot
    try:
        make_folders(slot, private=True)
        descriptor = os.open(slot / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        match_folder(descriptor, slot)
    except OSError as error:
        raise _refused("use", slot, error, folder) from error
    with os.fdopen(descriptor):
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


def _refused(do: str, path: Path, error: OSError, folder: Path) -> BackendError:
    """What cannot be done, and, where the engines are another user's, how they become this one's."""
    remedy = ""
    if isinstance(error, PermissionError):
        remedy = f"; it is another user's: sudo chown -R {os.geteuid()}:{os.getegid()} {folder}"
    return BackendError(f"cannot {do} {path}: {error.strerror}{remedy}")


def timing_cache(folder: Path, key: EngineKey) -> Path:
    """The file of kernel timings for this GPU and TensorRT; any engine of any bundle profits from it."""
    return folder / f"timing-{key.sm}x{key.multiprocessors}-{key.memory_gib}gib-{key.tensorrt}.bin"


def forget_timings(folder: Path, key: EngineKey) -> None:
    """Have the next build measure kernels anew: the clocks, or the board under this disk, may be others now.

    Raises:
        BackendError: the file cannot be removed.
    """
    path = timing_cache(folder, key)
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise _refused("remove", path, error, folder) from error


def give_to_owner(path: Path) -> None:
    """Give a file that a library may have written here as root to the folder's owner."""
    with suppress(FileNotFoundError), path.open("rb") as file:
        match_folder(file.fileno(), path.parent)
