"""What a bundle should run like on a Jetson, before there is one: a roofline over the graph's layers.

    python -m benchmarks.roofline BUNDLE|PROFILE [--json FILE]

A profile's graph (trainer/profiles) is exported untrained: its layers are the same. The time is that of a frame: of all
the tiles of a bundle, of a single one for a profile. In INT8 all of them count as INT8;
those that a bundle's INT8 graph leaves out, for its accuracy, count as FP16, which an engine computes them in.

For each convolution and matrix product the larger of two times counts: its multiply-accumulates at the tensor cores'
dense peak, and its weights, input and output at the memory's bandwidth. Everything else is taken as fused into them.
That is a bound no engine passes. What engines reach of such a bound is taken from a published figure of one of these
boards (`REACHED`), and each layer is given a start-up time (`LAYER_S`). docs/jetson.md has the table, and how to check
it on a board.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import ModelProto

from edge_ad.bundle import QuantisationSummary, open_bundle
from edge_ad.console import Parser, run_command
from trainer.config import profile
from trainer.export import export_graph
from trainer.macs import Layer, layers
from trainer.methods.base import build_method
from trainer.qdq import convolutions


@dataclass(frozen=True, slots=True)
class Board:
    """A Jetson module's GPU at its largest power mode.

    Attributes:
        tensor_cores: their number.
        fp16_per_clock: dense FP16 operations of one tensor core in a clock, a multiply-accumulate being two.
        ghz: largest GPU clock.
        gbytes_per_s: of the memory, shared with the CPU.
    """

    name: str
    tensor_cores: int
    fp16_per_clock: int
    ghz: float
    gbytes_per_s: float


# Cores, clocks and bandwidth as NVIDIA publishes them. INT8 is taken as twice FP16. The "TOPS" of data sheets are
# sparse, which is twice again: 4 x 16.7 = 67 for the Orin Nano; for the Thor 8 x 257 = 2,060 TFLOPS, in FP4.
BOARDS = (
    Board("Orin Nano 8 GB, 15 W (JetPack 6.0)", 32, 512, 0.625, 68.0),
    Board("Orin Nano 8 GB, MAXN Super", 32, 512, 1.02, 102.0),
    Board("Orin NX 16 GB, 25 W", 32, 512, 0.918, 102.0),
    Board("AGX Orin 64 GB, MAXN", 64, 512, 1.3, 204.8),
    Board("AGX Thor (T5000), MAXN", 80, 2048, 1.57, 273.0),
)
BYTES = {"fp16": 2, "int8": 1}
FASTER = {"fp16": 1, "int8": 2}  # than FP16, on the tensor cores

# YOLOX-S at 640 x 640 has 26.8 GFLOP and ran at 97.8 frames/s in FP16 on an Orin Nano at 15 W (trtexec; Idein,
# aicast_jetson_benchmark): 2.62 TFLOP/s, a quarter of that board's 10.2.
REACHED = 26.8e9 * 97.8 / (32 * 512 * 0.625e9)
# Its layers are ten times ours; small ones also wait for each other. An assumption: so long for each, on any board.
LAYER_S = 5e-6


@dataclass(frozen=True, slots=True)
class Prediction:
    """One board and precision; times of one frame, ms, and frames/s of the engine alone."""

    board: str
    precision: str
    bound_ms: float
    compute_ms: float
    memory_ms: float
    expected_ms: float
    expected_per_s: float


@dataclass(frozen=True, slots=True)
class Subject:
    """What is predicted.

    Attributes:
        layers: that multiply, for a frame: for all its tiles.
        left_in_fp16: those that a bundle's INT8 graph does not compute in INT8; none without such a graph.
    """

    layers: Sequence[Layer]
    left_in_fp16: frozenset[str]


def predict(
    found: Sequence[Layer], board: Board, precision: str, left_out: Collection[str] = frozenset()
) -> Prediction:
    """The roofline of a graph's layers, of which some stay in FP16 whatever the precision."""
    peak = board.tensor_cores * board.fp16_per_clock * board.ghz * 1e9
    typed = [(layer, "fp16" if layer.name in left_out else precision) for layer in found]
    compute = [2 * layer.macs / (peak * FASTER[own]) for layer, own in typed]
    memory = [layer.elements * BYTES[own] / (board.gbytes_per_s * 1e9) for layer, own in typed]
    bound_s = sum(map(max, compute, memory))
    expected_s = bound_s / REACHED + LAYER_S * len(found)
    ms = [1e3 * seconds for seconds in (bound_s, sum(compute), sum(memory), expected_s)]
    return Prediction(board.name, precision, *ms, expected_per_s=1 / expected_s)


def table(predictions: Sequence[Prediction]) -> list[str]:
    """As Markdown."""
    lines = ["| board | precision | bound, ms | expected, ms | expected frames/s |", "| --- | --- | --- | --- | --- |"]
    for found in predictions:
        rounded = float(f"{found.expected_per_s:.2g}")
        times = f"{found.bound_ms:.2f} | {found.expected_ms:.1f}"
        lines.append(f"| {found.board} | {found.precision.upper()} | {times} | {rounded:g} |")
    return lines


def summary(found: Sequence[Layer]) -> str:
    """What the prediction is made from."""
    macs = sum(layer.macs for layer in found)
    megabytes = sum(layer.elements for layer in found) * BYTES["fp16"] / 1e6
    assumed = f"{REACHED:.0%} of the bound reached, {LAYER_S * 1e6:g} us for each layer"
    return f"{len(found)} layers, {macs / 1e9:.2f} GMACs, {megabytes:.0f} MB moved in FP16; assumed: {assumed}"


def read(name: str) -> Subject:
    """A bundle, or a profile: of a single tile, with all layers in INT8."""
    if not Path(name).is_dir():
        config = profile(name)
        return Subject(layers(export_graph(build_method(config, 0).eval(), config).model), frozenset())
    bundle = open_bundle(Path(name))
    model = onnx.load(bundle.model_path("fp32"))
    found = layers(model, bundle.manifest.input.frame_layout().tiles)
    return Subject(found, _left_in_fp16(model, found, bundle.manifest.int8))


def _left_in_fp16(model: ModelProto, found: Sequence[Layer], int8: QuantisationSummary | None) -> frozenset[str]:
    if int8 is None:
        return frozenset()
    quantised = {node.name for layer, node in convolutions(model).items() if layer not in int8.fp32_layers}
    return frozenset(layer.name for layer in found) - quantised


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("graph", metavar="BUNDLE|PROFILE")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    return run_command(lambda: _run(given.graph, given.json))


def _run(graph: str, json_path: Path | None) -> int:
    subject = read(graph)
    found, left_out = subject.layers, subject.left_in_fp16
    predictions = [predict(found, board, precision, left_out) for board in BOARDS for precision in BYTES]
    print(summary(found), *table(predictions), sep="\n")
    if left_out:
        print(f"INT8: {len(left_out)} of {len(found)} layers stay in FP16")
    if json_path is not None:
        rows = [{name: getattr(row, name) for name in Prediction.__slots__} for row in predictions]
        json_path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
