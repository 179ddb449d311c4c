"""Which mirror images and turns of a good part are as good, found in the good images themselves.

Good images are mirrored, or turned at random, and a classifier learns to tell them from the images as they are: a
two-sample test. In a set of parts that lie in any orientation, or of a texture without direction, it cannot. Where it
can, what is turned is no good part: a small inscription, the course of a grain, which side the light comes from.

It sees what the pretrained network sees (`trainer.nets.pretrained`), averaged over coarse cells and over the whole
image, so neither the place of a part matters much nor its noise. Images are turned as training turns them
(`trainer.data.variation`): a canvas that is not square keeps its shape, and what comes in from beyond its border is
its mirror image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from edge_ad.console import tracked
from trainer.nets.pretrained import PretrainedFeatures

PIXELS = 128 * 128  # of the images that are compared, about
LEAST = 16  # pixels of a side: a feature of the largest stride
FINE = 2  # times as many pixels along each axis have the images that are turned
IMAGES = 120  # that are asked, at most
CELLS = 4  # along each axis
SETTLES = 2.0  # degrees: an image that is not turned is turned by so little, since resampling shows
FOLDS = 10
RIDGE = 0.01  # of the mean squared length of what is learnt from
ALLOWED = 0.75  # share told apart. Measured: 0.3 to 0.7 where it is a symmetry, 0.85 and more where not
FEWEST = 40  # images: of fewer, drawn from a set without symmetry, some seem to have one (docs/decisions/0012)


@dataclass(frozen=True, slots=True)
class Symmetry:
    """Ways to turn a good image that leave it a good one: mirrored left to right, top to bottom, at any angle."""

    left_right: bool = False
    top_bottom: bool = False
    any_angle: bool = False

    def __str__(self) -> str:
        names = ("mirrored left to right", "mirrored top to bottom", "at any angle")
        found = [name for name, holds in zip(names, astuple(self), strict=True) if holds]
        return ", ".join(found) or "none"


STRAIGHT = Symmetry()  # none at all


@dataclass(frozen=True, slots=True)
class Symmetries:
    """Of images that are at least as wide as tall, and of taller ones: a part that stands has other axes."""

    lying: Symmetry = STRAIGHT
    standing: Symmetry = STRAIGHT
    too_few: bool = False  # images of one kind, or of both, to tell: of that kind, none was looked for

    def of(self, height: int, width: int) -> Symmetry:
        """Of an image of so many pixels."""
        return self.standing if height > width else self.lying

    def __str__(self) -> str:
        found = f"{self.lying} (images that lie), {self.standing} (images that stand)"
        if self.lying == self.standing:
            found = str(self.lying)
        few = f" (fewer than {FEWEST} images cannot tell; data.flip and data.rotate_deg say what holds)"
        return found + few * self.too_few


def find_symmetries(good: Sequence[NDArray[np.uint8]]) -> Symmetries:
    """What good images, (H, W, 3) uint8 each, of one shape or of that and the same turned, say of their symmetry."""
    standing = [image for image in good if image.shape[0] > image.shape[1]]
    lying = [image for image in good if image.shape[0] <= image.shape[1]]
    too_few = any(0 < len(images) < FEWEST for images in (lying, standing))
    if not lying or not standing:
        only = find_symmetry(lying or standing)
        return Symmetries(only, only, too_few)
    return Symmetries(find_symmetry(lying), find_symmetry(standing), too_few)


def find_symmetry(good: Sequence[NDArray[np.uint8]]) -> Symmetry:
    """The symmetry of good images of one shape, (H, W, 3) uint8 RGB each; none where there are too few to tell.

    Raises:
        ConfigError: the pretrained network is not installed.
    """
    if len(good) < FEWEST:
        return STRAIGHT
    net = PretrainedFeatures().eval()
    height, width = _size(*good[0].shape[:2])
    chosen = np.linspace(0, len(good) - 1, min(len(good), IMAGES)).astype(int)
    fine = [_shrunk(good[i], FINE * height, FINE * width) for i in chosen]
    rng = np.random.default_rng(0)
    little, any_angle = (rng.uniform(-1, 1, len(fine)) * reach for reach in (SETTLES, 180))
    seen = []
    for i, image in enumerate(tracked(fine, "symmetry of the parts")):
        straight = _shrunk(image, height, width)
        ways = (straight, straight[:, ::-1], straight[::-1], _turned(image, little[i]), _turned(image, any_angle[i]))
        seen.append([_features(net, way) for way in ways])
    asked, *mirrored, settled, turned = np.stack(seen, axis=1)
    left_right, top_bottom = (told_apart(asked, mirror) for mirror in mirrored)
    if told_apart(settled, turned) > ALLOWED:
        return Symmetry(left_right=left_right <= ALLOWED, top_bottom=top_bottom <= ALLOWED)
    either = (left_right + top_bottom) / 2 <= ALLOWED  # at any angle, one mirror image is the other, turned
    return Symmetry(left_right=either, top_bottom=either, any_angle=True)


def told_apart(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """The share that a linear classifier gets right of images that it has not seen; 0.5 is chance.

    Ridge regression on the kind, cross-validated; an image and what was made of it, the same row of both, are never on
    two sides.

    Args:
        first, second: (N, D) features of two kinds of images.
    """
    count = len(first)
    both, kind = np.concatenate([first, second]), np.repeat([1.0, -1.0], count)
    fold = np.tile(np.random.default_rng(0).permutation(count) % min(FOLDS, count), 2)
    right = np.empty(2 * count, bool)
    for left_out in range(fold.max() + 1):
        seen, asked = fold != left_out, fold == left_out
        spread = both[seen].std(axis=0)
        scaled = (both - both[seen].mean(axis=0)) / (spread + 1e-3 * spread.mean() + 1e-12)
        products = scaled @ scaled[seen].T
        among = products[seen]
        weights = np.linalg.solve(
            among + (RIDGE * np.trace(among) / len(among) + 1e-12) * np.eye(len(among)), kind[seen]
        )
        right[asked] = np.sign(products[asked] @ weights) == kind[asked]
    return float(right.mean())


def _size(height: int, width: int) -> tuple[int, int]:
    """A size of the same shape with about PIXELS pixels, (height, width); at most half as large.

    What was never shrunk shows by its grain whether it was turned.
    """
    shrink = min(math.sqrt(PIXELS / (height * width)), 1 / FINE)
    tall, wide = (max(LEAST, round(side * shrink)) for side in (height, width))
    return tall, wide


def _shrunk(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Area averages where it shrinks."""
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def _turned(image: NDArray[np.uint8], degrees: float) -> NDArray[np.uint8]:
    """(FINE x h, FINE x w, 3) turned and shrunk, (h, w, 3); grey where not all angles show the same part."""
    height, width = image.shape[:2]
    turned = cv2.warpAffine(
        image, turn(height, width, degrees), (width, height), borderMode=cv2.BORDER_REFLECT_101
    ).astype(np.uint8)
    small = _shrunk(turned, height // FINE, width // FINE)
    small[~_disc(*small.shape[:2])] = 128
    return small


def turn(height: int, width: int, degrees: float, zoom: float = 1.0) -> NDArray[np.float64]:
    """The (2, 3) matrix that turns an image about its middle, the same here and in training."""
    return np.asarray(cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, zoom))


def _disc(height: int, width: int) -> NDArray[np.bool_]:
    """The pixels that stay inside at any angle; along the shorter side all of them, as training shows them."""
    y, x = np.mgrid[:height, :width]
    distance = (y - (height - 1) / 2) ** 2 + (x - (width - 1) / 2) ** 2
    return np.asarray(distance <= (max(height, width) / 2 - 1) ** 2)


@torch.no_grad()
def _features(net: PretrainedFeatures, image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(D,): mean and standard deviation of each feature of an (h, w, 3) image, in each cell and over all."""
    x = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float() / 255
    parts = [part for level in net.raw(x) for cells in (CELLS, 1) for part in _moments(level.double(), cells)]
    return torch.cat(parts).numpy()


def _moments(level: torch.Tensor, cells: int) -> list[torch.Tensor]:
    """(1, C, h, w) -> mean and standard deviation over each of cells x cells, (C x cells^2,) each."""
    mean, square = (F.adaptive_avg_pool2d(x, cells) for x in (level, level.square()))
    return [mean.flatten(), (square - mean.square()).clamp(min=0).sqrt().flatten()]
