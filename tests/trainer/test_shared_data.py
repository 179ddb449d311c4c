"""Real data sets in MVTec layout, where they lie beside the repository: they are read as they are."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from edge_ad.core.layout import Layout
from edge_ad.images import list_images, read_image
from trainer.data.folder import list_test, load_canvases, load_mask, split_good
from trainer.data.symmetry import FEWEST, STRAIGHT, find_symmetry
from trainer.metrics import area_mask

DATA = Path(__file__).parents[3] / "shared" / "data"
SETS = {
    "mvtec_bottle": (209, {"good": 20, "broken_large": 20, "broken_small": 22, "contamination": 21}),
    "magnetic_tile": (762, {"good": 190, "blowhole": 115, "break": 85, "crack": 57, "fray": 32, "uneven": 103}),
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.shared,
    pytest.mark.skipif(not DATA.is_dir(), reason=f"no data sets in {DATA}"),
]


@pytest.mark.parametrize("name", SETS)
def test_every_image_is_found_and_no_good_one_is_in_both_parts_of_the_split(name: str) -> None:
    good, classes = SETS[name]
    split = split_good(DATA / name, 0.2, seed=0)
    contents = {*split.train.values(), *split.calibration.values()}
    assert len(split.train) + len(split.calibration) == len(contents) <= good
    assert Counter(image.label for image in list_test(DATA / name)) == classes


@pytest.mark.parametrize("seed", range(5))
def test_few_of_a_set_without_symmetry_do_not_seem_to_have_one(seed: int, tmp_path: Path) -> None:
    good = list_images(DATA / "magnetic_tile/train/good")
    drawn = [good[i] for i in np.random.default_rng(seed).choice(len(good), FEWEST, replace=False)]
    assert find_symmetry(load_canvases(drawn, None, Layout(256, 256), tmp_path)) == STRAIGHT


@pytest.mark.parametrize("name", SETS)
def test_every_mask_has_the_size_of_its_image_and_no_defect_vanishes_at_256_px(name: str) -> None:
    for image in list_test(DATA / name):
        if image.mask is not None:
            mask = load_mask(image, read_image(image.path).shape[:2], None)  # refuses another size
            assert area_mask(mask, 256, 256).any() == mask.any(), image.path
