"""The ONNX graph that TensorRT's builder gets: the types in it are the types that it computes in."""

from __future__ import annotations

from pathlib import Path

from edge_ad.bundle import Bundle
from edge_ad.config import Precision
from edge_ad.errors import BackendError


def typed_graph(bundle: Bundle, precision: Precision) -> bytes:
    """A bundle's graph in a precision: FP32 and INT8 as exported, FP16 made from FP32.

    Raises:
        BundleError: the bundle was not exported in INT8.
        BackendError: the `onnx` package is missing.
    """
    if precision == "fp16":
        return half(bundle.model_path(precision))
    return bundle.model_path(precision).read_bytes()


def half(path: Path) -> bytes:
    """A graph with all of its arithmetic in FP16, its outputs FP32 as before.

    Since TensorRT 11 a builder takes types from the graph and from nowhere else, and older ones can be told to. So the
    graph is typed here, by the converter of onnxruntime, and what TensorRT computes is what anybody can read in it.

    Raises:
        BackendError: the `onnx` package is missing.
    """
    try:
        import onnx
        from onnxruntime.transformers.float16 import convert_float_to_float16
    except ImportError as error:
        raise BackendError(f"FP16 needs the package onnx ({error}): pip install onnx") from error
    model = convert_float_to_float16(onnx.load(path), keep_io_types=True)
    seen: set[str] = set()
    for node in list(model.graph.node):
        if node.output[0] in seen:  # the converter repeats a Cast for each node that shares its input
            model.graph.node.remove(node)
        seen.add(node.output[0])
    serialized: bytes = model.SerializeToString()
    return serialized
