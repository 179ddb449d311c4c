"""Evaluation: figures of the contract, the station's own path, and mistakes in one line."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from calibration.cli import main as calibration_main
from edge_ad.backends.base import open_backend
from edge_ad.bundle import open_bundle
from edge_ad.config import BackendConfig
from edge_ad.core.layout import Layout
from edge_ad.core.preprocess import preprocess
from edge_ad.images import read_image, write_png
from tests.exif import jpeg
from tests.trainer.tiny import make_dataset, name_in_latin_1, one_process, part, tiny_config
from trainer import config as configs
from trainer.cli import main
from trainer.data.folder import split_good
from trainer.export import export
from trainer.run import create
from trainer.train import train

FIELDS = [
    *("method", "profile", "backend", "precision", "seed", "n_good", "n_defect"),
    *("image_auroc", "image_ap", "image_f1_max", "pixel_auroc", "pixel_ap", "pixel_f1_max", "aupro", "aupro_005"),
    *("per_defect", "macs", "params", "latency_ms"),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data/, run/ and bundle/."""
    root = tmp_path_factory.mktemp("evaluate")
    data = make_dataset(root / "data")
    run = create(root / "run", tiny_config(), split_good(data, 0.25, 0), 0)
    train(run, one_process(), None, resume=False, workers=0)
    export(run.path, root / "bundle")
    return root


def _command(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def _evaluate(root: Path, subject: str, out: Path, *more: object) -> dict[str, object]:
    assert _command("evaluate", root / subject, "--data", root / "data", "--json", out, *more) == 0
    result: dict[str, object] = json.loads(out.read_text())
    return result


def test_a_bundle_gets_every_figure_of_the_contract(root: Path, tmp_path: Path) -> None:
    result = _evaluate(root, "bundle", tmp_path / "e.json")
    assert list(result) == FIELDS
    assert (result["n_good"], result["n_defect"]) == (3, 3)
    assert all(0 <= result[name] <= 1 for name in FIELDS[7:15])  # type: ignore[operator]
    assert list(result["per_defect"]) == ["hole"]  # type: ignore[call-overload]


def test_a_run_and_its_bundle_score_the_same(root: Path, tmp_path: Path) -> None:
    def scores(subject: str) -> list[float]:
        _evaluate(root, subject, tmp_path / "e.json", "--scores", tmp_path / "s.csv")
        with (tmp_path / "s.csv").open() as stream:
            return [float(row["score"]) for row in csv.DictReader(stream)]

    assert scores("run") == pytest.approx(scores("bundle"), rel=1e-4)


def test_scores_are_those_of_the_frame_path(root: Path, tmp_path: Path) -> None:
    _evaluate(root, "bundle", tmp_path / "e.json", "--scores", tmp_path / "s.csv")
    backend = open_backend(open_bundle(root / "bundle"), BackendConfig())
    with (tmp_path / "s.csv").open() as stream:
        for row in csv.DictReader(stream):
            batch = preprocess(read_image(Path(row["file"])), None, Layout(32, 32))
            assert float(row["score"]) == float(backend.run(batch).score[0])
            assert row["verdict"] == ""  # uncalibrated


def test_a_plain_folder_gets_scores_and_no_figures(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "e.json"
    plain = root / "data/test/hole"
    assert _command("evaluate", root / "bundle", "--data", plain, "--json", out) == 0
    assert "the images have no labels" in capsys.readouterr().out
    result = json.loads(out.read_text())
    assert (result["n_good"], result["n_defect"], result["image_auroc"]) == (0, 0, None)


def test_without_masks_the_pixel_figures_are_null(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "data", tmp_path / "data")
    shutil.rmtree(tmp_path / "data/ground_truth")
    out = tmp_path / "e.json"
    assert _command("evaluate", root / "bundle", "--data", tmp_path / "data", "--json", out) == 0
    result = json.loads(out.read_text())
    assert result["image_auroc"] is not None
    assert (result["pixel_ap"], result["aupro"]) == (None, None)


def _evaluate_copy(root: Path, tmp: Path, change: Callable[[Path], None]) -> tuple[int, dict[str, object]]:
    """Evaluate the run on a changed copy of its data; exit code and figures, none where it failed."""
    shutil.copytree(root / "data", tmp / "data")
    change(tmp / "data")
    out = tmp / "e.json"
    code = _command("evaluate", root / "run", "--data", tmp / "data", "--json", out)
    return code, json.loads(out.read_text()) if out.exists() else {}


def test_where_one_mask_is_missing_a_line_says_why_there_are_no_pixel_figures(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def change(data: Path) -> None:
        (data / "ground_truth/hole/001_mask.png").unlink()
        for sub in ("test", "ground_truth"):
            shutil.copytree(root / "data" / sub / "hole", data / sub / "cut")

    code, result = _evaluate_copy(root, tmp_path, change)
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert code == 0
    assert len(notes) == 1
    assert f"1 of 6 defect images have no mask, the first is {tmp_path / 'data/test/hole/001.png'}" in notes[0]
    assert (result["pixel_ap"], result["per_defect"]["hole"]["pixel_ap"]) == (None, None)  # type: ignore[index]
    assert result["per_defect"]["cut"]["pixel_ap"] is not None  # type: ignore[index]


def _notes(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]


def test_masks_that_are_there_but_belong_to_no_image_are_noted(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def change(data: Path) -> None:
        for mask in list((data / "ground_truth/hole").iterdir()):
            mask.rename(mask.with_name(f"mask_of_{mask.name}"))

    code, result = _evaluate_copy(root, tmp_path, change)
    (note,) = _notes(capsys)
    assert (code, result["pixel_ap"]) == (0, None)
    assert f"3 of 3 defect images have no mask, the first is {tmp_path}/data/test/hole/000.png" in note
    assert f"whose mask would be {tmp_path}/data/ground_truth/hole/000_mask.png" in note


@pytest.mark.parametrize("drawn", ["nowhere", "in alpha"])
def test_empty_masks_are_counted(root: Path, tmp_path: Path, drawn: str, capsys: pytest.CaptureFixture[str]) -> None:
    black = np.zeros((48, 48, 3), np.uint8)

    def change(data: Path) -> None:
        for name in ("001_mask.png", "002_mask.png"):
            mask = data / "ground_truth/hole" / name
            alpha = read_image(mask)[:, :, 0]
            write_png(mask, np.dstack([black, alpha]) if drawn == "in alpha" else black)

    code, result = _evaluate_copy(root, tmp_path, change)
    (note,) = _notes(capsys)
    assert code == 0
    assert result["pixel_ap"] is not None
    assert f"2 of 3 masks are empty, the first is {tmp_path}/data/ground_truth/hole/001_mask.png" in note
    assert ("2 of them are drawn in the alpha channel" in note) == (drawn == "in alpha")


def test_masks_of_images_that_exif_turns_are_noted(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def change(data: Path) -> None:
        image = data / "test/hole/001.png"
        image.with_suffix(".jpg").write_bytes(jpeg(read_image(image), 3))
        image.unlink()

    assert _evaluate_copy(root, tmp_path, change)[0] == 0
    (note,) = _notes(capsys)
    assert "1 images that have a mask have an EXIF orientation" in note
    assert "test/hole/001.jpg" in note


def _to_grey(folder: Path) -> None:
    for image in folder.iterdir():
        write_png(image, np.ascontiguousarray(read_image(image)[:, :, 0]))


@pytest.mark.parametrize("plain", [False, True])
def test_grey_and_colour_test_images_are_refused_together(
    root: Path, tmp_path: Path, plain: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """The kind of file alone would tell good from bad."""
    shutil.copytree(root / "data/test", tmp_path / "data/test")
    _to_grey(tmp_path / "data/test/good")
    if plain:
        for image in (tmp_path / "data/test").glob("*/*"):
            image.rename(tmp_path / "data" / f"{image.parent.name}-{image.name}")
        shutil.rmtree(tmp_path / "data/test")
    assert _command("evaluate", root / "run", "--data", tmp_path / "data") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "grey and colour images are mixed" in line


@pytest.mark.parametrize("left", [True, False])
def test_test_images_of_another_kind_than_trained_on_are_noted(
    root: Path, tmp_path: Path, left: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """As long as a training image is left to tell; an evaluation does not need one."""
    shutil.copytree(root / "data", tmp_path / "data")
    shutil.copytree(root / "run", tmp_path / "run", symlinks=True)
    listed = tmp_path / "run/images.json"
    listed.write_text(listed.read_text().replace(str(root / "data"), str(tmp_path / "data" if left else "/nowhere")))
    _to_grey(tmp_path / "data/test/good")
    _to_grey(tmp_path / "data/test/hole")
    assert _command("evaluate", tmp_path / "run", "--data", tmp_path / "data") == 0
    notes = _notes(capsys)
    assert len(notes) == left
    assert all("the training images are colour" in note and "000.png is grey" in note for note in notes)


def test_a_calibration_that_does_not_apply_is_noted(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other, good = tmp_path / "other", root / "run/calibration_split"
    export(root / "run", other, data_licence="another digest")
    calibrate = ["fit", str(other), "--good", str(good), "--false-alarm-rate", "0.8", "--confidence", "0.5"]
    assert calibration_main(calibrate) == 0
    store = other.with_name("other.calibration")
    capsys.readouterr()
    scores = tmp_path / "s.csv"
    for bundle, applies in ((other, True), (root / "bundle", False)):
        command = ("evaluate", bundle, "--data", root / "data", "--store", store, "--scores", scores)
        assert _command(*command) == 0
        notes = _notes(capsys)
        assert len(notes) == (not applies)
        assert all("it is of bundle" in note and str(store) in note for note in notes)
        with scores.open() as stream:
            assert all((row["verdict"] != "") == applies for row in csv.DictReader(stream))


def test_names_that_are_no_utf_8_can_be_scored_and_reported(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "data", tmp_path / "data")
    name_in_latin_1(tmp_path / "data")
    more = ("--scores", tmp_path / "s.csv", "--report", tmp_path / "report")
    assert _command("evaluate", root / "run", "--data", tmp_path / "data", *more) == 0
    for table in (tmp_path / "s.csv", tmp_path / "report/regions.csv"):
        assert r"kratz\udcfcr.png,L\udcf6cher," in table.read_text(encoding="utf-8")


@pytest.mark.parametrize("masks", ["all", "none"])
def test_nothing_is_said_of_masks_where_all_defects_have_them_or_none(
    root: Path, tmp_path: Path, masks: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def change(data: Path) -> None:
        if masks == "none":
            shutil.rmtree(data / "ground_truth")

    assert _evaluate_copy(root, tmp_path, change)[0] == 0
    assert "note: " not in capsys.readouterr().err


def test_a_mask_of_another_size_than_its_image_is_one_line(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def change(data: Path) -> None:
        write_png(data / "ground_truth/hole/002_mask.png", np.full((48, 20), 255, np.uint8))

    assert _evaluate_copy(root, tmp_path, change) == (2, {})
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "hole/002_mask.png is 20 x 48 px, its image" in errors[0]
    assert "hole/002.png is 48 x 48" in errors[0]


def test_a_preview_shows_what_training_would_see(root: Path, tmp_path: Path) -> None:
    """Two pictures a defect, four defects a row, a caption above each."""
    config, out = tmp_path / "c.yaml", tmp_path / "sheet.png"
    config.write_text(configs.dump(tiny_config()))
    arguments = ("preview", "--data", root / "data", "--config", config, "--count", 6)
    assert _command(*arguments, "--out", out) == 0
    assert read_image(out).shape == (2 * (32 + 22), 4 * 64, 3)
    assert _command(*arguments, "--out", tmp_path / "again.png") == 0
    assert (tmp_path / "again.png").read_bytes() == out.read_bytes()


def test_without_the_extra_there_is_one_line_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The console script is installed on devices too, where torch is not."""
    monkeypatch.setattr("trainer.cli.NEEDED", ("torch", "no_such_package"))
    assert _command("train", "--data", tmp_path, "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "needs no_such_package: pip install 'edge-ad[train]'" in error


def _mistakes(root: Path, tmp: Path) -> dict[str, tuple[list[object], str]]:
    (tmp / "empty").mkdir()
    (tmp / "broken").mkdir()
    (tmp / "broken/a.png").write_bytes(b"not a picture")
    (tmp / "mixed").mkdir()
    import cv2

    cv2.imwrite(str(tmp / "mixed/grey.png"), np.zeros((40, 40), np.uint8))
    cv2.imwrite(str(tmp / "mixed/colour.png"), part(0))
    config = tmp / "c.yaml"
    config.write_text(configs.dump(tiny_config()).replace("top_k: 10", "top_k: 10\nlearning_rate: 1"))
    out = tmp / "out"
    (tmp / "no class/test").mkdir(parents=True)
    return {
        "no images": (["train", "--data", tmp / "empty", "--out", out], "no images in"),
        "no folder": (["train", "--data", tmp / "nowhere", "--out", out], "no such folder"),
        "unreadable": (["train", "--data", tmp / "broken", "--out", out], "a.png"),
        "mixed": (["train", "--data", tmp / "mixed", "--out", out], "grey.png is grey"),
        "unknown key": (["train", "--data", root / "data", "--out", out, "--config", config], "learning_rate"),
        "profile": (["train", "--data", root / "data", "--out", out, "--profile", "huge"], "choose from"),
        "minutes": (["train", "--data", root / "data", "--out", out, "--max-minutes", "0"], "above 0"),
        "device": (["train", "--data", root / "data", "--out", out, "--device", "tpu9"], "--device tpu9"),
        "no run": (["export", tmp / "empty", "--out", out], "is not a run"),
        "not a bundle": (["evaluate", tmp / "empty", "--data", root / "data"], "is not a run"),
        "no int8": (["evaluate", root / "bundle", "--data", root / "data", "--precision", "int8"], "no int8 model"),
        "run in int8": (["evaluate", root / "run", "--data", root / "data", "--precision", "int8"], "has fp32 only"),
        "run on an engine": (
            ["evaluate", root / "run", "--data", root / "data", "--backend", "openvino"],
            "is measured in torch",
        ),
        "no test": (["evaluate", root / "bundle", "--data", tmp / "empty"], "no images in"),
        "no class": (["evaluate", root / "run", "--data", tmp / "no class"], "no folder in"),
        "option": (["train", "--wrong"], "--help"),
        "json": (["evaluate", root / "run", "--data", root / "data", "--json", tmp], f"--json {tmp} is a folder"),
        "no record": (
            ["evaluate", root / "bundle", "--data", root / "data", "--store", tmp / "nowhere"],
            f"--store {tmp / 'nowhere'} holds no calibration in force",
        ),
        "store of a run": (
            ["evaluate", root / "run", "--data", root / "data", "--store", tmp / "nowhere"],
            "--store is for bundles",
        ),
        "report": (["evaluate", root / "run", "--data", root / "data", "--report", config], "File exists"),
    }


CASES = ["no images", "no folder", "unreadable", "mixed", "unknown key", "profile", "minutes", "device", "no run"]
CASES += [
    "not a bundle",
    "no int8",
    "run in int8",
    "run on an engine",
    "no test",
    "no class",
    "option",
    "json",
    "report",
    "no record",
    "store of a run",
]


@pytest.mark.parametrize("case", CASES)
def test_a_mistake_gets_one_line_and_exit_code_2(
    root: Path, tmp_path: Path, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, expected = _mistakes(root, tmp_path)[case]
    try:
        code: object = _command(*arguments)
    except SystemExit as exit_:  # argparse
        code = exit_.code
    error = capsys.readouterr().err
    assert code == 2, error
    assert len(error.strip().splitlines()) == 1, error
    assert expected in error
    assert not (tmp_path / "out").exists()
