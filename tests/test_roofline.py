"""Rules of the predicted speed: a bound is a bound, and docs/jetson.md tells what the command prints."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

from benchmarks.roofline import BOARDS, REACHED, Board, main, predict, read, summary, table
from tests.bundles import with_tiles
from trainer.macs import Layer

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "edge_ad" / "demo" / "bundle"
BOARD = Board("round numbers", tensor_cores=10, fp16_per_clock=100, ghz=1.0, gbytes_per_s=1.0)  # 1 TFLOP/s


def test_a_layer_takes_the_longer_of_its_two_times() -> None:
    by_compute, by_memory = Layer("a", macs=500_000_000, elements=1), Layer("b", macs=1, elements=1_500_000)
    found = predict([by_compute, by_memory], BOARD, "fp16")
    assert found.bound_ms == pytest.approx(1.0 + 3.0)
    assert found.compute_ms == pytest.approx(1.0)
    assert found.memory_ms == pytest.approx(3.0)


def test_int8_halves_both_times() -> None:
    layer = [Layer("a", macs=500_000_000, elements=1), Layer("b", macs=1, elements=1_500_000)]
    assert predict(layer, BOARD, "int8").bound_ms == pytest.approx(predict(layer, BOARD, "fp16").bound_ms / 2)


def test_a_layer_that_int8_leaves_out_takes_as_long_as_in_fp16() -> None:
    layer = [Layer("a", macs=500_000_000, elements=1), Layer("b", macs=1, elements=1_500_000)]
    assert predict(layer, BOARD, "int8", {"b"}).bound_ms == pytest.approx(1.0 / 2 + 3.0)


def test_nothing_is_expected_to_pass_its_bound_and_a_larger_board_is_never_slower() -> None:
    found = read(str(DEMO)).layers
    expected = [predict(found, board, "fp16") for board in BOARDS]
    assert all(one.expected_ms > one.bound_ms / REACHED for one in expected)
    assert expected[0].expected_ms >= expected[1].expected_ms >= expected[3].expected_ms >= expected[4].expected_ms


def test_the_tiles_of_a_frame_share_the_weights_and_nothing_else(tmp_path: Path) -> None:
    tiled = with_tiles(DEMO, tmp_path / "tiled", rows=2, columns=3)
    for one, six in zip(read(str(DEMO)).layers, read(str(tiled)).layers, strict=True):
        assert six.macs == 6 * one.macs
        assert one.elements < six.elements < 6 * one.elements


def test_a_graph_that_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nosuch"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: no profile 'nosuch': choose from ")
    assert said.count("\n") == 1


@pytest.mark.slow
def test_the_page_tells_what_the_command_prints() -> None:
    found = read("edge").layers
    page = (ROOT / "docs" / "jetson.md").read_text(encoding="utf-8")
    assert summary(found) in page
    for line in table([predict(found, board, precision) for board in BOARDS for precision in ("fp16", "int8")]):
        assert line in page
