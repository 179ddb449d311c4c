"""Where preview draws: a PNG file, or one line before anything is drawn."""

from __future__ import annotations

from pathlib import Path

import cv2
import pytest

from tests.trainer.tiny import make_dataset, tiny_config
from trainer import config as configs
from trainer.cli import main


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """A preview of two defects; --out is missing."""
    config = tmp_path / "c.yaml"
    config.write_text(configs.dump(tiny_config()))
    return ["preview", "--data", str(make_dataset(tmp_path / "data")), "--config", str(config), "--count", "2"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("x.jpg", "x.jpg is not a .png: a PNG file is written, name it so"),
        ("new/sheet", "sheet is not a .png"),
        ("folder", "folder is a folder: name a file"),
        ("folder.png", "folder.png is a folder: name a file"),
    ],
)
def test_what_cannot_be_a_png_file_is_refused_before_it_is_drawn(
    tmp_path: Path, command: list[str], name: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("folder", "folder.png"):
        (tmp_path / folder).mkdir()
    before = set(tmp_path.rglob("*"))
    assert main([*command, "--out", str(tmp_path / name)]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1  # no progress
    assert set(tmp_path.rglob("*")) == before


def test_folders_that_are_missing_are_made(tmp_path: Path, command: list[str]) -> None:
    out = tmp_path / "new" / "folder" / "Sheet.PNG"
    assert main([*command, "--out", str(out)]) == 0
    assert cv2.imread(str(out)) is not None
