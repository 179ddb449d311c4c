"""Ours beside PatchCore, PaDiM and DRAEM: same images, same masks, same machine, one table.

    make peers-venv
    .venv-peers/bin/python -m benchmarks.peers --data DATA/SET --results benchmarks/results [--method patchcore]
        [--method draem --minutes 60 --textures DATA/textures_dtd] [--ours RUN_OR_BUNDLE ...]

Each method is fitted to the good images that a training of ours with this seed uses, as ours sees them, and measured by
our evaluation.
Each leaves one result JSON, and all results of the set make the table (also: edge-ad-train results).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.peers.measure import Task, View, apart, fit, measure, measure_ours, view_of
from benchmarks.peers.methods import LAYERS, PATCHCORE_STRIDES, PEERS, Settings
from edge_ad.console import Parser, run_command, say
from edge_ad.errors import ConfigError
from trainer.config import DataConfig
from trainer.results import Result, on_set, read_results, write_result
from trainer.tables import summary, trained


def main(argv: Sequence[str] | None = None) -> int:
    """Fit, measure, keep, and print the table."""
    arguments = _parser().parse_args(argv)
    return run_command(lambda: _run(arguments))


def _parser() -> Parser:
    hold_out = DataConfig().hold_out
    parser = Parser(prog="benchmarks.peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="SET", help="MVTec layout")
    parser.add_argument("--results", type=Path, required=True, help="folder of results")
    parser.add_argument("--method", choices=[*PEERS, "all", "none"], default="all")
    parser.add_argument("--ours", type=Path, nargs="*", default=[], metavar="RUN_OR_BUNDLE", help="measured likewise")
    parser.add_argument("--backend", help="for bundles of ours (default: onnxruntime); a run is measured in torch")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hold-out", type=float, default=hold_out, help=f"of the good images (default: {hold_out})")
    parser.add_argument("--coreset", type=float, default=0.01, help="share of patches that PatchCore keeps (0.01)")
    parser.add_argument(
        "--strides",
        type=int,
        nargs="+",
        choices=list(LAYERS),
        default=PATCHCORE_STRIDES,
        help="of the features that PatchCore takes (default: 4 8)",
    )
    parser.add_argument("--minutes", type=float, default=0.0, help="of DRAEM's training")
    parser.add_argument("--textures", type=Path, metavar="DIR", help="photographs of textures, for DRAEM")
    parser.add_argument("--note", default="", help="a remark that the results keep")
    return parser


def _run(arguments: argparse.Namespace) -> int:
    if not 0 < arguments.coreset <= 1 or not 0 <= arguments.hold_out < 1:
        raise ConfigError("--coreset must be above 0 and at most 1, --hold-out at least 0 and below 1")
    view = view_of(arguments.ours)
    for name in _methods(arguments):
        say(f"{name}: {write_result(arguments.results, _peer(name, arguments, view))}")
    for path in arguments.ours:
        result = apart(measure_ours, path, arguments.data, arguments.backend, arguments.note)
        say(f"{path}: {write_result(arguments.results, result)}")
    measured = on_set(read_results(arguments.results), arguments.data)
    say(summary(trained(measured)))
    return 0


def _methods(arguments: argparse.Namespace) -> list[str]:
    if arguments.method == "none":
        return []
    if arguments.method != "all":
        return [arguments.method]
    return [name for name in PEERS if name != "draem" or arguments.minutes > 0]


def _peer(name: str, arguments: argparse.Namespace, view: View) -> Result:
    strides = tuple(sorted(set(arguments.strides)))
    settings = Settings(arguments.seed, arguments.coreset, arguments.minutes, arguments.textures, strides)
    with tempfile.TemporaryDirectory() as folder:
        task = Task(name, arguments.data, view, arguments.hold_out, settings, Path(folder) / "model.pt")
        training = apart(fit, task)
        return apart(measure, task, training, arguments.note)


if __name__ == "__main__":
    sys.exit(main())
