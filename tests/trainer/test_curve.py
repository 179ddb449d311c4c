"""Figures over a training: the states it keeps, and what is told of them."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest

from edge_ad.images import read_image
from tests.trainer.tiny import make_dataset, one_process, tiny_config
from trainer.cli import main
from trainer.curve import State, end_spread, last_states, state_of
from trainer.data.folder import split_good
from trainer.export import load_method
from trainer.results import read_results
from trainer.results_page import write_page
from trainer.run import Run, create, load_weights, snapshots
from trainer.tables import FIGURES, trained
from trainer.train import train


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Trained for six steps, three states kept."""
    root = tmp_path_factory.mktemp("curve")
    run = create(root / "run", tiny_config(), split_good(make_dataset(root / "data"), 0.25, 0), 0)
    train(run, one_process(), None, resume=False, workers=0, snapshots=3)
    return run


def test_states_are_kept_evenly_and_the_last_is_the_result(run: Run) -> None:
    kept = [load_weights(path) for path in snapshots(run.path)]
    assert [state["step"] for state in kept] == [2, 4, 6]
    result = load_method(run).state_dict()
    assert all(bool((result[name] == value).all()) for name, value in kept[-1]["average"].items())


def test_a_resumed_training_goes_on_with_its_states(tmp_path: Path) -> None:
    config = tiny_config()
    run = create(tmp_path / "run", config, split_good(make_dataset(tmp_path / "data"), 0.25, 0), 0)
    train(run, one_process(), 1e-9, resume=False, workers=0, snapshots=3)
    train(run, one_process(), math.inf, resume=True, workers=0, snapshots=3)
    steps = [load_weights(path)["step"] for path in snapshots(run.path)]
    assert steps == [1, 2, 4, 6]  # the first training ended after one step, and kept its end


def test_the_curve_has_every_state_and_a_picture(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = run.path.parent / "data"
    assert main(["curve", str(run.path), "--data", str(data), "--out", str(tmp_path / "out")]) == 0
    told = json.loads((tmp_path / "out" / "curve.json").read_text())
    assert [state["step"] for state in told["states"]] == [2, 4, 6]
    assert told["end_states"] == 2
    assert all(0 <= state["figures"][name] <= 1 for state in told["states"] for name in FIGURES)
    assert read_image(tmp_path / "out" / "curve.png").size > 0
    spreads = [line for line in capsys.readouterr().out.splitlines() if "between the highest" in line]
    assert len(spreads) == len(FIGURES)
    assert all("of 2 states, the last " in line for line in spreads)  # three states: the last fifth holds one


@pytest.mark.parametrize("missing", ["test/good", "test/hole", "test"])
def test_without_both_kinds_of_images_no_state_is_measured(
    run: Run, missing: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_dataset(tmp_path / "data")
    shutil.rmtree(data / missing)
    assert main(["curve", str(run.path), "--data", str(data), "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "test/good and test/<defect> (MVTec layout)" in line
    assert not (tmp_path / "out").exists()


def test_states_among_the_results_are_drawn_and_in_the_log_and_measured_once(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results, data = tmp_path / "results", run.path.parent / "data"
    command = ["curve", str(run.path), "--data", str(data), "--out", str(tmp_path / "out"), "--results", str(results)]
    assert main(command) == 0
    told = json.loads((tmp_path / "out" / "curve.json").read_text())["states"]
    kept = sorted(read_results(results), key=lambda result: result.training.steps)
    assert [asdict(state_of(result)) for result in kept] == told
    assert {(result.state, result.commit) for result in kept} == {(True, run.commit)}
    assert all((results / result.file_name()).is_file() for result in kept)

    monkeypatch.setattr("trainer.curve.evaluate", lambda *_: pytest.fail("it was measured again"))
    assert main(command) == 0
    assert json.loads((tmp_path / "out" / "curve.json").read_text())["states"] == told

    page = write_page(kept, tmp_path / "page").read_text()
    assert trained(kept) == []
    assert len(list((tmp_path / "page").glob("data-*-curves.png"))) == 1
    assert "| seed 0 | 3 | 2 | " in page
    assert page.count(kept[0].made_at[:10]) == len(kept)  # the log's rows


def test_without_states_there_is_one_line(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bare = create(tmp_path / "bare", tiny_config(), split_good(make_dataset(tmp_path / "data"), 0.25, 0), 0)
    train(bare, one_process(), None, resume=False, workers=0)
    assert main(["curve", str(bare.path), "--data", str(tmp_path / "data"), "--out", str(tmp_path / "out")]) == 2
    assert "no snapshots: train it with --snapshots" in capsys.readouterr().err


def test_the_spread_is_of_the_last_fifth_only() -> None:
    values = [0.1, 0.9, 0.5, 0.91, 0.92]
    states = [State(i, 10.0 * (i + 1), dict.fromkeys(FIGURES, value)) for i, value in enumerate(values)]
    assert end_spread(states) == pytest.approx(dict.fromkeys(FIGURES, 0.01))
    figures = {**dict.fromkeys(FIGURES, 0.5), "aupro": None}
    assert "aupro" not in end_spread([State(1, 1.0, figures), State(2, 2.0, figures)])


def test_where_the_last_fifth_holds_one_state_the_spread_is_of_the_last_two() -> None:
    states = [State(i, minutes, dict.fromkeys(FIGURES, 0.5)) for i, minutes in enumerate((1.0, 5.0, 10.0))]
    assert last_states(states) == states[1:]
    assert end_spread(states[:1]) == {}  # one state has none
