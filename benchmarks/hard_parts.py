"""The hard parts that users have, made from real photographs: a stand-in data set in MVTec layout.

    python -m benchmarks.hard_parts --source DATA/mvtec_bottle --out DIR [--cracks DIR] [--seed 0]

Parts lie in any orientation and anywhere on a larger, even ground. The pixels are real: good parts of the source set
(train/good for training, test/good for the rest), shrunk, turned and put onto a ground of the source's own colour.

| kind | what is on the part |
| --- | --- |
| `small` | a real defect of the source set, where it was on its part, shrunk to 0.1 to 0.3 % of the frame |
| `faint` | likewise, 0.3 to 0.8 % of the frame, with 4 to 10 grey levels left of its contrast |
| `hair_crack` | a real crack's course (--cracks: ground-truth masks), one to two pixels wide, of low contrast |

A real defect is lifted to the brightness of the place that it comes to and blended over a soft border, so no seam is
left around it. The same seed makes the same files. Pictures made of a set stay under that set's licence.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from benchmarks.made_set import SHEET, Made, new_folder, write_good, write_kind, write_sheet
from benchmarks.real_shapes import (
    Component,
    Image,
    Mask,
    centre_line,
    components,
    contrast,
    line_share,
    masks_below,
    membrane,
    place,
    scaled,
)
from edge_ad.console import Parser, run_command, say
from edge_ad.errors import DataError
from edge_ad.images import is_grey, list_images, read_image
from trainer.synthesis.foreground import foreground

FRAME_PX = 512
PART_SCALE = 0.62  # what is left of a part's size, against the frame
POSES = 2  # of each test part: in test/good and in each class of defects
HALO_PX = 5  # around the part that is taken along: its blurred edge and shadow
SOFT_PX = 2.0  # sigma of the border between part and ground
DEFECT_SOFT_PX = 1.0  # sigma of the border between defect and part
GRAIN = 1.0  # grey levels: the sensor's noise, which shrinking averages away
LARGEST = 0.05  # of its image: a larger defect, shrunk a hundredfold in area, is a smear
SMALL, FAINT = (0.00105, 0.00295), (0.003, 0.008)  # area of a defect as a fraction of the frame
FAINT_LEVELS, CRACK_LEVELS = (4.0, 10.0), (12.0, 28.0)  # mean change under the mask, or along the crack's middle
CRACK_PX, CRACK_LENGTH = (1.2, 2.0), (0.10, 0.30)  # width in pixels, length as a fraction of the frame
CRACK_LABEL_PX = 3  # how wide people draw the mask of a hair crack
TRIES = 10_000  # to find room for one defect
DARK = 90  # grey levels: in a darker surface a crack shows as a bright line


@dataclass(frozen=True, slots=True)
class Part:
    """A shrunk, upright part: (h, w, 3) uint8 BGR, its (h, w) mask, and the colour (3,) of its ground."""

    image: Image
    mask: Mask
    ground: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Pose:
    """Where a part lies: turned about its centre, which lies at (x, y) of the frame, pixels."""

    degrees: float
    x: float
    y: float


def main(argv: Sequence[str] | None = None) -> int:
    """Make the set."""
    parser = Parser(prog="benchmarks.hard_parts", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, metavar="SET", help="a set of parts on an even ground")
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parser.add_argument("--cracks", type=Path, help="default: ../magnetic_tile/ground_truth/crack beside the source")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    cracks = arguments.cracks or arguments.source.parent / "magnetic_tile" / "ground_truth" / "crack"
    return run_command(lambda: make(arguments.source, cracks, arguments.out, arguments.seed))


def make(source: Path, cracks: Path, out: Path, seed: int) -> int:
    """Read the source, write the set; returns 0.

    Raises:
        DataError: a folder lacks what is needed, or the parts do not lie on an even ground.
    """
    train, test = (list_images(source / split / "good") for split in ("train", "test"))
    lines = [centre_line(crack.mask) for crack in components(masks_below(cracks))]
    defects = [one for one in components(masks_below(source / "ground_truth")) if one.share <= LARGEST]
    if not defects:
        raise DataError(f"{source} has no defect of at most {LARGEST:.0%} of its image: choose another source")
    grey = is_grey(train[0])
    new_folder(out)
    write_good(out / "train" / "good", (_good(path, seed, 0) for path in train), grey)
    parts = [load_part(path) for path in test for _ in range(POSES)]
    write_good(out / "test" / "good", (_good(path, seed, 1 + pose) for path in test for pose in range(POSES)), grey)
    kinds = {
        "small": list(_transferred(parts, source, defects, SMALL, None, np.random.default_rng([seed, 10]))),
        "faint": list(_transferred(parts, source, defects, FAINT, FAINT_LEVELS, np.random.default_rng([seed, 11]))),
        "hair_crack": list(_cracked(parts, lines, np.random.default_rng([seed, 12]))),
    }
    for kind, made in kinds.items():
        write_kind(out, kind, made, grey)
    write_sheet(out / SHEET, kinds)
    say(f"{out / SHEET} shows some of each; its pictures stay under the licence of {source.name}")
    return 0


def _good(path: Path, seed: int, pose: int) -> Image:
    rng = np.random.default_rng([seed, pose, *path.stem.encode()])
    part = load_part(path)
    return grained(frame(part, draw_pose(part, rng)), rng)


def load_part(path: Path) -> Part:
    """Read a good image, shrink it, and find the part on its ground.

    Raises:
        DataError: no even ground surrounds the part.
    """
    image = read_image(path)
    return shrunk(image, PART_SCALE * FRAME_PX / max(image.shape[:2]), path)


def shrunk(image: Image, factor: float, path: Path) -> Part:
    """An image of a part, smaller; see `load_part`."""
    mask = foreground(image)
    if mask.all():
        raise DataError(f"no even ground around the part in {path}: choose a source whose parts lie on one")
    ground = np.median(image[~mask], axis=0).astype(np.float32)
    size = (round(image.shape[1] * factor), round(image.shape[0] * factor))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
    return Part(small, scaled(mask, factor), ground)


def draw_pose(part: Part, rng: Generator) -> Pose:
    """Any orientation, and any place at which all of the part is in the frame."""
    ys, xs = np.nonzero(part.mask)
    height, width = part.mask.shape
    reach = float(np.hypot(xs - (width - 1) / 2, ys - (height - 1) / 2).max()) + 2 * HALO_PX
    low, high = min(reach, FRAME_PX / 2), max(FRAME_PX - reach, FRAME_PX / 2)
    return Pose(rng.uniform(0, 360), rng.uniform(low, high), rng.uniform(low, high))


def frame(part: Part, pose: Pose) -> NDArray[np.float32]:
    """The part on a larger ground: (FRAME_PX, FRAME_PX, 3), grey levels."""
    size = 2 * HALO_PX + 1
    halo = cv2.dilate(part.mask.astype(np.uint8), cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size)))
    alpha = cv2.GaussianBlur(_posed(halo.astype(np.float32), pose, 0.0), (0, 0), SOFT_PX)[..., None]
    turned = _posed(part.image.astype(np.float32), pose, part.ground.tolist())
    return np.asarray(part.ground + alpha * (turned - part.ground), np.float32)


def framed_mask(mask: Mask, pose: Pose) -> Mask:
    """A mask on the part, in the frame."""
    return np.asarray(_posed(mask.astype(np.float32), pose, 0.0) >= 0.5)


def _posed(image: NDArray[np.float32], pose: Pose, outside: float | Sequence[float]) -> NDArray[np.float32]:
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), pose.degrees, 1.0)
    matrix[:, 2] += pose.x - (width - 1) / 2, pose.y - (height - 1) / 2
    method = cv2.INTER_CUBIC if image.ndim == 3 else cv2.INTER_LINEAR
    border = tuple(outside) if isinstance(outside, Sequence) else outside
    return np.asarray(cv2.warpAffine(image, matrix, (FRAME_PX, FRAME_PX), flags=method, borderValue=border), np.float32)


def grained(image: NDArray[np.float32], rng: Generator) -> Image:
    """A frame as a sensor gives it."""
    return np.clip(np.rint(image + rng.normal(0, GRAIN, image.shape)), 0, 255).astype(np.uint8)


def _transferred(
    parts: Sequence[Part],
    source: Path,
    defects: Sequence[Component],
    area: tuple[float, float],
    levels: tuple[float, float] | None,
    rng: Generator,
) -> Iterator[Made]:
    """Real defects on good parts; `levels` is the contrast that is left, None for their own."""
    for index, part in enumerate(parts):
        for _ in range(TRIES):
            defect = defects[int(rng.integers(len(defects)))]
            found = transfer(part, defect, _photograph(source, defect), rng.uniform(*area) * FRAME_PX**2, rng)
            if found is not None:
                break
        else:
            raise DataError(
                f"no defect of {source} finds room on a good part, where it was on its own: parts must lie alike"
            )
        bad, mask = found
        if levels is not None:
            bad = weakened(part, bad, mask, rng.uniform(*levels))
        yield _finished(part, bad, mask, np.random.default_rng([index, int(rng.integers(2**31))]))


def _photograph(source: Path, defect: Component) -> Image:
    name = defect.path.stem.removesuffix("_mask") + ".png"
    return read_image(source / "test" / defect.path.parent.name / name)


def transfer(
    part: Part, defect: Component, photograph: Image, area_px: float, rng: Generator
) -> tuple[Part, Mask] | None:
    """Put a real defect where it was on its own part, give or take a few pixels, shrunk to an area.

    Returns:
        The part with the defect and the defect's mask; None where it would leave the part.
    """
    factor = float(np.sqrt(area_px / defect.mask.sum()))
    patch, mask = _cut_out(photograph, defect, factor)
    to_part = part.image.shape[0] / photograph.shape[0]
    height, width = mask.shape
    centre = np.array([defect.x + defect.mask.shape[1] / 2, defect.y + defect.mask.shape[0] / 2]) * to_part
    x, y = (int(v) for v in np.rint(centre - (width / 2, height / 2) + rng.uniform(-6, 6, 2)))
    there = (slice(y, y + height), slice(x, x + width))
    if x < 0 or y < 0 or part.mask[there].shape != mask.shape or not part.mask[there][mask].all():
        return None
    image = part.image.astype(np.float32)
    image[there] = blended(image[there], patch, mask)
    whole = np.zeros(part.mask.shape, bool)
    whole[there] = mask
    return replace(part, image=np.clip(np.rint(image), 0, 255).astype(np.uint8)), whole


def blended(good: NDArray[np.float32], patch: NDArray[np.float32], mask: Mask) -> NDArray[np.float32]:
    """A patch with a real defect on a good one of the same (h, w, 3), grey levels, without a seam.

    The patch is lifted to the brightness around it: by the grey value of what Poisson's blending adds (colours keep
    as they are, or a dark defect out of bright surroundings turns blue).
    """
    pasted = cv2.dilate(mask.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    lift = (membrane(good, pasted) - membrane(patch, pasted)).mean(axis=2, keepdims=True)
    alpha = cv2.GaussianBlur(pasted.astype(np.float32), (0, 0), DEFECT_SOFT_PX)[..., None]
    return np.asarray(good + alpha * (np.clip(patch + lift, 0, 255) - good), np.float32)


def _cut_out(photograph: Image, defect: Component, factor: float) -> tuple[NDArray[np.float32], Mask]:
    """The shrunk defect and its mask, with a margin of some six pixels."""
    margin = int(np.ceil(6 / factor))
    bordered = cv2.copyMakeBorder(photograph, margin, margin, margin, margin, cv2.BORDER_REFLECT)
    height, width = (extent + 2 * margin for extent in defect.mask.shape)
    cut = bordered[defect.y : defect.y + height, defect.x : defect.x + width].astype(np.float32)
    mask = scaled(np.pad(defect.mask, margin), factor)
    return cv2.resize(cut, mask.shape[::-1], interpolation=cv2.INTER_AREA).astype(np.float32), mask


def weakened(good: Part, bad: Part, mask: Mask, levels: float) -> Part:
    """The defect with its contrast turned down to `levels` grey levels in the mean; weaker ones stay as they are."""
    keep = min(1.0, levels / max(1e-6, contrast(good.image, bad.image, mask)))
    mixed = good.image + keep * (bad.image.astype(np.float32) - good.image)
    return replace(bad, image=np.clip(np.rint(mixed), 0, 255).astype(np.uint8))


def _finished(good: Part, bad: Part, mask: Mask, rng: Generator) -> Made:
    """Both in the same pose and with the same grain."""
    pose, grain = draw_pose(good, rng), int(rng.integers(2**31))
    without, image = (grained(frame(part, pose), np.random.default_rng(grain)) for part in (good, bad))
    return Made(image, without, framed_mask(mask, pose))


def _cracked(parts: Sequence[Part], lines: Sequence[Mask], rng: Generator) -> Iterator[Made]:
    """Hair cracks on good parts, drawn at the frame's own resolution."""
    for part in parts:
        pose, grain = draw_pose(part, rng), int(rng.integers(2**31))
        clean = frame(part, pose)
        cracked, mask = crack(clean, framed_mask(part.mask, pose), lines, rng)
        without, image = (grained(one, np.random.default_rng(grain)) for one in (clean, cracked))
        yield Made(image, without, mask)


def crack(
    clean: NDArray[np.float32], part: Mask, lines: Sequence[Mask], rng: Generator
) -> tuple[NDArray[np.float32], Mask]:
    """A crack's course on the part: darker than a bright surface, brighter than a dark one, fading along its way.

    Returns:
        The frame with the crack, and the crack's mask.

    Raises:
        DataError: the part has no room for one.
    """
    for _ in range(TRIES):
        line = lines[int(rng.integers(len(lines)))]
        length = rng.uniform(*CRACK_LENGTH) * FRAME_PX
        share = line_share(line, length, rng.uniform(0, 360), rng.uniform(*CRACK_PX))
        covered = share > 0.35
        corner = place(covered, part, rng)
        if corner is not None:
            break
    else:
        raise DataError("no crack finds room on a part: it is too small in its frame")
    x, y = corner
    there = (slice(y, y + share.shape[0]), slice(x, x + share.shape[1]))
    level = float(np.median(clean[there].mean(axis=2)[covered]))
    sign = -1.0 if level > DARK else 1.0
    strength = sign * rng.uniform(*CRACK_LEVELS) * _fading(share.shape, rng)
    cracked = clean.copy()
    cracked[there] += (strength * share)[..., None]
    mask = np.zeros(part.shape, bool)
    mask[there] = cv2.dilate(covered.astype(np.uint8), np.ones((CRACK_LABEL_PX, CRACK_LABEL_PX), np.uint8)) > 0
    return cracked, mask


def _fading(shape: tuple[int, ...], rng: Generator) -> NDArray[np.float32]:
    """(h, w) in 0.5..1, smooth: a crack is not equally open along its way."""
    coarse = rng.uniform(0.5, 1.0, (4, 4)).astype(np.float32)
    return np.asarray(cv2.resize(coarse, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR), np.float32)


if __name__ == "__main__":
    sys.exit(main())
