"""Rules of ONNX Runtime on a GPU, as far as they hold without one: what the GPU does not do, nobody does unnoticed."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import EPFail

from edge_ad import demo
from edge_ad.backends import onnxruntime as adapter
from edge_ad.backends.onnxruntime import PROVIDERS, TENSORRT, OnnxRuntimeBackend
from edge_ad.bundle import Bundle, open_bundle
from edge_ad.config import BackendConfig
from edge_ad.errors import BackendError
from tests.bundles import make_bundle
from tests.quantising import with_int8

BLACK = np.zeros((1, 32, 32, 3), np.uint8)
GPUS = ["cuda", "tensorrt"]
DEMO = Path(demo.__file__).parent / "bundle"
MAKE = ort.InferenceSession  # also where it is replaced


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return open_bundle(make_bundle(tmp_path / "bundle"))


@pytest.fixture(autouse=True)
def override(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """So that what is set for TensorRT is gone after the test, and what it keeps is with it."""
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))


def on(device: str, precision: str = "fp32") -> BackendConfig:
    return BackendConfig.model_validate({"device": device, "precision": precision, "threads": 1})


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


@dataclass
class Asked:
    """What a session would have been made of."""

    providers: dict[str, dict[str, str]] = field(default_factory=dict)
    options: ort.SessionOptions = None
    override: str = ""


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch) -> Callable[[Bundle, BackendConfig], Asked]:
    """Opens the back-end as if all providers were there, as far as the session."""
    asked = Asked()

    def start(path: str, options: ort.SessionOptions, providers: list[tuple[str, dict[str, str]]], **_: object) -> None:
        asked.providers, asked.options = dict(providers), options
        asked.override = os.environ["NVIDIA_TF32_OVERRIDE"]
        raise RuntimeError("seen enough")

    def open_it(bundle: Bundle, config: BackendConfig) -> Asked:
        monkeypatch.setattr(ort, "get_available_providers", lambda: list(adapter.PROVIDERS[config.device]))
        monkeypatch.setattr(ort, "InferenceSession", start)
        with pytest.raises(BackendError, match="seen enough"):
            OnnxRuntimeBackend(bundle, config)
        return asked

    return open_it


Ask = Callable[[Bundle, BackendConfig], Asked]


@pytest.mark.parametrize("device", GPUS)
def test_fp32_on_a_gpu_is_not_tf32(bundle: Bundle, ask: Ask, device: str) -> None:
    asked = ask(bundle, on(device))
    assert asked.providers["CUDAExecutionProvider"] == {"use_tf32": "0"}
    assert (
        "CPUExecutionProvider" not in asked.providers
    )  # it comes last by itself, and may not be forbidden if asked for
    assert asked.override == ("0" if device == "tensorrt" else "1")


@pytest.mark.parametrize(("precision", "int8"), [("fp32", "False"), ("int8", "True")])
def test_tensorrts_provider_is_told_the_precision_and_never_fp16(
    ask: Ask, tmp_path: Path, precision: str, int8: str
) -> None:
    both = open_bundle(make_bundle(tmp_path / "both", int8=True))
    options = ask(both, on("tensorrt", precision)).providers[TENSORRT]
    assert (options["trt_int8_enable"], options["trt_fp16_enable"]) == (int8, "False")


def test_tensorrts_engines_are_kept_apart_for_each_bundle_and_precision(ask: Ask, tmp_path: Path) -> None:
    """The provider itself does not tell two graphs of one structure apart."""
    bundles = [open_bundle(make_bundle(tmp_path / name, size, int8=True)) for name, size in (("a", 32), ("b", 48))]
    folders = set()
    for bundle in bundles:
        for precision in ("fp32", "int8"):
            options = ask(bundle, on("tensorrt", precision)).providers[TENSORRT]
            assert (options["trt_engine_cache_enable"], options["trt_timing_cache_enable"]) == ("True", "True")
            folders.add(Path(options["trt_engine_cache_path"]))
    assert len(folders) == 4
    assert {folder.parent for folder in folders} == {tmp_path / "state" / "engines" / "onnxruntime"}
    assert {folder.stat().st_mode & 0o777 for folder in folders} == {0o700}


def test_without_a_place_for_them_tensorrts_engines_are_not_kept(
    ask: Ask, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "file"))
    assert ask(bundle, on("tensorrt")).providers[TENSORRT].keys() == {"trt_fp16_enable", "trt_int8_enable"}


def test_tensorrt_gets_the_pairs_of_the_weights_too(ask: Ask, tmp_path: Path) -> None:
    """On the CPU those are folded into FP32 weights; then TensorRT would have nothing to compute in INT8."""
    demo_int8 = open_bundle(with_int8(DEMO, tmp_path / "int8"))
    pairs = {"file": quantised_weights(demo_int8.model_path("int8"))}
    for device in ("cpu", "tensorrt"):
        options = ask(demo_int8, on(device, "int8")).options
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "0")  # it stands in for TensorRT here
        options.optimized_model_filepath = str(tmp_path / f"{device}.onnx")
        MAKE(str(demo_int8.model_path("int8")), options, providers=["CPUExecutionProvider"])
        pairs[device] = quantised_weights(tmp_path / f"{device}.onnx")
    assert pairs["tensorrt"] == pairs["file"] > 0 == pairs["cpu"]


def quantised_weights(path: Path) -> int:
    """Convolutions whose weights a DequantizeLinear gives."""
    nodes = onnx.load(path).graph.node
    made = {name for node in nodes if node.op_type == "DequantizeLinear" for name in node.output}
    return sum(node.op_type == "Conv" and node.input[1] in made for node in nodes)
