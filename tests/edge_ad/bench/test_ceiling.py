"""Rules of the bare convolutions that engines are compared with; no rate is asserted."""

from __future__ import annotations

import importlib.util
import json
import sys

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from edge_ad.backends.base import PRECISIONS
from edge_ad.bench import ceiling
from edge_ad.bench.ceiling import LENGTH, LIBRARIES, Chain, onnx_chain, rate
from edge_ad.bench.rounds import ENGINES
from edge_ad.config import Precision
from trainer.macs import count_macs

SMALL = Chain(8, 6)
CASES = [(library, precision) for library, (precisions, _) in LIBRARIES.items() for precision in precisions]


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_chain_has_the_multiply_accumulates_that_its_rate_is_of(precision: Precision) -> None:
    model = onnx.load_from_string(onnx_chain(SMALL, precision))
    onnx.checker.check_model(model, full_check=True)
    assert count_macs(model) == SMALL.macs == LENGTH * 9 * 8 * 8 * 36


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_values_neither_vanish_nor_clip_on_their_way(precision: Precision) -> None:
    """Zeros or saturated codes could be faster than what a network computes."""
    session = ort.InferenceSession(onnx_chain(Chain(64, 16), precision))
    [found] = session.run(None, {"image": Chain(64, 16).image()})
    assert found.std() > 1e-3
    assert np.abs(found).max() < 127 * ceiling.SCALE


@pytest.mark.parametrize(("library", "precision"), CASES)
def test_every_library_runs_every_precision_of_its_row(
    library: str, precision: Precision, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    monkeypatch.setattr(ceiling, "CHAINS", (SMALL,))
    assert ceiling.main(library, precision, "0") == 0
    rates = json.loads(capsys.readouterr().out)["rates"]
    assert rates.keys() == {SMALL.label}
    assert rates[SMALL.label] > 0


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime"])
def test_what_is_missing_is_the_reason(
    missing: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    assert ceiling.main("onnxruntime", "fp32", "0") == 0
    reason = json.loads(capsys.readouterr().out)["reason"]
    assert reason.startswith("onnxruntime fp32: ")
    assert missing in reason


def test_each_precision_of_an_engine_on_the_cpu_has_a_ceiling() -> None:
    on_cpu = {precision for engine in ENGINES if engine.device == "cpu" for precision in PRECISIONS[engine.name]}
    assert {precision for _, precision in CASES} == on_cpu


def test_a_rate_is_taken_of_at_least_one_run() -> None:
    runs: list[int] = []
    assert rate(SMALL, lambda: runs.append(1), 0.0) > 0
    assert len(runs) == ceiling.WARM_UP + 1
