"""Rules of the OpenVINO back-end beyond the contract: what it refuses, and that FP32 is FP32."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
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


def blobs(state: Path) -> list[Path]:
    return sorted((state / "engines" / "openvino").rglob("*.blob"))


def test_what_it_compiled_is_there_at_the_next_start_and_made_anew_where_it_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    bundles = [open_bundle(make_bundle(tmp_path / name, size)) for name, size in (("a", 32), ("b", 48))]
    first = [open_backend(bundle, OPENVINO).run(bundle.golden("fp32").image) for bundle in bundles]
    kept = blobs(tmp_path)
    assert len({blob.parent for blob in kept}) == len(kept) == 2  # a folder for each bundle
    times = [blob.stat().st_mtime_ns for blob in kept]
    again = [open_backend(bundle, OPENVINO).run(bundle.golden("fp32").image) for bundle in bundles]
    assert [blob.stat().st_mtime_ns for blob in blobs(tmp_path)] == times
    for blob in kept:
        blob.chmod(0o600)
        blob.write_bytes(blob.read_bytes()[:100])
    mended = [open_backend(bundle, OPENVINO).run(bundle.golden("fp32").image) for bundle in bundles]
    for one, other, third in zip(first, again, mended, strict=True):
        np.testing.assert_array_equal(one.anomaly_map, other.anomaly_map)
        np.testing.assert_array_equal(one.anomaly_map, third.anomaly_map)


def test_without_a_place_for_it_it_compiles_each_time(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    (tmp_path / "file").touch()
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "file"))
    open_backend(bundle, OPENVINO).close()
    assert (tmp_path / "file").read_bytes() == b""


def test_a_graph_that_it_does_not_know_is_one_line(bundle: Bundle) -> None:
    pytest.importorskip("openvino")
    path = bundle.model_path("fp32")
    model = onnx.load(path)
    model.graph.node[0].op_type = "Riddle"
    onnx.save(model, path)
    with pytest.raises(BackendError, match=r"openvino refused .*model\.onnx: .*Riddle") as refused:
        adapter.OpenVinoBackend(bundle, OPENVINO)
    assert "\n" not in str(refused.value)
