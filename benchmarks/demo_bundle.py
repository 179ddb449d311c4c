"""Train and export the bundle that ships with `edge-ad demo` (edge_ad/demo/bundle).

    python -m benchmarks.demo_bundle --work DIR [--max-minutes 10] [--seed 0]

Takes good monocrystalline cells of the `elpv-dataset` package; 168 of the 588 are never shown to training or
calibration: the demo measures its false alarms on them. The split is drawn by the seed.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.solar_cells import link_all, split_cells
from edge_ad.demo.cells import good_cells, list_cells

BUNDLE = Path(__file__).parent.parent / "edge_ad" / "demo" / "bundle"
LICENCE = "CC BY-NC-SA 4.0 (elpv-dataset, ZAE Bayern): the data, and so these weights, are for non-commercial use"


def main() -> None:
    """Lay out the cells, train, export, and replace the shipped bundle."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="a new folder for the cells and the run")
    parser.add_argument("--max-minutes", type=float, default=10)  # as the shipped bundle was trained
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    cells = arguments.work / "cells"
    link_all(split_cells(good_cells(list_cells()), arguments.seed)[0], cells)

    run, bundle = arguments.work / "run", arguments.work / "bundle"
    budget = ["--max-minutes", str(arguments.max_minutes), "--seed", str(arguments.seed)]
    _trainer("train", "--data", str(cells), "--out", str(run), "--profile", "demo", *budget)
    _trainer("export", str(run), "--out", str(bundle), "--data-licence", LICENCE)
    shutil.rmtree(BUNDLE, ignore_errors=True)
    shutil.copytree(bundle, BUNDLE)


def _trainer(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "trainer", *arguments], check=True)


if __name__ == "__main__":
    main()
