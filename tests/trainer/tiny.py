"""A training small enough for a test: 32 x 32 pixels, two levels, procedural parts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_ad.images import write_png
from trainer.config import TrainConfig, parse

if TYPE_CHECKING:
    from lightning_fabric import Fabric

TINY: dict[str, object] = {
    "profile": "tiny",
    "method": "diffusionad",
    "top_k": 10,
    "input": {"height": 32, "width": 32},
    "data": {"hold_out": 0.25},
    "diffusion": {"prediction": "x0", "near": 0.5},
    "fold": 2,
    "denoiser": {"kind": "edge", "widths": [8, 16]},
    "segmenter": {"kind": "edge", "widths": [8, 16]},
    "loss": {"restore": 1.0},
    "optim": {"batch": 4, "steps": 6, "denoiser_lr": 1e-3, "segmenter_lr": 1e-3, "ema": 0.9, "grad_clip": 1.0},
    "synthesis": {"perlin": 0.5, "blob": 0.5, "cut_paste": 0.5, "visible": 0.02},
}


def tiny_config(**changes: object) -> TrainConfig:
    """The tiny configuration with some sections replaced."""
    return parse({**TINY, **changes}, "tiny")


def one_process() -> Fabric:
    """The engine of a training on one CPU; needs torch."""
    import torch

    from trainer.distributed import open_fabric

    return open_fabric(torch.device("cpu"), processes=1, nodes=1)


def tiny_bundle(root: Path) -> Path:
    """Train the tiny configuration for its six steps and export it, model.pt2 included; needs torch."""
    from trainer.data.folder import split_good
    from trainer.export import export
    from trainer.run import create
    from trainer.train import train

    run = create(root / "run", tiny_config(), split_good(make_dataset(root / "data"), 0.25, 0), 0)
    train(run, one_process(), None, resume=False, workers=0)
    return export(run.path, root / "bundle", program=True).path


def part(seed: int, size: int = 48) -> NDArray[np.uint8]:
    """A good part: a bright disc on a dark ground, with grain."""
    rng = np.random.default_rng(seed)
    image = np.full((size, size, 3), 40, np.uint8)
    cv2.circle(image, (size // 2, size // 2), size // 3, (180, 170, 160), -1)
    return np.clip(image + rng.normal(0, 4, image.shape), 0, 255).astype(np.uint8)


def make_dataset(root: Path, n_train: int = 8, n_test: int = 3) -> Path:
    """An MVTec layout with one defect class, `hole`, and its masks."""
    for sub in ("train/good", "test/good", "test/hole", "ground_truth/hole"):
        (root / sub).mkdir(parents=True)
    for i in range(n_train):
        write_png(root / f"train/good/{i:03d}.png", part(i))
    for i in range(n_test):
        write_png(root / f"test/good/{i:03d}.png", part(100 + i))
        bad, mask = part(200 + i), np.zeros((48, 48), np.uint8)
        cv2.circle(mask, (20 + i, 24), 6, 255, -1)
        bad[mask > 0] = 0
        write_png(root / f"test/hole/{i:03d}.png", bad)
        write_png(root / f"ground_truth/hole/{i:03d}_mask.png", mask)
    return root


def name_in_latin_1(data: Path) -> None:
    r"""Rename the class `hole` of `make_dataset` to L\xf6cher and its first image to kratz\xfcr.png: no UTF-8."""
    for folder, suffix in (("test", ".png"), ("ground_truth", "_mask.png")):
        hole = data / folder / "hole"
        (hole / f"000{suffix}").rename(hole / (os.fsdecode(b"kratz\xfcr") + suffix))
        hole.rename(hole.with_name(os.fsdecode(b"L\xf6cher")))
