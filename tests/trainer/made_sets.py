"""A set of parts small enough for the tests of made data sets: discs on a white ground, with chips."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_ad.images import write_png

SIDE = 160


def disc(seed: int, ground: int = 250) -> NDArray[np.uint8]:
    """A good part: a dark disc with grain, a bright mark on it, on an even ground."""
    rng = np.random.default_rng(seed)
    image = np.full((SIDE, SIDE, 3), ground, np.uint8)
    cv2.circle(image, (SIDE // 2, SIDE // 2), 60, (60, 70, 80), -1, cv2.LINE_AA)
    cv2.line(image, (80, 30), (80, 60), (150, 150, 150), 3)
    grain = rng.normal(0, 3, image.shape) * (image < ground)
    return np.clip(image + grain, 0, 255).astype(np.uint8)


def make_parts(root: Path, n_train: int = 4, n_test: int = 2, grey: bool = False) -> Path:
    """An MVTec layout with the class `chip`."""
    for sub in ("train/good", "test/good", "test/chip", "ground_truth/chip"):
        (root / sub).mkdir(parents=True)
    for i in range(n_train):
        _write(root / f"train/good/{i:03d}.png", disc(i), grey)
    for i in range(n_test):
        _write(root / f"test/good/{i:03d}.png", disc(100 + i), grey)
        bad, mask = disc(200 + i), np.zeros((SIDE, SIDE), np.uint8)
        cv2.ellipse(mask, (100, 90 + 5 * i), (9, 5), 30, 0, 360, 255, -1)
        bad[mask > 0] = (220, 225, 230)
        _write(root / f"test/chip/{i:03d}.png", bad, grey)
        write_png(root / f"ground_truth/chip/{i:03d}_mask.png", mask)
    return root


def _write(path: Path, image: NDArray[np.uint8], grey: bool) -> None:
    write_png(path, np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), np.uint8) if grey else image)


def make_cracks(folder: Path) -> Path:
    """Two ground-truth masks of cracks."""
    folder.mkdir(parents=True)
    for i in range(2):
        mask = np.zeros((SIDE, SIDE), np.uint8)
        points = np.array([[20, 30], [50, 45 + 10 * i], [80, 60], [130, 90]], np.int32)
        cv2.polylines(mask, [points], isClosed=False, color=255, thickness=4)
        write_png(folder / f"{i}_mask.png", mask)
    return folder


def files(root: Path) -> dict[str, bytes]:
    """All files below a folder, by their path in it."""
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}
