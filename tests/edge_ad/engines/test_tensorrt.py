"""Rules of TensorRT's own way to an engine: its parser and builder take what we export, in each precision.

TensorRT-RTX has TensorRT 11's parser and builder and runs without a GPU (make engines installs it). What it takes says
nothing about speed on a Jetson, and nothing about kernels: only that the graphs are TensorRT's language.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from edge_ad import demo
from edge_ad.bundle import open_bundle
from edge_ad.engines.onnx_graph import half, typed_graph
from edge_ad.engines.tensorrt import Limits, build_from_onnx
from edge_ad.errors import BackendError

# TensorRT has timings to keep, TensorRT-RTX says on every call that it has none any more.
pytestmark = pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX:DeprecationWarning")

DEMO = Path(demo.__file__).parent / "bundle"
Shape = tuple[int, int, int, int]


@pytest.fixture(scope="module")
def trt() -> ModuleType:
    return pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed (make engines installs it)")


@pytest.fixture
def limits(tmp_path: Path) -> Limits:
    return Limits(256 << 20, tmp_path / "timing.bin")


@pytest.fixture(scope="module", params=["demo", "edge"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Shape]:
    """The FP32 graph of a profile that ships: of the demo's bundle as it is, of the edge profile untrained."""
    if request.param == "demo":
        bundle = open_bundle(DEMO)
        return bundle.model_path("fp32"), (1, bundle.manifest.input.height, bundle.manifest.input.width, 3)
    pytest.importorskip("torch")
    from trainer.config import profile
    from trainer.export import export_graph
    from trainer.methods.base import build_method

    config = profile(request.param)
    path = tmp_path_factory.mktemp(request.param) / "model.onnx"
    onnx.save(export_graph(build_method(config, 0).eval(), config).model, str(path))
    return path, (1, config.input.height, config.input.width, 3)


class Noise(CalibrationDataReader):  # type: ignore[misc]
    """Images for a quantiser that need not be good, only there."""

    def __init__(self, shape: Shape) -> None:
        rng = np.random.default_rng(0)
        self._images: Iterator[dict[str, object]] = iter(
            [{"image": rng.integers(0, 256, shape, dtype=np.uint8)} for _ in range(2)]
        )

    def get_next(self) -> dict[str, object] | None:
        return next(self._images, None)


def quantised(path: Path, shape: Shape, out: Path, *, symmetric: bool) -> bytes:
    """The graph with Q/DQ pairs around its convolutions."""
    quantize_static(
        str(path),
        str(out),
        Noise(shape),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QInt8 if symmetric else QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["Conv"],
        extra_options={"ActivationSymmetric": symmetric, "WeightSymmetric": True, "QuantizeBias": False},
    )
    return out.read_bytes()


def test_the_builder_takes_fp32_and_a_smaller_fp16(
    trt: ModuleType, limits: Limits, exported: tuple[Path, Shape]
) -> None:
    path, shape = exported
    fp32 = build_from_onnx(trt, path.read_bytes(), shape, limits)
    fp16 = build_from_onnx(trt, half(path), shape, limits)
    assert 0 < len(fp16) < len(fp32)


def test_the_builder_takes_int8_of_symmetric_qdq_pairs(
    trt: ModuleType, limits: Limits, exported: tuple[Path, Shape], tmp_path: Path
) -> None:
    path, shape = exported
    int8 = tmp_path / "int8.onnx"
    assert len(build_from_onnx(trt, quantised(path, shape, int8, symmetric=True), shape, limits)) > 0
    assert len(build_from_onnx(trt, half(int8), shape, limits)) > 0  # with what is left in FP16


def test_the_parser_refuses_int8_with_a_zero_point_in_one_line(trt: ModuleType, limits: Limits, tmp_path: Path) -> None:
    """The control of the test above: asymmetric ranges, which other engines take, are none of TensorRT's."""
    bundle = open_bundle(DEMO)
    shape = (1, bundle.manifest.input.height, bundle.manifest.input.width, 3)
    graph = quantised(bundle.model_path("fp32"), shape, tmp_path / "int8.onnx", symmetric=False)
    with pytest.raises(BackendError, match=r"TensorRT .* cannot (parse|build) the graph: .+") as refused:
        build_from_onnx(trt, graph, shape, limits)
    assert "\n" not in str(refused.value)


def test_an_operator_that_tensorrt_has_not_is_refused_in_one_line(trt: ModuleType, limits: Limits) -> None:
    tensor = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Cast", ["image"], ["raw"], to=TensorProto.FLOAT),
        helper.make_node("Det", ["raw"], ["score"]),
    ]
    ends = [tensor("image", TensorProto.UINT8, ["N", 4, 3, 3])], [tensor("score", TensorProto.FLOAT, ["N", 4])]
    model = helper.make_model(
        helper.make_graph(nodes, "det", *ends), opset_imports=[helper.make_opsetid("", 18)], ir_version=9
    )
    with pytest.raises(BackendError, match="cannot parse the graph") as refused:
        build_from_onnx(trt, model.SerializeToString(), (1, 4, 3, 3), limits)
    assert "\n" not in str(refused.value)


def test_what_is_no_graph_is_refused_in_one_line(trt: ModuleType, limits: Limits) -> None:
    with pytest.raises(BackendError, match="cannot parse the graph") as refused:
        build_from_onnx(trt, b"not a graph", (1, 8, 8, 3), limits)
    assert "\n" not in str(refused.value)


def test_a_damaged_file_of_timings_is_no_obstacle(trt: ModuleType, limits: Limits) -> None:
    limits.timing_cache.write_bytes(b"damaged")
    bundle = open_bundle(DEMO)
    shape = (1, bundle.manifest.input.height, bundle.manifest.input.width, 3)
    assert build_from_onnx(trt, typed_graph(bundle, "fp32"), shape, limits)
