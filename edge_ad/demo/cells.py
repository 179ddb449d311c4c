"""The demo's parts: solar cells of the `elpv-dataset` package (ZAE Bayern, CC BY-NC-SA 4.0).

The demo takes monocrystalline cells only: in polycrystalline ones the grain looks like defects.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from edge_ad.errors import DataError

Crystal = Literal["mono", "poly"]
CRYSTALS: tuple[Crystal, ...] = get_args(Crystal)

_LABELS = "data/labels.csv"


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell: its image and the probability, judged by experts, that it is defective (0, 1/3, 2/3 or 1)."""

    path: Path
    defect_probability: float


def list_cells(crystal: Crystal = "mono") -> list[Cell]:
    """The cells of one kind of the installed package, in its order.

    Raises:
        DataError: the package is not installed, or not as we know it.
    """
    spec = importlib.util.find_spec("elpv_dataset")
    if spec is None or not spec.submodule_search_locations:
        raise DataError('the demo needs the package elpv-dataset: pip install "edge-ad[demo]"')
    labels = Path(spec.submodule_search_locations[0]) / _LABELS
    if not labels.is_file():
        raise DataError(f"{labels} is missing: install elpv-dataset anew")
    rows = [line.split() for line in labels.read_text(encoding="utf-8").splitlines() if line.strip()]
    return [Cell(labels.parent / name, float(probability)) for name, probability, kind in rows if kind == crystal]


def good_cells(cells: list[Cell]) -> list[Path]:
    """Cells in which no expert saw a defect."""
    return [cell.path for cell in cells if cell.defect_probability == 0]


def defective_cells(cells: list[Cell]) -> list[Path]:
    """Cells that every expert called defective."""
    return [cell.path for cell in cells if cell.defect_probability == 1]
