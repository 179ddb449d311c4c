"""benchmarks.prototypes: bounds measured and prototypes found anew, on the weights of a training."""

from pathlib import Path

import pytest
import torch

from benchmarks.prototypes import main
from tests.trainer.tiny import make_dataset, one_process, tiny_config
from trainer.data.folder import split_good
from trainer.run import create, load_checkpoint, open_run, train_paths
from trainer.train import train

pytest.importorskip("efficientnet_lite_pytorch", reason="the backbone's package is not installed")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data/ and run/, which has prototypes."""
    root = tmp_path_factory.mktemp("prototypes")
    net = {"kind": "edge", "widths": [8] * 3}
    config = tiny_config(
        fold=4,
        denoiser=net,
        segmenter=net,
        evidence="efficientnet-lite0",
        prototypes={"count": 8, "least": 0.0, "most": 1.0},
        loss={"features": 0.1},
    )
    run = create(root / "run", config, split_good(make_dataset(root / "data"), 0.25, 0), 0)
    train(run, one_process(), None, resume=False, workers=0)
    return root


def test_each_bound_has_a_row(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bounds", str(root / "run"), "--data", str(root / "data"), "--most", "0", "2.5"]) == 0
    head, _, *rows = capsys.readouterr().out.splitlines()
    assert head == "| most | image AUROC | pixel AUROC | AUPRO | pixel AP | `hole` |"
    assert [row.split(" | ")[0] for row in rows] == ["| 0", "| 2.5"]
    assert all(0 <= float(cell) <= 1 for row in rows for cell in row.strip("| ").split(" | ")[1:])


def test_each_share_of_defective_images_has_a_row(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["spoilt", str(root / "run"), "--data", str(root / "data"), "--share"]
    assert main([*command, "0", "0.2"]) == 0
    head, _, *rows = capsys.readouterr().out.splitlines()
    assert head == "| defective among good | image AUROC | pixel AUROC | AUPRO | pixel AP | `hole` |"
    good = len(train_paths(open_run(root / "run")))
    assert [row.split(" | ")[0] for row in rows] == [f"| 0 of {good}", f"| {round(0.2 * good)} of {good}"]
    for share in ("0.9", "-0.2"):
        assert main([*command, share]) == 2
        assert "each --share must be from 0 to 0." in capsys.readouterr().err


def test_found_anew_by_the_same_code_they_are_the_same(root: Path, tmp_path: Path) -> None:
    assert main(["anew", str(root / "run"), "--out", str(tmp_path / "again"), "--most", "2"]) == 0
    before, after = load_checkpoint(root / "run"), load_checkpoint(tmp_path / "again")
    for part in ("model", "average"):
        assert before[part].keys() == after[part].keys()
        for name, value in before[part].items():
            torch.testing.assert_close(after[part][name], value, msg=name)
    assert open_run(tmp_path / "again").config.prototypes.most == 2


def test_a_run_of_other_prototypes_gets_those_of_today(root: Path, tmp_path: Path) -> None:
    """As a run of an older edge-ad: the networks are the same, its prototypes have other names and shapes."""
    old = tmp_path / "old"
    assert main(["anew", str(root / "run"), "--out", str(old)]) == 0
    state = load_checkpoint(old)
    for part in ("model", "average"):
        del state[part]["prototypes.project.weight"]
        state[part]["prototypes.project.0.weight"] = torch.zeros(3, 4, 1, 1)
    torch.save(state, old / "checkpoint.pt")
    assert main(["anew", str(old), "--out", str(tmp_path / "new"), "--count", "4"]) == 0
    found = load_checkpoint(tmp_path / "new")["average"]["prototypes.project.weight"]
    assert len(found) == 4
    assert found.abs().sum() > 0


def test_a_run_that_is_there_stays(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["anew", str(root / "run"), "--out", str(root / "run")]) == 2
    assert "exists: choose another --out" in capsys.readouterr().err
