"""Measure all engines in turn, round after round: what slows the machine for a while then slows them alike."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edge_ad.backends.base import OPENERS
from edge_ad.bench.figures import Sample
from edge_ad.bundle import MODEL_FILE, Bundle
from edge_ad.config import BackendConfig, Precision
from edge_ad.console import tracked
from edge_ad.errors import BackendError, ConfigError

WORKER = "edge_ad.bench.worker"
LIMIT_S = 1800.0  # for one process: TensorRT's engine may be built in it
ALL = "all"

# Every engine there is; which of them this machine has, each says itself. The first that runs is the reference.
ENGINES = (
    BackendConfig(name="onnxruntime", device="cpu"),
    BackendConfig(name="onnxruntime", device="cuda"),
    BackendConfig(name="onnxruntime", device="tensorrt"),
    BackendConfig(name="openvino", device="cpu"),
    BackendConfig(name="torch", device="cpu"),
    BackendConfig(name="torch", device="cuda"),
    BackendConfig(name="torch_tensorrt", device="cuda"),
    BackendConfig(name="tensorrt", device="cuda"),
)
PRECISIONS: dict[str, tuple[Precision, ...]] = {
    "onnxruntime": ("fp32", "int8"),
    "openvino": ("fp32", "int8"),
    "torch_tensorrt": ("fp32", "fp16"),
    "tensorrt": ("fp32", "fp16", "int8"),
}
ONLY_FP32: tuple[Precision, ...] = ("fp32",)  # the other back-ends


@dataclass
class Measured:
    """What the rounds have brought.

    Attributes:
        samples: engine -> one sample a round.
        refused: engine -> why it could not be measured.
    """

    samples: dict[BackendConfig, list[Sample]] = field(default_factory=dict)
    refused: dict[BackendConfig, str] = field(default_factory=dict)


def choose(bundle: Bundle, backend: str) -> list[BackendConfig]:
    """The engines to try, in every precision that they have and the bundle holds.

    Raises:
        ConfigError: there is no such back-end.
    """
    if backend not in (ALL, *OPENERS):
        raise ConfigError(f"--backend {backend}: choose {ALL} or one of {', '.join(OPENERS)}")
    return [
        engine.model_copy(update={"precision": precision})
        for precision, file in MODEL_FILE.items()
        for engine in ENGINES
        if file in bundle.manifest.files and precision in PRECISIONS.get(engine.name, ONLY_FP32)
        if backend in (ALL, engine.name)
    ]


def label(engine: BackendConfig) -> str:
    """An engine on one line: "openvino cpu fp32"."""
    return f"{engine.name} {engine.device} {engine.precision}"


def run_rounds(bundle: Bundle, engines: Sequence[BackendConfig], rounds: int, frames: int) -> Measured:
    """Measure each engine once a round, every other round in reverse; one that fails is not tried again.

    Raises:
        BackendError: none could be measured; with each one's reason.
    """
    found = Measured()
    turns = [engine for turn in range(rounds) for engine in (engines if turn % 2 == 0 else reversed(engines))]
    for engine in tracked(turns, "measuring"):
        if engine in found.refused:
            continue
        sample = run_worker(bundle.path, engine, frames)
        if isinstance(sample, str):
            found.refused[engine] = sample
            found.samples.pop(engine, None)
        else:
            found.samples.setdefault(engine, []).append(sample)
    if not found.samples:
        reasons = "; ".join(f"{label(engine)}: {reason}" for engine, reason in found.refused.items())
        raise BackendError(f"no engine could be measured: {reasons}")
    return found


def run_worker(bundle: Path, engine: BackendConfig, frames: int) -> Sample | str:
    """Measure one engine in a process of its own; the reason where there is no measurement."""
    command = [sys.executable, "-m", WORKER, str(bundle), engine.model_dump_json(), str(frames)]
    started_ns = time.monotonic_ns()  # one clock for all processes of a machine
    try:
        ended = subprocess.run(  # noqa: S603 - our own module, our own arguments
            command, capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"it did not end within {LIMIT_S:g} s"
    if ended.returncode != 0:
        last = ended.stderr.strip().splitlines()[-1:] or ["nothing said"]
        return f"its process ended with {ended.returncode}: {last[0]}"
    body = json.loads(ended.stdout.splitlines()[-1])  # vendor libraries may have said something before
    if "reason" in body:
        return str(body["reason"])
    cold_start_s = (body["first_result_ns"] - started_ns) / 1e9
    return Sample(cold_start_s, body["ms"], body["resident_bytes"], body["peak_bytes"])
