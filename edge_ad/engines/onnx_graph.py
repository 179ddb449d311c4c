"""The ONNX graph that TensorRT's builder gets: the types in it are the types that it computes in."""

from __future__ import annotations

from pathlib import Path

from edge_ad.bundle import Bundle
from edge_ad.config import Precision
from edge_ad.errors import BackendError

QDQ_OPSET = 19  # since it, QuantizeLinear and DequantizeLinear know FP16; TensorRT 10.3 (JetPack 6) reads up to 20


def typed_graph(bundle: Bundle, precision: Precision) -> bytes:
    """A bundle's graph in a precision.

    FP32 is the bundle's file as it is. FP16 is made from it, and so is INT8 from the bundle's INT8 file: its quantised
    layers stay INT8, what is left of the arithmetic is FP16, which a Jetson computes several times faster than FP32.

    Raises:
        BundleError: the bundle was not exported in INT8.
        BackendError: the `onnx` package is missing.
    """
    path = bundle.model_path(precision)
    return path.read_bytes() if precision == "fp32" else half(path)


def half(path: Path) -> bytes:
    """A graph with all of its FP32 arithmetic in FP16, its outputs FP32 as before.

    Since TensorRT 11 a builder takes types from the graph and from nowhere else, and older ones can be told to. So the
    graph is typed here, by the converter of onnxruntime, and what TensorRT computes is what anybody can read in it.

    Raises:
        BackendError: the `onnx` package is missing.
    """
    try:
        import onnx
        from onnxruntime.transformers.float16 import convert_float_to_float16
        from onnxruntime.transformers.onnx_model import OnnxModel
    except ImportError as error:
        raise BackendError(f"FP16 needs the package onnx, also beside INT8 ({error}): pip install onnx") from error
    model = convert_float_to_float16(onnx.load(path), keep_io_types=True)
    seen: set[str] = set()
    for node in list(model.graph.node):
        if node.output[0] in seen:  # the converter repeats a Cast for each node that shares its input
            model.graph.node.remove(node)
        seen.add(node.output[0])
    OnnxModel(model).topological_sort()  # it puts a Cast behind the nodes that read it
    del model.graph.value_info[:]  # some types in it are those of before; who needs them infers them
    if any(node.op_type == "QuantizeLinear" for node in model.graph.node):
        for opset in model.opset_import:
            if opset.domain == "":
                opset.version = max(opset.version, QDQ_OPSET)
    serialized: bytes = model.SerializeToString()
    return serialized
