"""A run directory: everything that one training leaves behind.

config.yaml           the resolved configuration
images.json           every training and held-out image with its SHA-256; seed, commit and minutes it was begun with
calibration_split/    links to the held-out images: the folder to calibrate with
checkpoint.pt         weights, averaged weights, optimiser, step; replaced as a whole
training.lock         the process that trains it, locked for as long
log.jsonl             one line of losses now and then
"""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import torch
from torch import nn

from edge_ad.durable import write_whole
from edge_ad.errors import DataError
from edge_ad.images import sha256_file
from trainer import config as configs
from trainer.config import TrainConfig
from trainer.data.folder import Split
from trainer.provenance import source_version

CHECKPOINT = "checkpoint.pt"
SNAPSHOTS = "snapshots"
LOCK = "training.lock"


@dataclass(frozen=True, slots=True)
class Run:
    """An existing run directory.

    Attributes:
        commit: of the code that it was begun with; None where it was not noted.
        max_minutes: the time that it was begun with, for as long as there is no checkpoint that says so.
    """

    path: Path
    config: TrainConfig
    train_sha256: tuple[str, ...]
    calibration_sha256: tuple[str, ...]
    seed: int
    commit: str | None
    max_minutes: float | None = None


def create(path: Path, config: TrainConfig, split: Split, seed: int, max_minutes: float | None = None) -> Run:
    """Lay out a new run directory.

    Raises:
        DataError: the directory already holds a run.
    """
    if (path / "config.yaml").exists():
        raise DataError(f"{path} already holds a run: give another --out, or continue it with --resume")
    links = path / "calibration_split"
    links.mkdir(parents=True, exist_ok=True)
    for left in links.iterdir():  # by one that was stopped in here, perhaps of another split
        if left.is_symlink():
            left.unlink()
    for source, digest in split.calibration.items():
        (links / f"{digest[:8]}_{source.name}").symlink_to(source.absolute())
    images = {
        "seed": seed,
        "commit": source_version(),
        "max_minutes": max_minutes,
        "train": _listed(split.train),
        "calibration": _listed(split.calibration),
    }
    (path / "images.json").write_text(json.dumps(images, indent=1), encoding="utf-8")
    write_whole(path / "config.yaml", configs.dump(config).encode())  # the last: with it the directory is a run
    return open_run(path)


def _listed(images: dict[Path, str]) -> list[dict[str, str]]:
    return [{"path": str(path.absolute()), "sha256": digest} for path, digest in images.items()]


def open_run(path: Path) -> Run:
    """Read a run directory.

    Raises:
        DataError: it is not one, or its list of images cannot be read.
        ConfigError: its configuration cannot be read.
    """
    listed = path / "images.json"
    if not (path / "config.yaml").is_file() or not listed.is_file():
        raise DataError(f"{path} is not a run: it has no config.yaml and images.json; train with --out {path}")
    config = configs.load(path / "config.yaml")
    try:
        images = json.loads(listed.read_text(encoding="utf-8"))
        train, held = (tuple(str(entry["sha256"]) for entry in images[part]) for part in ("train", "calibration"))
        return Run(path, config, train, held, int(images["seed"]), images.get("commit"), images.get("max_minutes"))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{listed} is cut or altered: copy it back, or train anew with another --out") from error


def listed_paths(run: Run) -> list[Path]:
    """The training images, in the order of the run, whether they are there or not."""
    images = json.loads((run.path / "images.json").read_text(encoding="utf-8"))["train"]
    return [Path(entry["path"]) for entry in images]


def train_paths(run: Run) -> list[Path]:
    """The training images, in the order of the run.

    Raises:
        DataError: one has gone or changed since.
    """
    paths = listed_paths(run)
    for path, digest in zip(paths, run.train_sha256, strict=True):
        if not path.is_file() or sha256_file(path) != digest:
            raise DataError(f"{path} has gone or changed since the run began: a resumed run needs the same images")
    return paths


@contextmanager
def training(run: Path) -> Iterator[None]:
    """Hold a run directory while it is trained; the kernel frees it when the process ends, however it ends.

    Raises:
        DataError: another process trains it.
    """
    with (run / LOCK).open("a+", encoding="utf-8") as file:
        file.seek(0)
        try:  # not flock, which forked workers share, and some outlive us by seconds
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            _refuse_held(run, file.read(), error)
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def require_at_rest(run: Path) -> None:
    """What is measured or exported is one state of a run: refuse one that another process trains at present.

    Raises:
        DataError: it does.
    """
    try:
        with (run / LOCK).open(encoding="utf-8") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError as error:
                _refuse_held(run, file.read(), error)
    except FileNotFoundError:  # of old, or copied without it
        return


def _refuse_held(run: Path, holder: str, error: OSError) -> None:
    """A file system without locks holds nobody up.

    Raises:
        DataError: the lock is another process's.
    """
    if error.errno in (errno.EACCES, errno.EAGAIN):
        by = f"process {holder.strip()}" if holder.strip() else "another process"
        raise DataError(f"{run} is being trained by {by}: wait for its end, or stop it with Ctrl-C") from error


def save_checkpoint(run: Path, state: dict[str, Any]) -> None:
    """Replace the checkpoint; an interrupted write leaves the old one."""
    _save(run / CHECKPOINT, state)


def save_snapshot(run: Path, state: dict[str, Any], step: int) -> None:
    """Keep what a checkpoint of this step would hold to evaluate it: all but what goes on from it."""
    (run / SNAPSHOTS).mkdir(exist_ok=True)
    _save(run / SNAPSHOTS / f"{step:08d}.pt", {key: state[key] for key in state.keys() - {"model", "optimizer"}})


def snapshots(run: Path) -> list[Path]:
    """The snapshots of a run, in the order of its training.

    Raises:
        DataError: it has none.
    """
    found = sorted((run / SNAPSHOTS).glob("*.pt"))
    if not found:
        raise DataError(f"{run} has no snapshots: train it with --snapshots 20")
    return found


class _Stream:
    """What torch writes a file through: it hides what the file system says behind an error of its own zip writer."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.refused: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.refused = self.refused or error
            raise

    def flush(self) -> None:
        self._file.flush()


def _save(path: Path, state: dict[str, Any]) -> None:
    """Replace a file as a whole.

    Raises:
        OSError: naming it, as of a full disk; what was there before is untouched, and nothing else is left.
    """
    temporary = path.with_name(f"{path.name}.new")
    try:
        with temporary.open("wb") as file:
            _write(state, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:  # Ctrl-C too
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(path)
        raise


def _write(state: dict[str, Any], file: BinaryIO) -> None:
    stream = _Stream(file)
    try:
        torch.save(state, cast("IO[bytes]", stream))
    except RuntimeError:
        if stream.refused is not None:
            raise stream.refused from None
        raise


def load_checkpoint(run: Path) -> dict[str, Any]:
    """Read the checkpoint.

    Raises:
        DataError: there is none yet, or it cannot be read.
    """
    path = run / CHECKPOINT
    if not path.is_file():
        raise DataError(f"{run} has no {CHECKPOINT} yet: train it first")
    return load_weights(path)


def commits(run: Run, state: Mapping[str, Any]) -> tuple[str, ...]:
    """Of the code that trained up to a checkpoint or a snapshot, in order; those of old know the first at the most."""
    return tuple(state.get("commits") or ([run.commit] if run.commit else []))


def max_minutes(state: Mapping[str, Any]) -> float | None:
    """The time that a training was given, by its checkpoint; None where it had no end, or nobody noted it."""
    given: float | None = state.get("max_minutes")
    return given if given is not None and math.isfinite(given) else None


def put_weights(networks: nn.Module, weights: dict[str, Any], run: Run) -> None:
    """Give networks the weights that a run of theirs has kept.

    Raises:
        DataError: they are of other networks.
    """
    try:
        networks.load_state_dict(weights)
    except RuntimeError as error:  # torch names every weight that is missing or of another shape
        by = f"edge-ad at commit {run.commit}" if run.commit else "another edge-ad"
        raise DataError(
            f"{run.path} was trained by {by}, whose networks were others: use that, or train anew"
        ) from error


def load_weights(path: Path) -> dict[str, Any]:
    """Read a checkpoint or a snapshot.

    Raises:
        DataError: it cannot be read.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises pickle, zip and runtime errors without a common base
        raise DataError(f"{path} cannot be read: {type(error).__name__}; train again") from error
    return state
