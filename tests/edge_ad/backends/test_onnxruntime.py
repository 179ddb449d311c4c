"""Rules of ONNX Runtime on a GPU, as far as they hold without one: what the GPU does not do, nobody does unnoticed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import EPFail

from edge_ad.backends import onnxruntime as adapter
from edge_ad.backends.onnxruntime import PROVIDERS, OnnxRuntimeBackend
from edge_ad.bundle import Bundle, open_bundle
from edge_ad.config import BackendConfig
from edge_ad.errors import BackendError
from tests.bundles import make_bundle

BLACK = np.zeros((1, 32, 32, 3), np.uint8)
GPUS = ["cuda", "tensorrt"]


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return open_bundle(make_bundle(tmp_path / "bundle"))


@pytest.fixture(autouse=True)
def override(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that what is set for TensorRT is gone after the test."""
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")


def on(device: str) -> BackendConfig:
    return BackendConfig.model_validate({"device": device, "threads": 1})


class Failing:
    """A session as it is, but its GPU fails."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run(self, *_: object) -> Any:
        raise EPFail("CUDA failure 700: an illegal memory access was encountered")


def test_a_gpu_that_fails_in_a_run_is_not_replaced_by_the_cpu(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It would load the graph on the CPU, say so on stdout and go on from there."""
    made: list[ort.InferenceSession] = []
    make = ort.InferenceSession

    def start(*arguments: Any, **options: Any) -> ort.InferenceSession:
        made.append(make(*arguments, **options))
        return made[-1]

    monkeypatch.setattr(ort, "InferenceSession", start)
    backend = OnnxRuntimeBackend(bundle, on("cpu"))
    made[0]._sess = Failing(made[0]._sess)
    for _ in range(2):
        with pytest.raises(BackendError, match="onnxruntime failed: CUDA failure 700"):
            backend.run(BLACK)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("device", GPUS)
def test_a_provider_that_leaves_work_to_the_cpu_is_refused(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    """Azure's provider is in every build, starts, and takes nothing of a graph."""
    if "AzureExecutionProvider" not in ort.get_available_providers():
        pytest.skip("this onnxruntime has no provider that takes nothing")
    monkeypatch.setitem(PROVIDERS, device, {"AzureExecutionProvider": {}})
    with pytest.raises(BackendError, match=f"onnxruntime refused .* on {device}: .*CPU") as refused:
        OnnxRuntimeBackend(bundle, on(device))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("device", GPUS)
def test_fp32_on_a_gpu_is_not_tf32(bundle: Bundle, monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    asked: dict[str, dict[str, str]] = {}
    environment: list[str] = []

    def start(path: str, options: object, providers: list[tuple[str, dict[str, str]]], **_: object) -> None:
        asked.update(providers)
        environment.append(os.environ["NVIDIA_TF32_OVERRIDE"])
        raise RuntimeError("seen enough")

    monkeypatch.setattr(ort, "get_available_providers", lambda: list(adapter.PROVIDERS[device]))
    monkeypatch.setattr(ort, "InferenceSession", start)
    with pytest.raises(BackendError, match="seen enough"):
        OnnxRuntimeBackend(bundle, on(device))
    assert asked["CUDAExecutionProvider"] == {"use_tf32": "0"}
    assert "CPUExecutionProvider" not in asked  # it comes last by itself, and asked for it may not be forbidden
    assert environment == ["0" if device == "tensorrt" else "1"]
