"""An INT8 graph without a training: ranges are what a few images give."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import ModelProto

from trainer.golden import golden_images
from trainer.qdq import convolutions, quantise_graph, quantised_tensors, with_outputs


def int8_graph(model: ModelProto, path: Path, every: int = 1) -> Path:
    """Write a network's graph with each, or each second, third ... convolution in INT8."""
    layers = list(convolutions(model))[::every]
    tensors = quantised_tensors(model, layers)
    found = run_plainly(with_outputs(model, tensors).SerializeToString(), images_of(model), tensors)
    ranges = {name: float(np.abs(value).max()) for name, value in zip(tensors, found, strict=True)}
    onnx.save(quantise_graph(model, ranges, layers), str(path))
    return path


def images_of(model: ModelProto) -> NDArray[np.uint8]:
    """Two golden images of the size that a graph takes, (2, H, W, 3)."""
    _, height, width, _ = (dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim)
    return golden_images(2, height, width)


def run_plainly(graph: bytes, image: NDArray[np.uint8], outputs: Sequence[str]) -> list[NDArray[np.float32]]:
    """Run a graph node by node: ONNX Runtime's fusions of Q/DQ pairs compute something else where scales are FP16."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    found: list[NDArray[np.float32]] = session.run(list(outputs), {"image": image})
    return found
