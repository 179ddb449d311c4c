"""Measure all engines in turn, round after round: what slows the machine for a while then slows them alike.

Bare convolutions have a turn in each round too: the ceiling that the engines are compared with is of the same minutes.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edge_ad.backends.base import OPENERS, PRECISIONS
from edge_ad.bench.ceiling import LIBRARIES
from edge_ad.bench.figures import Sample, Workload
from edge_ad.bundle import MODEL_FILE, Bundle
from edge_ad.config import BackendConfig, Precision
from edge_ad.console import tracked
from edge_ad.errors import BackendError, ConfigError

WORKER = "edge_ad.bench.worker"
CEILING = "edge_ad.bench.ceiling"
CEILING_S = 0.2  # for each chain of convolutions
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


@dataclass
class Measured:
    """What the rounds have brought.

    Attributes:
        samples: engine -> one sample a round.
        refused: engine -> why it could not be measured.
        rates: precision -> library and chain of convolutions -> 1e9 multiply-accumulates a second, one a round.
        no_rates: library and precision -> why its convolutions could not be measured.
    """

    samples: dict[BackendConfig, list[Sample]] = field(default_factory=dict)
    refused: dict[BackendConfig, str] = field(default_factory=dict)
    rates: dict[Precision, dict[str, list[float]]] = field(default_factory=dict)
    no_rates: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CeilingTurn:
    """The turn of a library's bare convolutions on the CPU."""

    library: str
    precision: Precision

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.library} {self.precision}"


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
        if file in bundle.manifest.files and precision in PRECISIONS[engine.name]
        if backend in (ALL, engine.name)
    ]


def label(engine: BackendConfig) -> str:
    """An engine on one line: "openvino cpu fp32"."""
    return f"{engine.name} {engine.device} {engine.precision}"


def run_rounds(bundle: Bundle, engines: Sequence[BackendConfig], rounds: int, workload: Workload) -> Measured:
    """Measure each engine once a round, every other round in reverse; one that fails is not tried again.

    Raises:
        BackendError: none could be measured; with each one's reason.
    """
    found = Measured()
    one_round: list[BackendConfig | CeilingTurn] = [*engines, *ceiling_turns(engines)]
    turns = [turn for number in range(rounds) for turn in (one_round if number % 2 == 0 else reversed(one_round))]
    for turn in tracked(turns, "measuring"):
        if isinstance(turn, CeilingTurn):
            _take_rates(found, turn)
        elif turn not in found.refused:
            _take_sample(found, turn, bundle, workload)
    if not found.samples:
        reasons = "; ".join(f"{label(engine)}: {reason}" for engine, reason in found.refused.items())
        raise BackendError(f"no engine could be measured: {reasons}")
    return found


def ceiling_turns(engines: Sequence[BackendConfig]) -> list[CeilingTurn]:
    """Every library in each precision that an engine on the CPU is measured in."""
    wanted = {engine.precision for engine in engines if engine.device == "cpu"}
    return [
        CeilingTurn(library, precision)
        for library, (precisions, _) in LIBRARIES.items()
        for precision in precisions
        if precision in wanted
    ]


def _take_sample(found: Measured, engine: BackendConfig, bundle: Bundle, workload: Workload) -> None:
    sample = run_worker(bundle.path, engine, workload)
    if isinstance(sample, str):
        found.refused[engine] = sample
        found.samples.pop(engine, None)
    else:
        found.samples.setdefault(engine, []).append(sample)


def _take_rates(found: Measured, turn: CeilingTurn) -> None:
    """Nothing to take where no engine runs in that precision, or the library failed before."""
    if turn.label in found.no_rates or turn.precision not in {engine.precision for engine in found.samples}:
        return
    body = run_process([CEILING, turn.library, turn.precision, str(CEILING_S)])
    if isinstance(body, str):
        found.no_rates[turn.label] = body
        return
    of_precision = found.rates.setdefault(turn.precision, {})
    for chain, rate in body["rates"].items():
        of_precision.setdefault(f"{turn.library}, {chain}", []).append(rate)


def run_worker(bundle: Path, engine: BackendConfig, workload: Workload) -> Sample | str:
    """Measure one engine in a process of its own; the reason where there is no measurement."""
    started_ns = time.monotonic_ns()  # one clock for all processes of a machine
    body = run_process([WORKER, str(bundle), engine.model_dump_json(), json.dumps(asdict(workload))])
    if isinstance(body, str):
        return body
    cold_start_s = (body["first_result_ns"] - started_ns) / 1e9
    return Sample(cold_start_s, body["ms"], body["resident_bytes"], body["peak_bytes"])


def run_process(arguments: list[str]) -> dict[str, Any] | str:
    """Run one of our modules; the JSON that it says last, or the reason why it says none."""
    command = [sys.executable, "-m", *arguments]
    try:
        ended = subprocess.run(  # noqa: S603 - our own module, our own arguments
            command, capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"it did not end within {LIMIT_S:g} s"
    if ended.returncode != 0:
        last = ended.stderr.strip().splitlines()[-1:] or ["nothing said"]
        return f"its process ended with {ended.returncode}: {last[0]}"
    body: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])  # vendor libraries may have said something before
    return str(body["reason"]) if "reason" in body else body
