"""How far the prototypes may move the logits, on the weights of one training, and prototypes found anew.

    python -m benchmarks.prototypes bounds RUN --data SET [--most 0 1 2.5 3 4]
    python -m benchmarks.prototypes spoilt RUN --data SET [--share 0 0.01 0.03 0.1]
    python -m benchmarks.prototypes anew RUN --out RUN2 [--count 2048] [--most 3]

No training sees the prototypes (docs/decisions/0008), so all of this is found without another one. `bounds` measures a
run on a set, a validation set to decide, with each of the bounds. `spoilt` measures it with defective images of the set
among the good ones that prototypes are found in, as where nobody has looked through them; the networks have not seen
those. `anew` copies a run, with the prototypes that today's code finds among its training images; the weights of both
networks are those of the training.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from edge_ad.console import Parser, run_command, say
from edge_ad.errors import DataError
from trainer.config import TrainConfig, dump, override
from trainer.data.folder import TestImage, list_test
from trainer.evaluate import metrics, run_subject, score_images
from trainer.export import load_method
from trainer.methods.base import build_method
from trainer.methods.diffusionad.model import DiffusionAD
from trainer.run import Run, load_checkpoint, open_run, put_weights, save_checkpoint, train_paths
from trainer.train import OBSERVED, observe, whole_samples

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
    run, method = _opened(path)
    images = list_test(data)
    _say_head("most", images)
    for value in most:
        method.config = with_prototypes(run.config, most=value)
        _say_row(f"{value:g}", run, method, images)
    return 0


def spoilt(path: Path, data: Path, shares: Sequence[float]) -> int:
    """Say the figures of a run with a share of defective images among those that its prototypes are found in.

    Whatever the share, the same images are measured: none that is among the good ones for any of them.

    Raises:
        DataError: as `bounds`; or a training image has gone or changed; or a share is below 0, or would leave
            less than half of the defective images to measure.
    """
    run, method = _opened(path)
    images, good = list_test(data), train_paths(run)[:OBSERVED]
    defective = [image for image in images if image.defect]
    counts = [round(share * len(good)) for share in shares]
    if min(counts) < 0 or max(counts) > len(defective) / 2:
        bound = len(defective) / 2 / len(good)
        raise DataError(f"{data} has {len(defective)} defective images: each --share must be from 0 to {bound:.3f}")
    order = np.random.default_rng(run.seed).permutation(len(defective))[: max(counts)]
    taken = [defective[place] for place in order]
    measured = [image for image in images if image not in taken]
    _say_head("defective among good", measured)
    for count in counts:
        seen = [*good[count:], *(image.path for image in taken[:count])]
        observe(method, whole_samples(run, seen, []), run.seed)
        _say_row(f"{count} of {len(seen)}", run, method, measured)
    return 0


def _opened(path: Path) -> tuple[Run, DiffusionAD]:
    """A run and its networks, which must have prototypes."""
    run = open_run(path)
    method = load_method(run)
    if not isinstance(method, DiffusionAD) or method.prototypes is None:
        raise DataError(f"{path} has no prototypes: train with prototypes.count above 0")
    return run, method


def _say_head(first: str, images: Sequence[TestImage]) -> None:
    classes = _classes(images)
    names = "".join(f" `{name}` |" for name in classes)
    say(f"| {first} | image AUROC | pixel AUROC | AUPRO | pixel AP |{names}")
    say("| --- " * (5 + len(classes)) + "|")


def _say_row(first: str, run: Run, method: DiffusionAD, images: Sequence[TestImage]) -> None:
    """Measure and say the figures over all, and the image AUROC of each class."""
    found = metrics(score_images(run_subject(run, method.graph(), torch.device("cpu")), images))
    figures = [found[name] for name in FIGURES]
    figures += [found["per_defect"][name]["image_auroc"] for name in _classes(images)]
    cells = ["-" if figure is None else f"{figure:.3f}" for figure in figures]
    say(f"| {first} | {' | '.join(cells)} |")


def _classes(images: Sequence[TestImage]) -> list[str]:
    return sorted({image.label for image in images if image.defect})


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
    measured.add_argument("--most", type=float, nargs="+", default=[0, 1, 2.5, 3, 4], help="logits")
    mixed = commands.add_parser("spoilt", help="figures with defective images among the good ones")
    mixed.add_argument("--share", type=float, nargs="+", default=[0, 0.01, 0.03, 0.1], help="0 to 1")
    for command in (measured, mixed):
        command.add_argument("run", type=Path)
        command.add_argument("--data", type=Path, required=True, help="MVTec layout")
    renewed = commands.add_parser("anew", help="a copy of a run, with today's prototypes")
    renewed.add_argument("run", type=Path)
    renewed.add_argument("--out", type=Path, required=True, help="a new run")
    renewed.add_argument("--count", type=int, help="of prototypes (default: the run's)")
    renewed.add_argument("--most", type=float, help="logits (default: the run's)")
    a = parser.parse_args(argv)
    if a.command == "bounds":
        return run_command(lambda: bounds(a.run, a.data, a.most))
    if a.command == "spoilt":
        return run_command(lambda: spoilt(a.run, a.data, a.share))
    return run_command(lambda: anew(a.run, a.out, a.count, a.most))


if __name__ == "__main__":
    sys.exit(main())
