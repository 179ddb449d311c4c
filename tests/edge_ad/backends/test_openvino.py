"""Rules of the OpenVINO back-end beyond the contract: what it refuses, and that FP32 is FP32."""

from __future__ import annotations

import sys
from pathlib import Path

import onnx
import pytest

from edge_ad.backends import openvino as adapter
from edge_ad.backends.base import open_backend
from edge_ad.bundle import Bundle, open_bundle
from edge_ad.config import BackendConfig
from edge_ad.errors import BackendError, ConfigError
from tests.bundles import make_bundle

OPENVINO = BackendConfig(name="openvino", threads=1)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return open_bundle(make_bundle(tmp_path / "bundle"))


def test_without_openvino_the_extra_is_named(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(BackendError, match=r"openvino does not load .*: install edge-ad\[openvino\], or set backend"):
        open_backend(bundle, OPENVINO)


@pytest.mark.parametrize("device", ["cuda", "tensorrt"])
def test_another_device_is_refused_and_not_replaced(bundle: Bundle, device: str) -> None:
    config = BackendConfig.model_validate({"name": "openvino", "device": device})
    with pytest.raises(ConfigError, match=f"openvino runs on the CPU, not on {device}: set device: cpu"):
        open_backend(bundle, config)


def test_a_precision_below_that_of_the_file_is_refused(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a CPU with bfloat16 does on its own must never come in silently."""
    openvino = pytest.importorskip("openvino")
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this CPU has no bfloat16")
    careless = {**adapter.settings(OPENVINO), adapter.PRECISION_HINT: "bf16"}
    monkeypatch.setattr(adapter, "settings", lambda config: careless)
    with pytest.raises(BackendError, match="openvino would compute in bf16, not in f32"):
        open_backend(bundle, OPENVINO)


def test_a_graph_that_it_does_not_know_is_one_line(bundle: Bundle) -> None:
    pytest.importorskip("openvino")
    path = bundle.model_path("fp32")
    model = onnx.load(path)
    model.graph.node[0].op_type = "Riddle"
    onnx.save(model, path)
    with pytest.raises(BackendError, match=r"openvino refused .*model\.onnx: .*Riddle") as refused:
        adapter.OpenVinoBackend(bundle, OPENVINO)
    assert "\n" not in str(refused.value)
