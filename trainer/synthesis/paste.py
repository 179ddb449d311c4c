"""One synthetic anomaly: a mask, a source, an opacity."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from trainer.config import SynthesisConfig
from trainer.synthesis import sources
from trainer.synthesis.masks import draw_mask

_TRIES = 5


def _source(
    good: Sequence[NDArray[np.uint8]],
    image: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    textures: Sequence[NDArray[np.uint8]],
    config: SynthesisConfig,
    rng: Generator,
) -> NDArray[np.uint8]:
    height, width = image.shape[:2]
    odds = np.array([config.texture, config.self_augment, config.cut_paste, config.missing], float)
    kind = rng.choice(4, p=odds / odds.sum())
    if kind == 1:
        return sources.self_augmented(image, config.shuffle, rng, config.shuffle_cells)
    if kind == 2:
        return sources.other_place(good[int(rng.integers(len(good)))], rng)
    if kind == 3:
        return sources.overgrown(image, mask)
    if textures:
        cut = sources.random_crop(textures[int(rng.integers(len(textures)))], height, width, rng)
        return sources.augment(cut, rng)
    return sources.augment(sources.procedural_texture(height, width, rng), rng)


def paste(
    image: NDArray[np.uint8], source: NDArray[np.uint8], mask: NDArray[np.bool_], keep: float, soft_edge_px: float
) -> NDArray[np.uint8]:
    """Blend a source into an image under a mask (DiffusionAD Eq. 1).

    Args:
        image, source: (H, W, 3) uint8.
        mask: (H, W).
        keep: weight of the original under the mask, 0..1.
        soft_edge_px: sigma of the blur of the mask's border.
    """
    alpha = mask.astype(np.float32)
    if soft_edge_px > 0:
        alpha = np.asarray(cv2.GaussianBlur(alpha, (0, 0), soft_edge_px), np.float32)
    weight = ((1.0 - keep) * alpha)[..., None]
    return np.clip(np.rint(image + weight * (source.astype(np.float32) - image)), 0, 255).astype(np.uint8)


def changed(before: NDArray[np.uint8], after: NDArray[np.uint8], least: float) -> NDArray[np.bool_]:
    """Where a pixel or a neighbour of it changed by at least `least` of full scale in some channel; (H, W)."""
    first, second, third = cv2.split(cv2.absdiff(before, after))
    difference = cv2.max(cv2.max(first, second), third)
    near = cv2.dilate((difference >= least * 255).astype(np.uint8), np.ones((3, 3), np.uint8))
    return near.astype(bool)


def anomalous(
    good: Sequence[NDArray[np.uint8]],
    image: NDArray[np.uint8],
    textures: Sequence[NDArray[np.uint8]],
    grey: bool,
    config: SynthesisConfig,
    rng: Generator,
    part: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Put a synthetic anomaly on a good image.

    A paste can come out invisible (white on white): pixels that did not change are not labelled, and a draw without a
    visible pixel is drawn anew a few times. The mask may then still be empty: the sample is a good one.

    Args:
        good: (H, W, 3) uint8 RGB images to cut from.
        image: (H, W, 3) uint8 RGB, one of them.
        textures: (h, w, 3) uint8 RGB of any size; empty for procedural ones.
        grey: the parts are grey, so a coloured defect would be too easy: take the source's lightness.
        config: what is drawn, and how.
        rng: what it is drawn from.
        part: (H, W), where the anomaly may be; None: anywhere.

    Returns:
        The image with the anomaly, and its (H, W) mask.
    """
    height, width = image.shape[:2]
    allowed = np.ones((height, width), bool) if part is None else part
    for _ in range(_TRIES if allowed.any() else 0):
        mask = draw_mask(height, width, config, rng) & allowed
        source = _source(good, image, mask, textures, config, rng)
        if grey:
            source = sources.to_grey(source)
        pasted = paste(image, source, mask, rng.uniform(config.keep_min, config.keep_max), config.soft_edge_px)
        label = mask & changed(image, pasted, config.visible) if config.visible > 0 else mask
        if label.any():
            return pasted, label
    return image, np.zeros((height, width), bool)
