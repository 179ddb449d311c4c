"""What an anomaly looks like: a texture, the image itself made strange, or another place of a good image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from trainer.synthesis.masks import perlin_noise

Image = NDArray[np.uint8]
LEVELS = np.arange(256)


def _to_uint8(image: NDArray[Any]) -> Image:
    rounded: Image = np.clip(np.rint(image), 0, 255).astype(np.uint8)
    return rounded


def by_level(image: Image, table: NDArray[Any]) -> Image:
    """Each grey level replaced by its entry of a (256,) or (256, 3) table, rounded."""
    return cv2.LUT(image, _to_uint8(table)[None]).astype(np.uint8, copy=False)


def _gamma(image: Image, rng: Generator) -> Image:
    return by_level(image, np.stack([255 * (LEVELS / 255) ** rng.uniform(0.5, 2.0) for _ in range(3)], axis=-1))


def _brightness(image: Image, rng: Generator) -> Image:
    return by_level(image, LEVELS * rng.uniform(0.7, 1.3) + rng.uniform(-40, 40))


def _contrast(image: Image, rng: Generator) -> Image:
    mean = np.mean(cv2.mean(image)[:3])
    return by_level(image, (LEVELS - mean) * rng.uniform(0.4, 2.0) + mean)


def _invert(image: Image, _: Generator) -> Image:
    return np.asarray(255 - image)


def _solarize(image: Image, rng: Generator) -> Image:
    return np.where(image < rng.integers(32, 224), image, 255 - image).astype(np.uint8)


def _posterize(image: Image, rng: Generator) -> Image:
    keep = 256 - 2 ** int(rng.integers(4, 8))
    return np.asarray(np.bitwise_and(image, np.uint8(keep)), np.uint8)


def _hue(image: Image, rng: Generator) -> Image:
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV).astype(np.int16)
    hsv[..., 0] = (hsv[..., 0] + rng.integers(0, 180)) % 180
    hsv[..., 1] = np.clip(hsv[..., 1] + rng.integers(-50, 51), 0, 255)
    return cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2RGB).astype(np.uint8, copy=False)


def _sharpness(image: Image, rng: Generator) -> Image:
    smooth = cv2.GaussianBlur(image, (0, 0), 1.5).astype(np.float32)
    return _to_uint8(smooth + (image - smooth) * rng.uniform(0.0, 3.0))


def _equalize(image: Image, _: Generator) -> Image:
    return np.stack([cv2.equalizeHist(np.ascontiguousarray(image[..., c])) for c in range(3)], axis=-1).astype(np.uint8)


def _rotate(image: Image, rng: Generator) -> Image:
    height, width = image.shape[:2]
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), rng.uniform(-45, 45), 1.0)
    return cv2.warpAffine(image, turn, (width, height), borderMode=cv2.BORDER_REFLECT).astype(np.uint8, copy=False)


OPERATIONS: Sequence[Callable[[Image, Generator], Image]] = (
    _gamma,
    _brightness,
    _contrast,
    _invert,
    _solarize,
    _posterize,
    _hue,
    _sharpness,
    _equalize,
    _rotate,
)


def augment(image: Image, rng: Generator) -> Image:
    """Three different operations of `OPERATIONS` on an (H, W, 3) uint8 RGB image (DRAEM, section 3.3)."""
    for index in rng.choice(len(OPERATIONS), 3, replace=False):
        image = OPERATIONS[index](image, rng)
    return image


def shuffle_grid(image: Image, rng: Generator, cells: int = 8) -> Image:
    """Exchange rows, then columns, of a cells x cells grid (self-augmentation of DiffusionAD)."""
    height, width = image.shape[:2]
    rows = np.concatenate([np.arange(height).reshape(cells, -1)[i] for i in rng.permutation(cells)])
    columns = np.concatenate([np.arange(width).reshape(cells, -1)[i] for i in rng.permutation(cells)])
    return np.ascontiguousarray(image[rows][:, columns])


def self_augmented(image: Image, shuffle: float, rng: Generator, cells: int = 8) -> Image:
    """The image itself, re-coloured and, with probability `shuffle`, shuffled in a grid of cells x cells."""
    augmented = augment(image, rng)
    return shuffle_grid(augmented, rng, cells) if rng.random() < shuffle else augmented


def other_place(image: Image, rng: Generator) -> Image:
    """A good image shifted (wrapping), mirrored and turned at random: right material, wrong place."""
    height, width = image.shape[:2]
    shifted = np.roll(image, (int(rng.integers(0, height)), int(rng.integers(0, width))), axis=(0, 1))
    if rng.random() < 0.5:
        shifted = shifted[:, ::-1]
    turned = _rotate(np.ascontiguousarray(shifted), rng)
    return _brightness(turned, rng) if rng.random() < 0.5 else turned


def overgrown(image: Image, mask: NDArray[np.bool_]) -> Image:
    """The image with what is under a mask gone: the surroundings, smoothed, grow over it.

    A normalised convolution (Knutsson and Westin 1993): the mean of the pixels outside the mask, weighted by a
    Gaussian as wide as the mask is.
    """
    height, width = mask.shape
    sigma = max(2.0, float(np.sqrt(mask.sum())) / 2)
    step = max(1, int(sigma / 4))  # a wide Gaussian is as smooth on a coarser grid, and far cheaper
    coarse = (max(1, width // step), max(1, height // step))
    known = (~mask).astype(np.float32)
    weighted = np.dstack([image * known[..., None], known])
    blurred = cv2.GaussianBlur(cv2.resize(weighted, coarse, interpolation=cv2.INTER_AREA), (0, 0), sigma / step)
    filled = cv2.resize(blurred[..., :3] / np.maximum(blurred[..., 3:], 1e-6), (width, height))
    return np.where(mask[..., None], _to_uint8(filled), image)


def procedural_texture(height: int, width: int, rng: Generator) -> Image:
    """A texture from nothing: two random colours mixed by one or two octaves of Perlin noise, or by stripes."""
    low, high = rng.uniform(0, 255, (2, 3))
    rows, columns = 2 ** rng.integers(1, 7, size=2)
    mix = perlin_noise(height, width, int(rows), int(columns), rng)
    if rng.random() < 0.5:
        mix = mix + 0.5 * perlin_noise(height, width, int(min(2 * rows, 64)), int(min(2 * columns, 64)), rng)
    if rng.random() < 0.3:
        mix = np.sin(mix * rng.uniform(4, 20))
    share = np.clip(0.5 + 0.5 * mix, 0, 1)[..., None]
    grain = rng.normal(0, rng.uniform(0, 20), (height, width, 1))
    return _to_uint8(low + (high - low) * share + grain)


def to_grey(image: Image) -> Image:
    """The lightness of an RGB image, in all three channels."""
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB).astype(np.uint8, copy=False)


def random_crop(image: Image, height: int, width: int, rng: Generator) -> Image:
    """A (height, width) cut of a texture, which is enlarged first where it is too small."""
    factor = max(height / image.shape[0], width / image.shape[1], 1.0)
    if factor > 1:
        size = (int(np.ceil(image.shape[1] * factor)), int(np.ceil(image.shape[0] * factor)))
        image = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR).astype(np.uint8, copy=False)
    y = int(rng.integers(0, image.shape[0] - height + 1))
    x = int(rng.integers(0, image.shape[1] - width + 1))
    return np.ascontiguousarray(image[y : y + height, x : x + width])
