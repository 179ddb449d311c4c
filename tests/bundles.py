"""A small real bundle for tests: its graph sees darkness, so that a test can paint a defect on an image.

`anomaly_map` is 1 minus the brightness, averaged over 3 x 3 pixels; `score` the mean of its `top_k` largest pixels.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edge_ad.backends.base import OUTPUTS
from edge_ad.backends.onnxruntime import as_written
from edge_ad.bundle import GOLDEN, GOLDEN_PREFIX, MANIFEST, MODEL_FILE, SCHEMA, SCHEMA_VERSION, manifest_digest
from edge_ad.core.layout import Layout

STALL_PIXEL = 255  # with `stalls`, an image whose first red pixel is so bright keeps the engine busy for hours


# What a back-end says that cannot run here; whatever else it says is a failure.
NOT_HERE = re.compile(
    r"does not load|not installed|no CUDA|no VNNI|sees no CUDA device|there is no nvcc|has no \w+ExecutionProvider"
)


def make_bundle(
    path: Path,
    size: int = 32,
    top_k: int = 4,
    *,
    stalls: bool = False,
    int8: bool = False,
    layout: Layout | None = None,
) -> Path:
    """Write a bundle with square input to `path`.

    Args:
        path: a new folder.
        size: pixels.
        top_k: of the score.
        stalls: plant a loop that one image can start.
        int8: with a graph in which brightness has 127 steps.
        layout: says fit and tiles; without one the manifest is of a time before there were tiles.
    """
    path.mkdir(parents=True)
    onnx.save(darkness_graph(size, top_k, stalls=stalls), path / MODEL_FILE["fp32"])
    if int8:
        onnx.save(darkness_graph(size, top_k, stalls=stalls, int8=True), path / MODEL_FILE["int8"])
    _write_golden(path, size)
    _write_manifest(path, size, top_k, layout)
    return path


def darkness_graph(size: int, top_k: int, *, stalls: bool, int8: bool = False) -> onnx.ModelProto:
    """The graph of the contract, uint8 (N, H, W, 3) to map, score and reconstruction."""
    shape = ["N", size, size]
    stored = [
        helper.make_node("QuantizeLinear", ["bright", "step", "zero"], ["codes"]),
        helper.make_node("DequantizeLinear", ["codes", "step", "zero"], ["brightness"]),
    ]
    nodes = [
        helper.make_node("Cast", ["image"], ["raw"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["raw", "full"], ["unit"]),
        helper.make_node("Transpose", ["unit"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("ReduceMean", ["planes", "channels"], ["bright"], keepdims=1),
        *(stored if int8 else [helper.make_node("Identity", ["bright"], ["brightness"])]),
        helper.make_node("Sub", ["one", "brightness"], ["darkness"]),
        helper.make_node("AveragePool", ["darkness"], ["blurred"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Squeeze", ["blurred", "channels"], ["anomaly_map"]),
        helper.make_node("Flatten", ["anomaly_map"], ["pixels"], axis=1),
        helper.make_node("TopK", ["pixels", "top_k"], ["darkest", "places"], axis=1),
        helper.make_node("ReduceMean", ["darkest", "channels"], ["top_mean"], keepdims=0),
        *(_stall_nodes() if stalls else [helper.make_node("Identity", ["top_mean"], ["score"])]),
        helper.make_node("Identity", ["unit"], ["reconstruction"]),
    ]
    constants = {
        "full": np.float32(255),
        "one": np.float32(1),
        "channels": np.array([1], np.int64),
        "top_k": np.array([top_k], np.int64),
        **(_stall_constants() if stalls else {}),
        **({"step": np.float32(1 / 127), "zero": np.int8(0)} if int8 else {}),
    }
    graph = helper.make_graph(
        nodes,
        "darkness",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [*shape, 3])],
        [
            helper.make_tensor_value_info("anomaly_map", TensorProto.FLOAT, shape),
            helper.make_tensor_value_info("score", TensorProto.FLOAT, ["N"]),
            helper.make_tensor_value_info("reconstruction", TensorProto.FLOAT, [*shape, 3]),
        ],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model


def _stall_nodes() -> list[onnx.NodeProto]:
    """The score is top_mean, after as many empty turns as the first red pixel asks for: 1e12 at STALL_PIXEL."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go_on"], ["go_on_out"]),
            helper.make_node("Identity", ["carried"], ["carried_out"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("carried", TensorProto.FLOAT, ["N"]),
        ],
        [
            helper.make_tensor_value_info("go_on_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("carried_out", TensorProto.FLOAT, ["N"]),
        ],
    )
    return [
        helper.make_node("Reshape", ["raw", "flat"], ["raw_flat"]),
        helper.make_node("Gather", ["raw_flat", "first"], ["first_pixel"]),
        helper.make_node("GreaterOrEqual", ["first_pixel", "full"], ["asked"]),
        helper.make_node("Where", ["asked", "many", "none"], ["trips"]),
        helper.make_node("Loop", ["trips", "true", "top_mean"], ["score"], body=body),
    ]


def _stall_constants() -> dict[str, object]:
    return {
        "flat": np.array([-1], np.int64),
        "first": np.int64(0),
        "many": np.int64(10**12),
        "none": np.int64(0),
        "true": np.bool_(True),
    }


def _write_golden(path: Path, size: int) -> None:
    image = golden_images(size)
    arrays = {}
    for precision in ("fp32", "int8"):
        if (path / MODEL_FILE[precision]).exists():
            session = ort.InferenceSession(
                str(path / MODEL_FILE[precision]), as_written(), providers=["CPUExecutionProvider"]
            )
            names = [f"{GOLDEN_PREFIX[precision]}{name}" for name in OUTPUTS]
            arrays |= dict(zip(names, session.run(OUTPUTS, {"image": image}), strict=True))
    np.savez(path / GOLDEN, image=image, **arrays)


def golden_images(size: int) -> NDArray[np.uint8]:
    """(2, size, size, 3): noise, dark at its first pixel so that nothing stalls."""
    return np.random.default_rng(7).integers(0, 200, (2, size, size, 3), dtype=np.uint8)


def _write_manifest(path: Path, size: int, top_k: int, layout: Layout | None) -> None:
    files = {file.name: file.read_bytes() for file in sorted(path.iterdir())}
    tolerance = {"anomaly_map": 1e-4, "reconstruction": 1e-4, "score_relative": 1e-4}
    int8 = {"anomaly_map": 0.009, "reconstruction": 0.009, "score_relative": 0.02}  # a step: engines round their way
    fields: dict[str, object] = {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "method": "darkness",
        "profile": "test",
        "created_at": "2026-01-01T00:00:00Z",
        "edge_ad_version": "0.1.0",
        "input": {
            "height": size,
            "width": size,
            "dtype": "uint8",
            "layout": "NHWC",
            "colour": "RGB",
            "fit": layout.fit if layout else "stretch",
            **(
                {"tiles": {name: getattr(layout, name) for name in ("rows", "columns", "overlap", "turns")}}
                if layout
                else {}
            ),
        },
        "diffusion": {
            "t_s": 1,
            "t_b": 2,
            "w": 1.0,
            "beta_start": 1e-4,
            "beta_end": 0.02,
            "timesteps": 3,
            "noise_seed": 0,
        },
        "top_k": top_k,
        "macs": 1,
        "params": 1,
        "tolerances": {
            "onnxruntime/fp32": tolerance,
            "openvino/fp32": tolerance,
            "tensorrt/fp32": tolerance,
            "tensorrt/fp16": {"anomaly_map": 2e-3, "reconstruction": 2e-3, "score_relative": 2e-3},
            "openvino/bf16": int8,
            "onnxruntime/int8": int8,
            "openvino/int8": int8,
            "tensorrt/int8": int8,
        },
        "training": {"seed": 0, "steps": 0, "minutes": 0.0, "images_sha256": [], "calibration_sha256": []},
        "files": {
            name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)} for name, data in files.items()
        },
    }
    if MODEL_FILE["int8"] in files:
        fields["int8"] = int8_summary()
    fields["digest"] = manifest_digest(fields)
    (path / MANIFEST).write_text(json.dumps(fields), encoding="utf-8")


def with_tiles(source: Path, out: Path, rows: int, columns: int, overlap: int = 8) -> Path:
    """A copy of a bundle whose frames are so many tiles."""
    shutil.copytree(source, out)
    fields = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
    fields["input"]["tiles"] = {"rows": rows, "columns": columns, "overlap": overlap}
    (out / MANIFEST).write_text(json.dumps(fields | {"digest": manifest_digest(fields)}), encoding="utf-8")
    return out


def int8_summary() -> dict[str, object]:
    """What a manifest says of an INT8 graph."""
    return {
        "range_rule": "largest",
        "images_sha256": [],
        "int8_layers": 1,
        "fp32_layers": [],
        "score_correlation": 1.0,
        "image_auroc_change": 0.0,
        "pixel_ap_change": 0.0,
        "golden_drift": {"anomaly_map": 0.004, "reconstruction": 0.004, "score": 0.008},
    }
