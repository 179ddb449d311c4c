"""Validation sets from held-out good images: what may be decided on them."""

import shutil
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks.held_out import LEAST_LEVELS, Kind, Shapes, defect, kinds, main
from benchmarks.real_shapes import centre_line
from edge_ad.images import is_grey, read_image, sha256_file, write_png
from tests.trainer.made_sets import disc, files, make_parts
from trainer.data.folder import list_test, load_mask
from trainer.synthesis.foreground import foreground

DATA = Path(__file__).parents[3] / "shared" / "data"
KINDS = ("texture", "blur", "shade", "displaced", "line", "stain")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """set/ (no test images of it exist), grey/, other/ and textures/."""
    root = tmp_path_factory.mktemp("sets")
    shutil.rmtree(make_parts(root / "set", n_train=20) / "test")
    make_parts(root / "grey", n_train=20, grey=True)
    make_parts(root / "other")
    (root / "textures").mkdir()
    for i in range(3):
        noise = np.random.default_rng(i).integers(0, 255, (40, 40, 3), np.uint8)
        write_png(root / f"textures/{i}.png", np.asarray(cv2.GaussianBlur(noise, (0, 0), 2), np.uint8))
    return root


def command(root: Path, out: Path, *more: str, of: str = "set") -> list[str]:
    given = {"run-data": root / of, "other": root / "other", "textures": root / "textures", "out": out}
    return [*(word for name, value in given.items() for word in (f"--{name}", str(value))), *more]


def test_held_out_images_are_never_trained_on_and_no_test_image_is_needed(root: Path, tmp_path: Path) -> None:
    assert main(command(root, tmp_path / "val")) == 0
    train = {path.name for path in (tmp_path / "val/train/good").iterdir()}
    assert train == {f"{i:03d}.png" for i in range(16)}
    assert Counter(t.label for t in list_test(tmp_path / "val")) == {"good": 2, **dict.fromkeys(KINDS, 2)}


def test_held_out_images_of_a_run_are_found_by_content(root: Path, tmp_path: Path) -> None:
    """A run names its copies differently."""
    (tmp_path / "split").mkdir()
    for i in (3, 7):
        shutil.copyfile(root / f"set/train/good/{i:03d}.png", tmp_path / f"split/abc_{i}.png")
    assert main(command(root, tmp_path / "val", "--good", str(tmp_path / "split"))) == 0
    held = {sha256_file(path) for path in (tmp_path / "split").iterdir()}
    trained = {sha256_file(path) for path in (tmp_path / "val/train/good").iterdir()}
    assert len(trained) == 18
    assert not held & trained


def test_the_same_seed_makes_the_same_files(root: Path, tmp_path: Path) -> None:
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert main(command(root, tmp_path / name, "--seed", seed)) == 0
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert files(tmp_path / "a") != files(tmp_path / "c")


def test_grey_stays_grey(root: Path, tmp_path: Path) -> None:
    assert main(command(root, tmp_path / "val", of="grey")) == 0
    assert all(is_grey(test.path) for test in list_test(tmp_path / "val"))


@pytest.mark.parametrize("name", KINDS)
def test_a_defect_lies_on_the_part_can_be_seen_and_changes_nothing_else(name: str) -> None:
    texture = np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)
    kind: Kind = kinds([texture], grey=False)[name]
    blob = np.zeros((30, 40), np.uint8)
    cv2.ellipse(blob, (20, 15), (15, 8), 20, 0, 360, 1, -1)
    shapes = Shapes([blob.astype(bool)], [centre_line(blob.astype(bool))])
    image = disc(0)
    part = foreground(image)
    for seed in range(10):
        made = defect(image, kind, shapes, np.random.default_rng(seed))
        assert kind.plainness(made) >= LEAST_LEVELS
        assert part[made.mask].mean() >= 0.9
        if not kind.large:  # whose soft border reaches far
            near = cv2.dilate(made.mask.astype(np.uint8), np.ones((25, 25), np.uint8)) > 0
            assert (made.image == image)[~near].all()


def test_a_stain_is_large_and_fades_at_its_border() -> None:
    blob = np.ones((20, 30), bool)
    image, rng = disc(0), np.random.default_rng(0)
    found = [defect(image, kinds([], grey=False)["stain"], Shapes([blob], []), rng) for _ in range(10)]
    assert np.mean([made.mask.mean() for made in found]) > 0.03
    for made in found:
        change = np.abs(made.image.astype(float) - image).max(axis=2)
        rim = made.mask & (cv2.erode(made.mask.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=0) == 0)
        assert change[rim].mean() < change[made.mask].mean()


def test_a_shape_of_which_softness_leaves_nothing_is_no_defect() -> None:
    """Nothing of it would be marked, and all of it would be seen."""
    shapes, stain = Shapes([np.ones((2, 60), bool), np.ones((20, 30), bool)], []), kinds([], grey=False)["stain"]
    image, rng = disc(0), np.random.default_rng(0)
    assert all(defect(image, stain, shapes, rng).mask.any() for _ in range(30))


def test_too_few_images_are_one_line(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = make_parts(tmp_path / "few", n_train=4)
    assert main(command(root, tmp_path / "val", of=str(few))) == 2
    assert "add good images" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.skipif(not DATA.is_dir(), reason=f"no data sets in {DATA}")
def test_real_bottles_make_a_validation_set(tmp_path: Path) -> None:
    given = {"run-data": "mvtec_bottle", "other": "magnetic_tile", "textures": "textures_dtd"}
    words = [word for name, value in given.items() for word in (f"--{name}", str(DATA / value))]
    assert main([*words, "--out", str(tmp_path / "val")]) == 0
    tests = list_test(tmp_path / "val")
    assert Counter(t.label for t in tests) == dict.fromkeys((*KINDS, "good"), 21)
    assert all(load_mask(t, read_image(t.path).shape[:2], None).any() for t in tests if t.defect)
