"""Other methods beside ours: anomalib's models on our backbone's weights, a faster coreset, one table.

What needs anomalib is skipped where it is not installed (make peers-venv; .venv-peers/bin/python -m pytest).
"""

import importlib.util
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from benchmarks.peers import reference
from benchmarks.peers.__main__ import main
from benchmarks.peers.measure import View, view_of
from benchmarks.peers.memory import grown_mb, start_mb
from benchmarks.peers.methods import PADIM_LAYERS, Settings, fit_draem, fit_padim, fit_patchcore
from edge_ad.core.layout import Layout
from edge_ad.errors import ConfigError
from edge_ad.images import write_png
from tests.trainer.test_results import result, rows
from tests.trainer.tiny import make_dataset, tiny_bundle, tiny_config
from trainer.data.folder import split_good
from trainer.nets import coreset
from trainer.nets.coreset import greedy_coreset
from trainer.nets.pretrained import MEAN, STD, PretrainedFeatures
from trainer.results import read_results
from trainer.run import create
from trainer.tables import summary

pytest.importorskip("efficientnet_lite_pytorch", reason="the backbone's package is not installed")
with_anomalib = pytest.mark.skipif(importlib.util.find_spec("anomalib") is None, reason="no anomalib: make peers-venv")
without_anomalib = pytest.mark.skipif(importlib.util.find_spec("anomalib") is not None, reason="anomalib is installed")


@given(seed=st.integers(0, 2**31 - 1), rows=st.integers(1, 60), dims=st.integers(1, 5), hot=st.integers(1, 70))
def test_each_choice_of_the_coreset_is_the_farthest_from_those_before(
    seed: int, rows: int, dims: int, hot: int
) -> None:
    """By brute force, and to rounding: of two rows that are as far, either may come first."""
    features = torch.rand(rows, dims, generator=torch.Generator().manual_seed(seed))
    count, first = 1 + seed % rows, seed % rows
    with patch.multiple(coreset, LEAST_HOT=hot, BLOCK=7, AT_ONCE=3):  # so that few rows are many
        chosen = greedy_coreset(features, count, first).tolist()
    squared = torch.cdist(features.double(), features.double()).square()
    assert chosen[0] == first
    assert len(set(chosen)) == len(chosen) == count
    for number in range(1, count):
        away = squared[:, chosen[:number]].amin(dim=1)
        assert away[chosen[number]] >= away.max() - 1e-5


@pytest.mark.parametrize("hot", [2, 100])
def test_rows_that_are_alike_are_each_chosen_once(hot: int) -> None:
    features = torch.ones(9, 3).index_fill(0, torch.tensor([4]), 5.0)
    with patch.object(coreset, "LEAST_HOT", hot):
        chosen = greedy_coreset(features, 9, 7).tolist()
    assert chosen[:2] == [7, 4]
    assert sorted(chosen) == list(range(9))


def test_memory_that_a_model_takes_is_counted() -> None:
    start = start_mb()
    if start is None:
        pytest.skip("no /proc here")
    taken = np.ones(40_000_000, np.uint8)
    grown = grown_mb(start)
    assert grown is not None
    assert 39 <= grown <= 80
    assert taken[0]


def test_latency_and_memory_are_in_the_table() -> None:
    (row,) = rows(summary([result(figures={"memory_mb": 120.4}), result(seed=1, figures={"memory_mb": 121.0})]))
    assert (row["ms"], row["MB"]) == ("4", "121")
    (row,) = rows(summary([result()]))  # of before it was measured
    assert row["MB"] == "-"


def test_weights_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"weight wants \(5, 3, 1, 1\), next is"):
        reference.load_by_order(nn.Conv2d(3, 5, 1))


@without_anomalib
def test_without_anomalib_it_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = make_dataset(tmp_path / "nuts")
    assert main(["--data", str(data), "--results", str(tmp_path / "results"), "--method", "padim"]) == 2
    assert "make peers-venv" in capfd.readouterr().err.splitlines()[-1]


def test_peers_see_what_ours_sees(tmp_path: Path) -> None:
    assert view_of([]) == View(Layout(256, 256))
    split = split_good(make_dataset(tmp_path / "data"), 0.25, 0)
    config = tiny_config(input={"height": 32, "width": 32, "tiles": {"rows": 2, "columns": 2, "overlap": 8}})
    tiled = create(tmp_path / "tiled", config, split, 0).path
    view = view_of([tiled])
    assert view.layout == Layout(32, 32, rows=2, columns=2, overlap=8)
    assert view.told()["overlap"] == 8
    plain = create(tmp_path / "plain", tiny_config(), split, 0).path
    assert view_of([plain]).told() == {"height": 32, "width": 32}
    with pytest.raises(ConfigError, match=r"plain has another size, fit, tiles or ROI than .*tiled: compare them one"):
        view_of([tiled, plain])


def test_ours_is_opened_before_any_peer_is_fitted(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = make_dataset(tmp_path / "nuts")
    with patch("benchmarks.peers.__main__.apart", side_effect=AssertionError("a peer was fitted")):
        command = ["--data", data, "--results", tmp_path / "results", "--method", "padim", "--ours", tmp_path / "no"]
        assert main([str(word) for word in command]) == 2
    assert "is not a run" in capfd.readouterr().err


def test_draem_needs_textures_and_time() -> None:
    with pytest.raises(ConfigError, match="--textures"):
        fit_draem(images(2), Settings(0, 0.1, 1.0, None))


def images(count: int, side: int = 64) -> NDArray[np.uint8]:
    """Noise; (count, side, side, 3)."""
    return np.random.default_rng(0).integers(0, 255, (count, side, side, 3), np.uint8)


@with_anomalib
def test_the_peers_see_the_features_that_ours_sees() -> None:
    model = reference.padim(PADIM_LAYERS, 100)
    image = torch.rand(2, 3, 64, 64)
    found = model.feature_extractor((image - MEAN) / STD)
    for one, other in zip(found.values(), PretrainedFeatures().eval()(image), strict=True):
        torch.testing.assert_close(one, other, atol=2e-3, rtol=1e-4)


@with_anomalib
def test_the_coreset_is_anomalibs() -> None:
    """Given three axes, it does not project either."""
    sampler = reference.load_anomalib("models.components").KCenterGreedy(torch.rand(300, 1, 6), 0.2)
    chosen = sampler.select_coreset_idxs()
    assert greedy_coreset(sampler.features, len(chosen), chosen[0]).tolist() == chosen


@with_anomalib
def test_patchcore_knows_what_it_has_seen_and_nothing_else() -> None:
    known = images(3)
    graph = fit_patchcore(known, Settings(0, 1.0, 0.0, None)).graph
    with torch.no_grad():
        seen, score, image = graph(torch.from_numpy(known[:2]))
        other, higher, _ = graph(torch.from_numpy(255 - known[:1] // 2))
    assert (seen.shape, score.shape, image.shape) == ((2, 64, 64), (2,), (2, 64, 64, 3))
    assert seen.max() < 0.02 * other.max()
    assert score.max() < 0.02 * higher.max()


@with_anomalib
def test_the_same_seed_gives_the_same_padim() -> None:
    known = images(4)
    first, second, third = (fit_padim(known, Settings(seed, 0.1, 0.0, None)).graph for seed in (1, 1, 2))
    for one, other in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other)
    assert not torch.equal(first.model.idx, third.model.idx)


@with_anomalib
def test_draem_trains(tmp_path: Path) -> None:
    write_png(tmp_path / "texture.png", images(1)[0])
    fitted = fit_draem(images(2), Settings(0, 0.1, 60.0, tmp_path, max_steps=2))
    assert fitted.steps == 2
    with torch.no_grad():
        anomaly_map, score, _ = fitted.graph(torch.from_numpy(images(1)))
    assert anomaly_map.shape == (1, 64, 64)
    assert 0 <= anomaly_map.min() <= anomaly_map.max() == score


@with_anomalib
@pytest.mark.slow
def test_one_command_makes_one_table(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    bundle = tiny_bundle(tmp_path)
    command = ["--data", tmp_path / "data", "--results", tmp_path / "results", "--coreset", "0.01"]
    assert main([str(word) for word in [*command, "--ours", bundle, tmp_path / "run"]]) == 0
    kept = read_results(tmp_path / "results")
    assert [r.config["input"] for r in kept if r.method == "padim"] == [{"height": 32, "width": 32}]
    assert {r.backend for r in kept if r.method == "diffusionad"} == {"onnxruntime", "torch"}
    assert {r.method for r in kept} == {"patchcore", "padim", "diffusionad"}
    assert {r.training.images for r in kept} == {6}
    assert all((r.figures.memory_mb or 0) > 0 and r.figures.pixel_ap is not None for r in kept)
    assert summary(kept) in capfd.readouterr().out
