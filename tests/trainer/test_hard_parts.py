"""Hard parts: what the stand-in set promises, on parts made up; with `shared`, on real ones."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks import hard_parts
from benchmarks.hard_parts import FRAME_PX, GRAIN, draw_pose, frame, framed_mask, load_part, main
from benchmarks.made_set import Made
from edge_ad.images import read_image, write_png
from tests.trainer.made_sets import disc, files, make_cracks, make_parts
from trainer.data.folder import list_test, load_mask
from trainer.metrics import area_mask

DATA = Path(__file__).parents[3] / "shared" / "data"
KINDS = {"small", "faint", "hair_crack"}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set, and beside it the cracks where they are looked for."""
    root = tmp_path_factory.mktemp("sets")
    make_cracks(root / "magnetic_tile" / "ground_truth" / "crack")
    return make_parts(root / "discs", n_train=2, n_test=1)


@pytest.fixture(scope="module")
def kept() -> dict[str, list[Made]]:
    """What the set `made` was made of, kind by kind."""
    return {}


@pytest.fixture(scope="module")
def made(source: Path, kept: dict[str, list[Made]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The set of seed 3."""
    out, write = tmp_path_factory.mktemp("made") / "hard", hard_parts.write_kind

    def keep(folder: Path, kind: str, defects: Sequence[Made], grey: bool) -> None:
        kept[kind] = list(defects)
        write(folder, kind, defects, grey)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hard_parts, "write_kind", keep)
        assert main(["--source", str(source), "--out", str(out), "--seed", "3"]) == 0
    return out


def test_every_part_lies_in_train_or_test_as_it_did_and_every_kind_has_its_masks(made: Path) -> None:
    assert len(list((made / "train" / "good").iterdir())) == 2
    tests = list_test(made)
    assert {t.label for t in tests} == {*KINDS, "good"}
    assert all(sum(t.label == label for t in tests) == hard_parts.POSES for label in (*KINDS, "good"))
    for test in tests:
        assert read_image(test.path).shape == (FRAME_PX, FRAME_PX, 3)
        if test.defect:
            assert load_mask(test, (FRAME_PX, FRAME_PX), None).shape == (FRAME_PX, FRAME_PX)


def test_defects_are_as_small_as_promised_and_survive_the_networks_input(made: Path) -> None:
    for test in list_test(made):
        if test.defect:
            mask = load_mask(test, (FRAME_PX, FRAME_PX), None)
            low, high = (0.0005, 0.005) if test.label == "hair_crack" else (0.001, 0.003)
            low, high = (0.0027, 0.0085) if test.label == "faint" else (low, high)
            assert low <= mask.mean() <= high, test.path
            assert area_mask(mask, 256, 256).any()


def test_the_same_seed_makes_the_same_files(source: Path, made: Path, tmp_path: Path) -> None:
    assert main(["--source", str(source), "--out", str(tmp_path / "again"), "--seed", "3"]) == 0
    assert files(tmp_path / "again") == files(made)


def test_another_seed_is_another_pose(source: Path) -> None:
    part = load_part(source / "train/good/000.png")
    assert draw_pose(part, np.random.default_rng(3)) != draw_pose(part, np.random.default_rng(4))


def test_the_ground_is_even_up_to_the_part_in_every_pose(source: Path) -> None:
    """No seam where the photograph ended."""
    part = load_part(source / "train" / "good" / "000.png")
    for seed in range(8):
        pose = draw_pose(part, np.random.default_rng(seed))
        image = frame(part, pose)
        lies = framed_mask(part.mask, pose)
        assert lies.any()
        assert not (lies[0].any() or lies[-1].any() or lies[:, 0].any() or lies[:, -1].any())
        near = cv2.dilate(lies.astype(np.uint8), np.ones((31, 31), np.uint8)) > 0
        assert np.abs(image[~near] - part.ground).max() < 1


@pytest.mark.usefixtures("made")
def test_a_defect_changes_what_is_under_its_mask_and_nothing_far_from_it(kept: dict[str, list[Made]]) -> None:
    assert kept.keys() == KINDS
    for kind, made in kept.items():
        for one in made:
            near = cv2.dilate(one.mask.astype(np.uint8), np.ones((15, 15), np.uint8)) > 0
            assert np.abs(one.image.astype(int) - one.without)[~near].max() <= 1
            assert one.contrast >= (3 if kind == "faint" else 1.5)
            assert kind != "faint" or one.contrast <= hard_parts.FAINT_LEVELS[1] + 2 * GRAIN


def test_parts_without_an_even_ground_are_refused_in_one_line(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texture = make_parts(tmp_path / "texture")
    write_png(texture / "train/good/000.png", np.random.default_rng(0).integers(0, 255, (99, 99, 3), np.uint8))
    cracks = source.parent / "magnetic_tile" / "ground_truth" / "crack"
    assert main(["--source", str(texture), "--cracks", str(cracks), "--out", str(tmp_path / "out")]) == 2
    assert "no even ground" in capsys.readouterr().err


def test_defects_that_lie_on_no_good_part_are_refused_in_one_line(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    beside = make_parts(tmp_path / "beside", n_test=1)
    mask = np.zeros((160, 160), np.uint8)
    mask[5:17, 5:25] = 255  # on the ground
    write_png(beside / "ground_truth/chip/000_mask.png", mask)
    cracks = source.parent / "magnetic_tile" / "ground_truth" / "crack"
    monkeypatch.setattr(hard_parts, "TRIES", 20)
    assert main(["--source", str(beside), "--cracks", str(cracks), "--out", str(tmp_path / "out")]) == 2
    assert f"no defect of {beside} finds room on a good part" in capsys.readouterr().err


def test_a_folder_that_holds_something_is_left_as_it_is(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_png(tmp_path / "mine.png", disc(0))
    assert main(["--source", str(source), "--out", str(tmp_path)]) == 2
    assert "not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.png"]


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.skipif(not DATA.is_dir(), reason=f"no data sets in {DATA}")
def test_real_bottles_make_the_whole_set(tmp_path: Path) -> None:
    assert main(["--source", str(DATA / "mvtec_bottle"), "--out", str(tmp_path / "hard")]) == 0
    tests = list_test(tmp_path / "hard")
    assert {label: sum(t.label == label for t in tests) for label in (*KINDS, "good")} == dict.fromkeys(
        (*KINDS, "good"), 40
    )
    small = [load_mask(t, (FRAME_PX, FRAME_PX), None).mean() for t in tests if t.label == "small"]
    assert min(small) >= 0.001
    assert max(small) <= 0.003
