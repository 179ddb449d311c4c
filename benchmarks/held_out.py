r"""A validation set from held-out good images: hyper-parameters are decided on it, never on test images.

    python -m benchmarks.held_out --run-data DATA/SET --other DATA/OTHERSET --textures DATA/textures_dtd --out DIR \
        [--good RUN/calibration_split] [--seed 0]

No test image of SET is read. Every second held-out image stays good; on the others lie defects with the shapes of
OTHERSET's ground-truth masks and looks that the trainer's own synthesis does not draw, from faint to plain. A
quarter of them is cut off by the border of the part, or of the frame:

| kind | look under the shape |
| --- | --- |
| `texture` | a photographed texture, at an opacity of 0.15 to 1 |
| `blur` | out of focus |
| `shade` | brighter or darker, with more or less contrast |
| `displaced` | what lies some pixels beside it |
| `line` | the shape thinned to a dark line of one to three pixels |
| `stain` | brighter or darker, large (3 to 30 % of the frame) and with a soft border |

Held out are the last fifth of the sorted train/good, or the images of --good: where photographs show the same part more
than once, give all of some parts, or what is held out has been seen. What is left of train/good is copied, so
that `edge-ad-train train --data DIR` trains on none of them. The same seed makes the same files. Pictures made of a set
stay under that set's licence.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from benchmarks.made_set import SHEET, Made, new_folder, write_good, write_kind, write_sheet
from benchmarks.real_shapes import (
    Image,
    Mask,
    centre_line,
    components,
    contrast,
    laid,
    line_share,
    masks_below,
    place,
    place_at_border,
    scaled,
    turned,
)
from edge_ad.console import Parser, run_command, say, tracked
from edge_ad.errors import DataError
from edge_ad.images import is_grey, list_images, read_image, sha256_file
from trainer.data.folder import load_textures
from trainer.synthesis.foreground import foreground
from trainer.synthesis.paste import changed
from trainer.synthesis.sources import random_crop, to_grey

HELD_OUT = 0.2
SMALL = (0.0005, 0.03)  # of the frame, drawn evenly over its logarithm
LARGE = (0.03, 0.3)
AT_BORDER = 0.25  # share of the defects that the border of the part, or of the frame, cuts off
SOFT_PX = 1.0  # sigma of a defect's border
SOFT_SHARE = 0.15  # that of a large one, of the square root of its area
LEAST_LEVELS = 3.0  # mean change under the mask: fainter ones are drawn anew
COARSE_PX = 2.0  # sigma that smooths a texture's grain away
SEEN = 2 / 255  # of full scale: what changed less is not labelled
TRIES = 100

Look = Callable[[Image, Mask, Generator], Image]  # an image, where the defect will be, a random source -> its look


@dataclass(frozen=True, slots=True)
class Shapes:
    """What another set's defects look like: their masks, and the same thinned to lines."""

    masks: list[Mask]
    lines: list[Mask]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of defects.

    Attributes:
        look: what lies under the shape.
        thin: the shape is thinned to a line.
        coarse: it must also be seen in a smoothed picture: other grains of the same texture are no defect.
        large: of an area in LARGE, not SMALL, and with a soft border.
    """

    look: Look
    thin: bool = False
    coarse: bool = False
    large: bool = False

    @property
    def largest_side(self) -> float:
        """What a shape may span, of the frame."""
        return 0.9 if self.large else 0.5

    def soft_px(self, area: float) -> float:
        """Sigma of the border of a shape of so many pixels."""
        return SOFT_SHARE * float(np.sqrt(area)) if self.large else SOFT_PX

    def plainness(self, made: Made) -> float:
        """How well it is seen: mean change under the mask, grey levels."""
        if not self.coarse:
            return made.contrast
        smooth = [np.asarray(cv2.GaussianBlur(one, (0, 0), COARSE_PX), np.uint8) for one in (made.without, made.image)]
        return contrast(smooth[0], smooth[1], made.mask)


def main(argv: Sequence[str] | None = None) -> int:
    """Make the set."""
    parser = Parser(prog="benchmarks.held_out", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--run-data", type=Path, required=True, metavar="SET", help="the set that is trained on")
    parser.add_argument("--other", type=Path, required=True, metavar="SET", help="the set whose shapes are taken")
    parser.add_argument("--textures", type=Path, required=True, metavar="DIR", help="photographs of textures")
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parser.add_argument("--good", type=Path, metavar="DIR", help="the held-out images (RUN/calibration_split)")
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args(argv)
    return run_command(lambda: make(a.run_data, a.other, a.textures, a.out, a.good, a.seed))


def make(data: Path, other: Path, textures: Path, out: Path, good: Path | None, seed: int) -> int:
    """Split the good images and write the set; returns 0.

    Raises:
        DataError: a folder lacks what is needed.
    """
    train, held = split(list_images(data / "train" / "good"), good)
    masks = [component.mask for component in components(masks_below(other / "ground_truth"))]
    shapes = Shapes(masks, [centre_line(mask) for mask in masks])
    photographs = [np.ascontiguousarray(texture[:, :, ::-1]) for texture in load_textures(textures)]
    grey = is_grey(held[0])
    new_folder(out)
    (out / "train" / "good").mkdir(parents=True)
    for path in train:
        shutil.copyfile(path, out / "train" / "good" / path.name)
    say(f"train/good   {len(train):4} images, copied")
    write_good(out / "test" / "good", map(read_image, held[::2]), grey)
    written = {}
    for index, (name, kind) in enumerate(kinds(photographs, grey).items()):
        rng = np.random.default_rng([seed, index])
        written[name] = [defect(read_image(path), kind, shapes, rng) for path in tracked(held[1::2], name)]
        write_kind(out, name, written[name], grey)
    height, width = (min(one.mask.shape[axis] for made in written.values() for one in made) for axis in (0, 1))
    write_sheet(out / SHEET, {name: [_fitted(one, height, width) for one in made] for name, made in written.items()})
    say(f"{out / SHEET} shows some of each; its pictures stay under the licences of {data.name} and {textures.name}")
    return 0


def split(paths: Sequence[Path], good: Path | None) -> tuple[list[Path], list[Path]]:
    """The images to train on and those held out, by content where the latter are given.

    Raises:
        DataError: fewer than two images are held out, or nothing is left to train on.
    """
    if good is None:
        first_held = len(paths) - round(HELD_OUT * len(paths))
        train, held = list(paths[:first_held]), list(paths[first_held:])
    else:
        held = list_images(good)
        contents = {sha256_file(path) for path in held}
        train = [path for path in paths if sha256_file(path) not in contents]
    if len(held) < 2 or not train:
        raise DataError(
            f"{len(held)} images held out, {len(train)} left to train on: need two and one; add good images"
        )
    return train, held


def kinds(photographs: Sequence[Image], grey: bool) -> Mapping[str, Kind]:
    """The kinds of defects."""
    return {
        "texture": Kind(partial(_texture, photographs, grey), coarse=True),
        "blur": Kind(_blur),
        "shade": Kind(_shade, coarse=True),
        "displaced": Kind(_displaced, coarse=True),
        "line": Kind(_dark, thin=True),
        "stain": Kind(_shade, coarse=True, large=True),
    }


def _texture(photographs: Sequence[Image], grey: bool, image: Image, mask: Mask, rng: Generator) -> Image:
    photograph = photographs[int(rng.integers(len(photographs)))]
    x, y, w, h = cv2.boundingRect(mask.astype(np.uint8))
    zoom = rng.uniform(0.25, 1.0)  # a whole photograph may come down to a small defect
    smaller = cv2.resize(photograph, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
    cut = random_crop(smaller, h, w, rng)
    look = image.copy()
    look[y : y + h, x : x + w] = to_grey(cut) if grey else cut
    return _mixed(image, look, float(np.exp(rng.uniform(np.log(0.15), 0))))


def _blur(image: Image, mask: Mask, rng: Generator) -> Image:
    del mask
    return np.asarray(cv2.GaussianBlur(image, (0, 0), rng.uniform(0.006, 0.03) * min(image.shape[:2])), np.uint8)


def _shade(image: Image, mask: Mask, rng: Generator) -> Image:
    levels = rng.choice((-1.0, 1.0)) * np.exp(rng.uniform(np.log(5), np.log(50)))
    mean = image[mask].mean(axis=0)
    return _to_uint8(mean + rng.uniform(0.5, 1.4) * (image - mean) + levels)


def _displaced(image: Image, mask: Mask, rng: Generator) -> Image:
    x, y, w, h = cv2.boundingRect(mask.astype(np.uint8))
    angle, reach = rng.uniform(0, 2 * np.pi), rng.uniform(0.02, 0.12) * min(image.shape[:2])
    left = int(np.clip(round(x + reach * np.cos(angle)), 0, image.shape[1] - w))
    top = int(np.clip(round(y + reach * np.sin(angle)), 0, image.shape[0] - h))
    look = image.copy()
    look[y : y + h, x : x + w] = image[top : top + h, left : left + w]
    return look


def _dark(image: Image, mask: Mask, rng: Generator) -> Image:
    del mask
    return _to_uint8(image - np.exp(rng.uniform(np.log(8), np.log(60))))


def _mixed(image: Image, look: Image, opacity: float) -> Image:
    return _to_uint8(image + opacity * (look.astype(np.float32) - image))


def _to_uint8(image: NDArray[np.floating]) -> Image:
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def defect(image: Image, kind: Kind, shapes: Shapes, rng: Generator) -> Made:
    """One defect on the part.

    Draws anew until it can be seen; after many attempts the plainest one is taken.

    Raises:
        DataError: no shape finds room on the part.
    """
    part = foreground(image)
    masks = shapes.lines if kind.thin else shapes.masks
    best: Made | None = None
    for _ in range(TRIES):
        share = _drawn(masks[int(rng.integers(len(masks)))], kind, part, rng)
        made = None if share is None else _laid(image, kind.look, share, rng)
        if made is not None and (best is None or kind.plainness(made) > kind.plainness(best)):
            best = made
            if kind.plainness(best) >= LEAST_LEVELS:
                return best
    if best is None:
        raise DataError("no shape of the other set finds room on the part: choose another one")
    return best


def _drawn(shape: Mask, kind: Kind, part: Mask, rng: Generator) -> NDArray[np.float32] | None:
    """A shape at a place of the part, turned and scaled at random: (H, W) share of each pixel that it covers."""
    size = min(part.shape)
    if kind.thin:
        length = rng.uniform(0.05, kind.largest_side) * size
        cover = line_share(shape, length, rng.uniform(0, 360), rng.uniform(0.8, 2.5))
    else:
        area = np.exp(rng.uniform(*np.log(LARGE if kind.large else SMALL))) * part.size
        longest = kind.largest_side * size / np.hypot(*shape.shape)
        mask = turned(scaled(shape, min(float(np.sqrt(area / shape.sum())), longest)), rng.uniform(0, 360))
        cover = np.pad(mask, 3).astype(np.float32)
    at_border = rng.random() < AT_BORDER
    corner = place_at_border(cover > 0.5, part, rng) if at_border else place(cover > 0.5, part, rng)
    if corner is None:
        return None
    whole = laid(cover, corner, part.shape) * part
    if not (whole > 0.5).any():
        return None
    if kind.thin:
        return whole
    return np.asarray(cv2.GaussianBlur(whole, (0, 0), kind.soft_px(float((cover > 0.5).sum()))), np.float32)


def _laid(image: Image, look: Look, share: NDArray[np.float32], rng: Generator) -> Made | None:
    """The look under the shape; None where softness left none of it, or less than half of it can be seen."""
    shape = share > 0.5
    if not shape.any():
        return None
    seen = look(image, shape, rng)
    after = _to_uint8(image + share[..., None] * (seen.astype(np.float32) - image))
    mask = shape & changed(image, after, SEEN)
    if 2 * mask.sum() < shape.sum():
        return None
    return Made(after, image, mask)


def _fitted(made: Made, height: int, width: int) -> Made:
    """Cut around the defect to one size, for the sheet."""
    x, y, w, h = cv2.boundingRect(made.mask.astype(np.uint8))
    top = int(np.clip(y + h // 2 - height // 2, 0, made.mask.shape[0] - height))
    left = int(np.clip(x + w // 2 - width // 2, 0, made.mask.shape[1] - width))
    there = (slice(top, top + height), slice(left, left + width))
    return Made(made.image[there], made.without[there], made.mask[there])


if __name__ == "__main__":
    sys.exit(main())
