"""Where an anomaly is: Perlin noise as in DRAEM (Zavrtanik et al. 2021), blobs and scratches."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from trainer.config import SynthesisConfig

_TRIES = 20  # a drawn mask may be empty; a blob never is
_USUAL = SynthesisConfig()


def perlin_noise(height: int, width: int, rows: int, columns: int, rng: Generator) -> NDArray[np.float32]:
    """Gradient noise (Perlin 1985) on a lattice of rows x columns cells, scaled to about [-1, 1]; (height, width)."""
    angle = rng.uniform(0, 2 * np.pi, (rows + 1, columns + 1)).astype(np.float32)
    down, across = np.sin(angle), np.cos(angle)
    y = np.linspace(0, rows, height, endpoint=False, dtype=np.float32)
    x = np.linspace(0, columns, width, endpoint=False, dtype=np.float32)
    row, column = y.astype(np.intp), x.astype(np.intp)
    fy, fx = (y - row)[:, None], (x - column)[None, :]

    def corner(dy: int, dx: int) -> NDArray[np.float32]:
        x_part = across[row + dy].take(column + dx, axis=1)
        y_part = down[row + dy].take(column + dx, axis=1)
        x_part *= fx - dx
        y_part *= fy - dy
        x_part += y_part
        return x_part

    sy, sx = _smooth(fy), _smooth(fx)
    top = corner(0, 0) * (1 - sx) + corner(0, 1) * sx
    bottom = corner(1, 0) * (1 - sx) + corner(1, 1) * sx
    return np.asarray(np.sqrt(2) * (top * (1 - sy) + bottom * sy), np.float32)


def _smooth(t: NDArray[np.float32]) -> NDArray[np.float32]:
    """The quintic fade of Perlin 2002."""
    return np.asarray(t * t * t * (t * (t * 6 - 15) + 10), np.float32)


def perlin_mask(height: int, width: int, config: SynthesisConfig, rng: Generator) -> NDArray[np.bool_]:
    """Perlin noise at a random scale per axis (`perlin_scales`), rotated by up to 90 degrees, above a threshold."""
    least, most = config.perlin_scales
    rows, columns = 2 ** rng.integers(least, most + 1, size=2)
    side = int(np.ceil(np.hypot(height, width)))  # large enough that a rotation leaves no corner empty
    noise = perlin_noise(side, side, int(rows), int(columns), rng)
    turn = cv2.getRotationMatrix2D((side / 2, side / 2), rng.uniform(-90, 90), 1.0)
    turned = cv2.warpAffine(noise, turn, (side, side), borderMode=cv2.BORDER_REFLECT)
    y, x = (side - height) // 2, (side - width) // 2
    return np.asarray(turned[y : y + height, x : x + width] > config.perlin_threshold)


def blob_mask(height: int, width: int, rng: Generator, config: SynthesisConfig = _USUAL) -> NDArray[np.bool_]:
    """One to `blobs` ellipses, whose axes are of `blob_sizes`, each size as likely on a log scale; never empty."""
    mask = np.zeros((height, width), np.uint8)
    size, (least, most) = min(height, width), np.log(np.array(config.blob_sizes) / 2)
    for _ in range(rng.integers(1, config.blobs + 1)):
        centre = (int(rng.integers(0, width)), int(rng.integers(0, height)))
        axes = np.maximum(1, size * np.exp(rng.uniform(least, most, size=2))).astype(int)
        cv2.ellipse(mask, centre, (int(axes[0]), int(axes[1])), rng.uniform(0, 180), 0, 360, 1, -1)
    return mask.astype(bool)


def scratch_mask(height: int, width: int, rng: Generator, config: SynthesisConfig = _USUAL) -> NDArray[np.bool_]:
    """A line of a few pixels (`scratch_widths`, `scratch_lengths`), straight or wandering; never empty."""
    mask = np.zeros((height, width), np.uint8)
    steps = int(rng.integers(4, 12))
    length = min(height, width) * rng.uniform(*config.scratch_lengths) / steps
    heading = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, rng.uniform(0, config.scratch_wander), steps))
    start = rng.uniform(0, (width, height))
    path = start + np.cumsum(length * np.stack([np.cos(heading), np.sin(heading)], axis=1), axis=0)
    points = np.round(np.vstack([start, path])).astype(np.int32)
    odds = np.array(config.scratch_widths)
    pixels = 1 + int(rng.choice(len(odds), p=odds / odds.sum()))
    cv2.polylines(mask, [points], isClosed=False, color=1, thickness=pixels)
    mask[int(start[1]), int(start[0])] = 1
    return mask.astype(bool)


def _perlin(height: int, width: int, config: SynthesisConfig, rng: Generator) -> NDArray[np.bool_]:
    mask = perlin_mask(height, width, config, rng)
    if rng.random() < config.perlin_combined:
        other = perlin_mask(height, width, config, rng)
        mask = mask | other if rng.random() < config.perlin_union else mask & other
    return mask


def draw_mask(height: int, width: int, config: SynthesisConfig, rng: Generator) -> NDArray[np.bool_]:
    """A non-empty (height, width) mask of a kind drawn by the configured odds."""
    odds = np.array([config.perlin, config.blob, config.scratch], float)
    kind = rng.choice(3, p=odds / odds.sum())
    if kind == 2:
        return scratch_mask(height, width, rng, config)
    for _ in range(_TRIES if kind == 0 else 0):
        mask = _perlin(height, width, config, rng)
        if mask.any():
            return mask
    return blob_mask(height, width, rng, config)
