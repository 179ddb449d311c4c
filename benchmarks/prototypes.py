"""How far the prototypes may move the logits, on the weights of one training, and prototypes found anew.

    python -m benchmarks.prototypes bounds RUN --data SET [--most 0 1 2.5 3 4]
    python -m benchmarks.prototypes anew RUN --out RUN2 [--count 2048] [--most 3]

No training sees the prototypes (docs/decisions/0008), so both can be decided without another one. `bounds` measures a
run on a set, a validation set to decide, with each of the bounds. `anew` copies a run, with the prototypes that today's
code finds among its training images; the weights of both networks are those of the training.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from edge_ad.console import Parser, run_command, say
from edge_ad.errors import DataError
from trainer.config import TrainConfig, dump, override
from trainer.data.folder import list_test
from trainer.evaluate import metrics, run_subject, score_images
from trainer.export import load_method
from trainer.methods.base import build_method
from trainer.methods.diffusionad.model import DiffusionAD
from trainer.run import load_checkpoint, open_run, put_weights, save_checkpoint, train_paths
from trainer.train import observe, whole_samples

FIGURES = ("image_auroc", "pixel_auroc", "aupro", "pixel_ap")
OWN = "prototypes."  # what the names of their weights begin with


def with_prototypes(config: TrainConfig, **changes: float) -> TrainConfig:
    """The configuration with other values of its section `prototypes`."""
    return override(config, [f"prototypes.{key}={value}" for key, value in changes.items()])


def bounds(path: Path, data: Path, most: Sequence[float]) -> int:
    """Say the figures of a run with each upper bound, over all and for each class.

    Raises:
        DataError: it has no prototypes, no checkpoint, or cannot be read; or there are no test images.
    """
    run, images = open_run(path), list_test(data)
    method = load_method(run)
    if not isinstance(method, DiffusionAD) or method.prototypes is None:
        raise DataError(f"{path} has no prototypes: train with prototypes.count above 0")
    classes = sorted({image.label for image in images if image.defect})
    say("| most | image AUROC | pixel AUROC | AUPRO | pixel AP | " + " | ".join(f"`{name}`" for name in classes) + " |")
    say("| --- " * (5 + len(classes)) + "|")
    for value in most:
        method.config = with_prototypes(run.config, most=value)
        found = metrics(score_images(run_subject(run, method.graph(), torch.device("cpu")), images))
        figures = [found[name] for name in FIGURES] + [found["per_defect"][name]["image_auroc"] for name in classes]
        cells = ["-" if figure is None else f"{figure:.3f}" for figure in figures]
        say(f"| {value:g} | {' | '.join(cells)} |")
    return 0


def anew(path: Path, out: Path, count: int | None, most: float | None) -> int:
    """Copy a run, with prototypes found anew.

    Raises:
        DataError: it has no checkpoint, or a training image has gone or changed; or `out` exists.
    """
    run = open_run(path)
    changes = {name: value for name, value in (("count", count), ("most", most)) if value is not None}
    config = with_prototypes(run.config, **changes)
    state, paths = load_checkpoint(path), train_paths(run)
    if out.exists():
        raise DataError(f"{out} exists: choose another --out")
    changed = replace(run, config=config)
    method = build_method(config, run.seed).eval()
    observe(method, whole_samples(changed, paths, []), run.seed)
    found = {name: value for name, value in method.state_dict().items() if name.startswith(OWN)}
    for part in ("model", "average"):
        state[part] = {name: value for name, value in state[part].items() if not name.startswith(OWN)} | found
        put_weights(method, state[part], changed)
    out.mkdir(parents=True)
    shutil.copy(path / "images.json", out)
    if (path / "calibration_split").is_dir():
        shutil.copytree(path / "calibration_split", out / "calibration_split", symlinks=True)
    (out / "config.yaml").write_text(dump(config), encoding="utf-8")
    save_checkpoint(out, state)
    say(f"run: {out}   next: edge-ad-train evaluate {out} --data SET")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Measure bounds, or find prototypes anew."""
    parser = Parser(prog="benchmarks.prototypes", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    measured = commands.add_parser("bounds", help="figures with each upper bound")
    measured.add_argument("run", type=Path)
    measured.add_argument("--data", type=Path, required=True, help="MVTec layout")
    measured.add_argument("--most", type=float, nargs="+", default=[0, 1, 2.5, 3, 4], help="logits")
    renewed = commands.add_parser("anew", help="a copy of a run, with today's prototypes")
    renewed.add_argument("run", type=Path)
    renewed.add_argument("--out", type=Path, required=True, help="a new run")
    renewed.add_argument("--count", type=int, help="of prototypes (default: the run's)")
    renewed.add_argument("--most", type=float, help="logits (default: the run's)")
    a = parser.parse_args(argv)
    if a.command == "bounds":
        return run_command(lambda: bounds(a.run, a.data, a.most))
    return run_command(lambda: anew(a.run, a.out, a.count, a.most))


if __name__ == "__main__":
    sys.exit(main())
