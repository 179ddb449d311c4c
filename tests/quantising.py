"""INT8 without a training: ranges are what a few images give."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import ModelProto

from edge_ad.backends.base import OUTPUTS
from edge_ad.backends.onnxruntime import as_written
from edge_ad.bundle import GOLDEN, GOLDEN_PREFIX, MANIFEST, MODEL_FILE, manifest_digest
from tests.bundles import int8_summary
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


def with_int8(bundle: Path, out: Path) -> Path:
    """A copy of a bundle that is there in INT8 too, with golden outputs of its own."""
    shutil.copytree(bundle, out)
    int8_graph(onnx.load(out / MODEL_FILE["fp32"]), out / MODEL_FILE["int8"])
    with np.load(out / GOLDEN) as arrays:
        golden = dict(arrays)
    session = ort.InferenceSession(str(out / MODEL_FILE["int8"]), as_written(), providers=["CPUExecutionProvider"])
    for name, value in zip(OUTPUTS, session.run(OUTPUTS, {"image": golden["image"]}), strict=True):
        golden[f"{GOLDEN_PREFIX['int8']}{name}"] = value
    np.savez(out / GOLDEN, **golden)
    fields = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
    for name in (MODEL_FILE["int8"], GOLDEN):
        data = (out / name).read_bytes()
        fields["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    drift = {"anomaly_map": 0.05, "reconstruction": 0.05, "score": 0.05}
    fields["int8"] = int8_summary() | {"golden_drift": drift}
    fields["digest"] = manifest_digest(fields)
    (out / MANIFEST).write_text(json.dumps(fields), encoding="utf-8")
    return out


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
