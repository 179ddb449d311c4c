"""The set of large frames: defects lie under their masks, and more tiles leave more of them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("torch")

from benchmarks.large_frames import CELL, fade, faded_of, make
from edge_ad.core.layout import Layout
from edge_ad.images import list_images, read_image
from tests.trainer.tiny import make_dataset
from trainer.data.folder import list_test


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("large")
    make(make_dataset(root / "data"), root / "frames", cells=2, frames=3, defects=2, seed=0)
    return root / "frames"


def test_the_set_is_one_that_the_trainer_takes(frames: Path) -> None:
    assert len(list_images(frames / "train/good")) == 3
    images = [image for image in list_test(frames) if image.defect]
    assert {image.label for image in images} == {"hole"}
    for image in images:
        frame, mask = read_image(image.path), cv2.imread(str(image.mask), cv2.IMREAD_GRAYSCALE)
        assert frame.shape == (2 * CELL, 2 * CELL, 3)
        assert np.median(frame[mask > 0]) < 20  # the hole is black, and nothing else is


def test_more_tiles_leave_more_of_a_defect(frames: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = next(image for image in list_test(frames) if image.defect)
    coarse, fine = (
        faded_of(image, layout).contrast for layout in (Layout(32, 32), Layout(256, 256, "stretch", 2, 2, 0))
    )
    assert coarse < fine <= 1
    fade(frames, [1, 2])
    assert len(capsys.readouterr().out.splitlines()) == 3
