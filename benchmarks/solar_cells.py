"""Solar cells in MVTec layout: real defects to decide on, which are no test images of ours.

    python -m benchmarks.solar_cells --out DIR [--crystal poly] [--seed 0]

The monocrystalline or the polycrystalline cells of the `elpv-dataset` package (CC BY-NC-SA 4.0), linked, not copied: of
the good ones 168 to measure, drawn by the seed, the others to train on, and all that every expert called defective.
There are no masks, so `edge-ad-train evaluate` has image figures only. Polycrystalline cells have a coarse grain that
differs from cell to cell, and cracks in it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.made_set import new_folder
from edge_ad.console import Parser, run_command, say
from edge_ad.demo.cells import CRYSTALS, Crystal, defective_cells, good_cells, list_cells

UNSEEN = 168


def split_cells(good: Sequence[Path], seed: int) -> tuple[list[Path], list[Path]]:
    """Good cells to train on, and UNSEEN others."""
    drawn = [good[index] for index in np.random.default_rng(seed).permutation(len(good))]
    return drawn[UNSEEN:], drawn[:UNSEEN]


def link_all(cells: Sequence[Path], folder: Path) -> None:
    """Make a folder of links."""
    folder.mkdir(parents=True)
    for cell in cells:
        (folder / cell.name).symlink_to(cell)


def make(out: Path, crystal: Crystal, seed: int) -> int:
    """Make the folders and say what is in them."""
    cells = list_cells(crystal)
    train, unseen = split_cells(good_cells(cells), seed)
    new_folder(out)
    folders = {"train/good": train, "test/good": unseen, "test/defective": defective_cells(cells)}
    for name, members in folders.items():
        link_all(members, out / name)
        say(f"{name:14} {len(members):4} images")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Make the set."""
    parser = Parser(prog="benchmarks.solar_cells", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parser.add_argument("--crystal", choices=CRYSTALS, default="mono", help="(default: mono)")
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args(argv)
    return run_command(lambda: make(a.out, a.crystal, a.seed))


if __name__ == "__main__":
    sys.exit(main())
