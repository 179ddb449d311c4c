"""Large frames with small defects of real shape: a set to train on, and what of its defects reaches the graph.

    python -m benchmarks.large_frames make DATA/magnetic_tile OUT --cells 4
    python -m benchmarks.large_frames fade OUT --tiles 1 2 4

`make` lays out mosaics: a frame is cells x cells pictures of good parts, each 256 x 256 pixels, and a defective frame
has one picture of a defective part among them. MVTec layout, so the trainer takes it as it is. `fade` needs no
training: it takes each defective frame and the same with the defect painted over (cv2.inpaint), fits both to the canvas
of a layout, and tells how much of their difference is left, and how many defects cover no pixel of the canvas by half.
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from edge_ad.core.layout import Layout
from edge_ad.core.preprocess import on_canvas
from edge_ad.images import list_images, read_image, write_png
from trainer.data.folder import TestImage, list_test, load_mask

CELL = 256
TILE, OVERLAP = 256, 32
EASY = ("uneven", "break")  # of magnetic_tile: half an image, and another face of the part


@dataclass(frozen=True, slots=True)
class Faded:
    """A defect on a canvas: the difference that is left of its own, 0..1, and whether a pixel is covered by half."""

    contrast: float
    covered: bool


def make(data: Path, out: Path, cells: int, frames: int, defects: int, seed: int) -> None:
    """Lay out the set: `frames` good ones to train on, a third as many to test, and `defects` of the small defects."""
    rng = np.random.default_rng(seed)
    train, test = list_images(data / "train" / "good"), list_images(data / "test" / "good")
    for folder, paths, count in (("train/good", train, frames), ("test/good", test, frames // 3)):
        (out / folder).mkdir(parents=True)
        for number in range(count):
            write_png(out / folder / f"{number:04d}.png", mosaic(paths, cells, rng))
    small = [image for image in list_test(data) if image.mask is not None and image.label not in EASY]
    for image in small[:: max(1, len(small) // defects)]:
        _write_defective(out, image, mosaic(test, cells, rng), rng)


def mosaic(paths: list[Path], cells: int, rng: Generator) -> NDArray[np.uint8]:
    """As many rows as columns of the pictures, drawn at random; BGR."""
    drawn = rng.choice(len(paths), cells * cells, replace=len(paths) < cells * cells)
    pictures = [_cell(read_image(paths[i])) for i in drawn]
    return np.vstack([np.hstack(pictures[row * cells : (row + 1) * cells]) for row in range(cells)])


def _write_defective(out: Path, image: TestImage, frame: NDArray[np.uint8], rng: Generator) -> None:
    cells = frame.shape[0] // CELL
    y, x = (CELL * int(place) for place in rng.integers(0, cells, 2))
    mask = np.zeros(frame.shape[:2], np.uint8)
    part = read_image(image.path)
    frame[y : y + CELL, x : x + CELL] = _cell(part)
    mask[y : y + CELL, x : x + CELL] = _cell(load_mask(image, part.shape[:2], None).astype(np.uint8) * 255) > 127
    if not mask.any():
        return
    for folder, name, picture in (("test", "", frame), ("ground_truth", "_mask", mask * 255)):
        (out / folder / image.label).mkdir(parents=True, exist_ok=True)
        write_png(out / folder / image.label / f"{image.path.stem}{name}.png", picture)


def _cell(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return cv2.resize(picture, (CELL, CELL), interpolation=cv2.INTER_AREA).astype(np.uint8)


def fade(data: Path, grids: list[int]) -> None:
    """Print, for each grid, what is left of the defects."""
    images = [image for image in list_test(data) if image.defect and image.mask is not None]
    kinds = sorted({image.label for image in images})
    print(f"{'tiles':6} {'canvas':10} {'defect':10} {'frames':>6} {'contrast kept':>14} {'no pixel half covered':>22}")
    for grid in grids:
        layout = Layout(TILE, TILE, "stretch", grid, grid, OVERLAP)
        faded = [(image.label, faded_of(image, layout)) for image in images]
        for kind in kinds:
            of_kind = [found for label, found in faded if label == kind]
            kept = statistics.median(found.contrast for found in of_kind)
            lost = sum(not found.covered for found in of_kind) / len(of_kind)
            size = "x".join(map(str, layout.canvas[::-1]))
            print(f"{grid}x{grid:<4} {size:10} {kind:10} {len(of_kind):6} {kept:14.2f} {lost:22.0%}")


def faded_of(image: TestImage, layout: Layout) -> Faded:
    """What is left of one defect."""
    frame = read_image(image.path)
    mask = load_mask(image, frame.shape[:2], None).astype(np.uint8)
    healed = cv2.inpaint(frame, cv2.dilate(mask, np.ones((5, 5), np.uint8)), 5, cv2.INPAINT_TELEA).astype(np.uint8)
    own = _peak(frame, healed)
    left = _peak(on_canvas(frame, None, layout), on_canvas(healed, None, layout))
    height, width = layout.canvas
    coverage = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    return Faded(left / max(own, 1.0), bool((coverage >= 0.5).any()))


def _peak(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> float:
    """The largest difference of grey level, of a full scale of 255."""
    return float(cv2.absdiff(first, second).max())


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("make")
    making.add_argument("data", type=Path)
    making.add_argument("out", type=Path)
    making.add_argument("--cells", type=int, default=4)
    making.add_argument("--frames", type=int, default=150)
    making.add_argument("--defects", type=int, default=70)
    making.add_argument("--seed", type=int, default=0)
    fading = commands.add_parser("fade")
    fading.add_argument("data", type=Path)
    fading.add_argument("--tiles", type=int, nargs="+", default=[1, 2, 4])
    arguments = parser.parse_args()
    if arguments.command == "make":
        make(arguments.data, arguments.out, arguments.cells, arguments.frames, arguments.defects, arguments.seed)
    else:
        fade(arguments.data, arguments.tiles)


if __name__ == "__main__":
    main()
