"""Rules of the graph that TensorRT gets: what it computes in is written in it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from edge_ad import demo
from edge_ad.backends.base import OUTPUTS, max_errors
from edge_ad.bundle import MODEL_FILE, Bundle, open_bundle
from edge_ad.engines.onnx_graph import half, typed_graph
from edge_ad.errors import BackendError, BundleError
from edge_ad.records import RawOutput
from tests.bundles import make_bundle
from tests.quantising import int8_graph, run_plainly

DEMO = Path(demo.__file__).parent / "bundle"


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return open_bundle(DEMO)


def test_fp32_is_the_bundles_file_as_it_is(bundle: Bundle) -> None:
    assert typed_graph(bundle, "fp32") == (DEMO / MODEL_FILE["fp32"]).read_bytes()


def test_int8_needs_a_bundle_that_was_exported_in_it(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"holds no int8 model \(model\.int8\.onnx\)"):
        typed_graph(open_bundle(make_bundle(tmp_path / "bundle")), "int8")


def test_in_fp16_every_convolution_has_fp16_weights(bundle: Bundle) -> None:
    graph = onnx.load_from_string(typed_graph(bundle, "fp16")).graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert len(convolutions) > 30
    assert {types[name] for node in convolutions for name in node.input[1:]} == {TensorProto.FLOAT16}


def test_in_fp16_inputs_and_outputs_stay_what_the_contract_says(bundle: Bundle) -> None:
    graph = onnx.load_from_string(typed_graph(bundle, "fp16")).graph
    assert [(tensor.name, tensor.type.tensor_type.elem_type) for tensor in [*graph.input, *graph.output]] == [
        ("image", TensorProto.UINT8),
        *((name, TensorProto.FLOAT) for name in OUTPUTS),
    ]


def test_in_fp16_the_golden_images_are_within_half_of_what_the_manifest_allows(bundle: Bundle) -> None:
    """ONNX Runtime rounds to FP16 behind every operator; the other half is for a GPU's order of adding up."""
    session = ort.InferenceSession(typed_graph(bundle, "fp16"), providers=["CPUExecutionProvider"])
    golden = bundle.golden()
    errors = max_errors(RawOutput(*session.run(OUTPUTS, {"image": golden.image})), golden.expected)
    allowed = bundle.manifest.tolerances["tensorrt/fp16"].model_dump()
    assert {name: errors[name] <= allowed[name] / 2 for name in errors} == dict.fromkeys(errors, True), errors


def test_in_fp16_a_batch_of_any_size_still_runs(bundle: Bundle) -> None:
    session = ort.InferenceSession(typed_graph(bundle, "fp16"), providers=["CPUExecutionProvider"])
    image = bundle.golden().image
    assert session.run(["score"], {"image": np.concatenate([image, image[:1]])})[0].shape == (3,)


@pytest.fixture(scope="module")
def int8(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's graph with every second layer in INT8."""
    model = onnx.load(bundle.model_path("fp32"))
    return int8_graph(model, tmp_path_factory.mktemp("int8") / MODEL_FILE["int8"], every=2)


def test_in_int8_what_is_left_is_fp16(int8: Path) -> None:
    graph = onnx.load_from_string(half(int8)).graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    dequantised = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    weights = [node.input[1] for node in graph.node if node.op_type == "Conv"]
    left = [name for name in weights if name not in dequantised]
    assert len(weights) // 3 < len(left) < len(weights)
    assert {constants[name].data_type for name in left} == {TensorProto.FLOAT16}
    scales = {node.input[1] for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")}
    assert {constants[name].data_type for name in scales} == {TensorProto.FLOAT16}


def test_in_int8_the_scales_are_those_of_the_bundle(int8: Path) -> None:
    def scales(graph: bytes) -> dict[str, NDArray[np.floating]]:
        constants = onnx.load_from_string(graph).graph.initializer
        return {one.name: numpy_helper.to_array(one) for one in constants if one.name.endswith("/scale")}

    before, after = scales(int8.read_bytes()), scales(half(int8))
    assert before
    assert {name: (value == after[name]).all() for name, value in before.items()} == dict.fromkeys(before, True)


@pytest.mark.parametrize("source", ["fp32", "int8"])
def test_the_graph_is_valid_onnx(bundle: Bundle, int8: Path, source: str) -> None:
    """In order, and with operators that take these types: engines are lenient, not all of them."""
    graph = half(int8 if source == "int8" else bundle.model_path("fp32"))
    onnx.checker.check_model(onnx.load_from_string(graph), full_check=True)


def test_int8_with_fp16_is_within_half_of_what_the_manifest_allows(bundle: Bundle, int8: Path) -> None:
    image = bundle.golden().image
    found, expected = (RawOutput(*run_plainly(graph, image, OUTPUTS)) for graph in (half(int8), int8.read_bytes()))
    errors = max_errors(found, expected)
    allowed = bundle.manifest.tolerances["tensorrt/int8"].model_dump()
    assert {name: errors[name] <= allowed[name] / 2 for name in errors} == dict.fromkeys(errors, True), errors


def test_without_onnx_the_package_is_named(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(BackendError, match=r"FP16 needs the package onnx, also beside INT8 .*: pip install onnx"):
        typed_graph(bundle, "fp16")


def test_the_daemons_imports_hold_no_onnx() -> None:
    code = "import sys, edge_ad.engines.service; sys.exit('onnx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
