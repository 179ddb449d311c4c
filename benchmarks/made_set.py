"""A made data set in MVTec layout: writing it, counting it, a contact sheet of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from benchmarks.real_shapes import Image, Mask, contrast
from edge_ad.console import say
from edge_ad.errors import DataError
from edge_ad.images import write_png
from edge_ad.pictures import captioned, outlined, sheet

SHEET = "contact_sheet.png"
COLUMNS = 3
SHOWN = 6  # of each kind, on the sheet


@dataclass(frozen=True, slots=True)
class Made:
    """A picture with a made defect: (H, W, 3) uint8 BGR, the same without it, and the (H, W) mask."""

    image: Image
    without: Image
    mask: Mask

    @property
    def share(self) -> float:
        """Area of the defect as a fraction of the frame."""
        return float(self.mask.mean())

    @property
    def contrast(self) -> float:
        """Mean change under the mask, grey levels."""
        return contrast(self.without, self.image, self.mask)


def new_folder(out: Path) -> None:
    """Make the folder of the set.

    Raises:
        DataError: it is there already and holds something.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} is not empty: name a new folder")
    out.mkdir(parents=True, exist_ok=True)


def write_good(folder: Path, images: Iterable[Image], grey: bool) -> None:
    """Write good images, numbered, and say how many; `grey` stores one channel, as the set they come from does."""
    folder.mkdir(parents=True)
    count = 0
    for image in images:
        write_png(folder / f"{count:03d}.png", _stored(image, grey))
        count += 1
    say(f"{folder.parent.name}/{folder.name:6} {count:4} images")


def _stored(image: Image, grey: bool) -> Image:
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), np.uint8) if grey else image


def write_kind(out: Path, kind: str, made: Sequence[Made], grey: bool) -> None:
    """Write a class of defects with its masks, and say what was made."""
    for sub in ("test", "ground_truth"):
        (out / sub / kind).mkdir(parents=True)
    for index, one in enumerate(made):
        write_png(out / "test" / kind / f"{index:03d}.png", _stored(one.image, grey))
        write_png(out / "ground_truth" / kind / f"{index:03d}_mask.png", one.mask.astype(np.uint8) * 255)
    shares = np.percentile([100 * one.share for one in made], (0, 50, 100))
    levels = np.percentile([one.contrast for one in made], (0, 50, 100))
    spread = "{:.3g} to {:.3g} (median {:.3g})"
    area = spread.format(shares[0], shares[2], shares[1])
    say(f"{kind:12} {len(made):4} images, area {area} % of the frame, contrast "
        f"{spread.format(levels[0], levels[2], levels[1])} grey levels")  # fmt: skip


def write_sheet(path: Path, kinds: Mapping[str, Sequence[Made]]) -> None:
    """Some of each kind, and beside each the same with its mask outlined."""
    pictures = [
        captioned(np.hstack([one.image, outlined(one.image, one.mask)]), f"{kind}: {one.share:.2%}, {one.contrast:.0f}")
        for kind, made in kinds.items()
        for one in made[:SHOWN]
    ]
    write_png(path, sheet(pictures, COLUMNS))
