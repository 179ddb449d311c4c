"""Solar cells to decide on: what is trained on is not measured on, and all of them are there."""

import importlib.util
from pathlib import Path

import pytest

from benchmarks.solar_cells import UNSEEN, main, split_cells
from edge_ad.demo.cells import CRYSTALS, Crystal, good_cells, list_cells
from trainer.data.folder import list_test

installed = pytest.mark.skipif(importlib.util.find_spec("elpv_dataset") is None, reason="elpv-dataset is not installed")


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_every_good_cell_is_in_one_part_and_the_seed_draws_which() -> None:
    good = [Path(f"{i}.png") for i in range(200)]
    train, unseen = split_cells(good, seed=0)
    assert len(unseen) == UNSEEN
    assert sorted(train + unseen) == sorted(good)
    assert split_cells(good, seed=0) == (train, unseen)
    assert split_cells(good, seed=1) != (train, unseen)


@installed
@pytest.mark.parametrize("crystal", CRYSTALS)
def test_the_folders_hold_the_cells_of_the_package(tmp_path: Path, crystal: Crystal) -> None:
    assert main(["--out", str(tmp_path / "cells"), "--crystal", crystal]) == 0
    train, unseen = names(tmp_path / "cells/train/good"), names(tmp_path / "cells/test/good")
    assert not train & unseen
    assert train | unseen == {path.name for path in good_cells(list_cells(crystal))}
    assert {image.label for image in list_test(tmp_path / "cells")} == {"good", "defective"}
    assert all(path.is_file() for path in (tmp_path / "cells").rglob("*.png"))


@installed
def test_a_folder_in_use_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "kept").touch()
    assert main(["--out", str(tmp_path)]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert names(tmp_path) == {"kept"}
