"""The ablation: one command, every way to reconstruct, nothing measured twice."""

import json
import shutil
from pathlib import Path

import pytest

from edge_ad.images import read_image
from tests.trainer.tiny import make_dataset, one_process, tiny_config
from trainer.cli import main
from trainer.data.folder import split_good
from trainer.methods.diffusionad.variants import AutoEncoder, compared
from trainer.results import read_results
from trainer.run import create
from trainer.train import train

QUICK = ["auto_encoder", "one_step", "norm_guided", "ddim"]  # without 401 steps for each image


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data/ and the runs diffusion/ and auto-encoder/."""
    root = tmp_path_factory.mktemp("ablation")
    data = make_dataset(root / "data", n_test=2)
    for name, diffuse in (("diffusion", True), ("auto-encoder", False)):
        config = tiny_config(diffusion={"prediction": "x0", "near": 0.5, "diffuse": diffuse})
        run = create(root / name, config, split_good(data, 0.25, 0), 0)
        train(run, one_process(), None, resume=False, workers=0)
    return root


def _ablation(root: Path, out: Path, results: Path, only: list[str] = QUICK) -> str:
    runs = [str(root / "diffusion"), str(root / "auto-encoder")]
    command = ["ablation", *runs, "--data", str(root / "data"), "--out", str(out), "--results", str(results)]
    assert main([*command, "--device", "cpu", "--only", *only]) == 0
    return (out / "results.md").read_text()


def test_one_command_measures_every_way_and_makes_table_and_plots(root: Path, tmp_path: Path) -> None:
    text = _ablation(root, tmp_path / "out", tmp_path / "results")
    wanted = [v for v in compared(tiny_config().diffusion) if v.kind in QUICK]
    assert {r.variant for r in read_results(tmp_path / "results")} == {*wanted, AutoEncoder()}
    ways = text.split("ways to reconstruct")[1].split("###")[0]
    for line in ("auto-encoder", "one step from 200", "one step from 400", "norm-guided, t_s 200", "DDIM from 400, 30"):
        assert f"| {line}" in ways
    pictures = {path.name.split("-", 2)[-1] for path in (tmp_path / "out").glob("data-*.png")}
    assert pictures == {"ways.png", "scales.png", "weights.png"}


def test_what_was_measured_is_not_measured_again(root: Path, tmp_path: Path) -> None:
    first = _ablation(root, tmp_path / "out", tmp_path / "results", ["one_step"])
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "results").rglob("*.json")}
    assert _ablation(root, tmp_path / "again", tmp_path / "results", ["one_step"]) == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "results").rglob("*.json")} == before


def test_what_was_measured_before_a_key_came_is_not_measured_again(root: Path, tmp_path: Path) -> None:
    _ablation(root, tmp_path / "out", tmp_path / "results", ["one_step"])
    for path in (tmp_path / "results").rglob("*.json"):
        body = json.loads(path.read_text())
        del body["config"]["prototypes"], body["images_sha256"]
        path.write_text(json.dumps(body))
    before = read_results(tmp_path / "results")
    _ablation(root, tmp_path / "again", tmp_path / "results", ["one_step"])
    assert read_results(tmp_path / "results") == before


def test_what_was_measured_with_another_score_is_measured(root: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(root / "diffusion", run)
    command = ["ablation", run, "--data", root / "data", "--out", tmp_path / "out", "--results", tmp_path / "results"]
    for top_k in (5, 7):
        config = (run / "config.yaml").read_text().splitlines()
        kept = [line for line in config if not line.startswith("top_k:")]
        (run / "config.yaml").write_text("\n".join([*kept, f"top_k: {top_k}\n"]))
        assert main([str(word) for word in [*command, "--device", "cpu", "--only", "one_step"]]) == 0
    measured = [r.config["top_k"] for r in read_results(tmp_path / "results")]
    assert sorted(set(measured)) == [5, 7]
    assert measured.count(5) == measured.count(7)


def test_the_reconstructions_are_drawn_side_by_side(root: Path, tmp_path: Path) -> None:
    """One row for the one class of defect: the image, and what each way makes of it."""
    _ablation(root, tmp_path / "out", tmp_path / "results", ["norm_guided"])
    (sheet,) = (tmp_path / "out").glob("reconstructions-weights-diffusion-*.png")
    assert read_image(sheet).shape == (32 + 22, (1 + 6) * 32, 3)


def test_runs_whose_folders_have_the_same_name_have_pictures_of_their_own(root: Path, tmp_path: Path) -> None:
    data, runs = root / "data", [tmp_path / f"seed-{seed}" / "run" for seed in (0, 1)]
    for seed, path in enumerate(runs):
        path.parent.mkdir()
        run = create(path, tiny_config(), split_good(data, 0.25, seed), seed)
        train(run, one_process(), None, resume=False, workers=0)
    command = ["ablation", *runs, "--data", data, "--out", tmp_path / "out", "--results", tmp_path / "results"]
    arguments = [str(word) for word in (*command, "--device", "cpu", "--only", "one_step")]
    assert main(arguments) == 0
    drawn = {path.name for path in (tmp_path / "out").glob("reconstructions-*.png")}
    assert [sum(f"-{name}-run-" in picture for picture in drawn) for name in ("ways", "scales")] == [2, 2]
    assert main(arguments) == 0
    assert {path.name for path in (tmp_path / "out").glob("reconstructions-*.png")} == drawn


def test_a_set_without_defects_is_refused_before_anything_is_measured(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    shutil.copytree(root / "data/test/good", data / "test/good")
    command = ["ablation", root / "diffusion", "--data", data, "--out", tmp_path, "--results", tmp_path / "kept"]
    assert main([str(word) for word in [*command, "--device", "cpu", "--only", "one_step"]]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: no defects below")
    assert len(said.err.strip().splitlines()) == 1
    assert said.out == ""
    assert not (tmp_path / "kept").exists()


def test_a_run_without_a_checkpoint_is_one_line(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    create(tmp_path / "fresh", tiny_config(), split_good(root / "data", 0.25, 0), 0)
    command = ["ablation", tmp_path / "fresh", "--data", root / "data", "--out", tmp_path, "--results", tmp_path]
    assert main([str(word) for word in command]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_an_auto_encoder_is_no_bundle(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(root / "auto-encoder"), "--out", str(tmp_path / "bundle")]) == 2
    assert "auto-encoder, trained for comparison" in capsys.readouterr().err
    assert not (tmp_path / "bundle").exists()
