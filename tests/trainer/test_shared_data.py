"""Real data sets in MVTec layout, where they lie beside the repository: they are read as they are."""

from collections import Counter
from pathlib import Path

import pytest

from edge_ad.images import read_image
from trainer.data.folder import list_test, load_mask, split_good
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


@pytest.mark.parametrize("name", SETS)
def test_every_mask_has_the_size_of_its_image_and_no_defect_vanishes_at_256_px(name: str) -> None:
    for image in list_test(DATA / name):
        if image.mask is not None:
            mask = load_mask(image, read_image(image.path).shape[:2], None)  # refuses another size
            assert area_mask(mask, 256, 256).any() == mask.any(), image.path
