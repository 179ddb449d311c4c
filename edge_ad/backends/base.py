"""The seam between the frame path and an inference engine, and the test that an engine must pass to serve."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields
from threading import Event
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from edge_ad.bundle import Bundle, Tolerance
from edge_ad.config import BackendConfig, Precision
from edge_ad.errors import BackendError, BundleError, ConfigError
from edge_ad.records import RawOutput, Roi

OUTPUTS = [output.name for output in fields(RawOutput)]  # of the graph, as docs/bundle.md names them
INSTEAD = "or set backend: {name: onnxruntime}"  # the way out of every refusal: this engine is always installed


class Backend(Protocol):
    """A loaded graph. `run` gives the same output for the same input, and leaves the input as it was."""

    name: str
    precision: Precision

    def run(self, image: NDArray[np.uint8]) -> RawOutput:
        """Run the graph on (N, H, W, 3) uint8 RGB, contiguous.

        Raises:
            BackendError: wrong shape or type, or the engine failed.
        """

    def close(self) -> None:
        """Free the engine; it cannot run afterwards."""


@runtime_checkable
class TakesFrames(Protocol):
    """What a back-end may offer beside `run`: to prepare frames where its engine is, exactly as `core.preprocess`.

    It knows the layout of its bundle.
    """

    def load(self, frame: NDArray[np.uint8], roi: Roi | None) -> None:
        """Take over a frame, (H, W, 3) uint8 BGR.

        Raises:
            DataError: the ROI leaves the frame.
            BackendError: the device failed.
        """

    def run_loaded(self) -> RawOutput:
        """Run the graph on the tiles of the frame that was loaded last.

        Raises:
            BackendError: the engine failed.
        """


def _open_onnxruntime(bundle: Bundle, config: BackendConfig, _stop: Event) -> Backend:
    from edge_ad.backends.onnxruntime import OnnxRuntimeBackend

    return OnnxRuntimeBackend(bundle, config)


def _open_openvino(bundle: Bundle, config: BackendConfig, _stop: Event) -> Backend:
    from edge_ad.backends.openvino import OpenVinoBackend

    return OpenVinoBackend(bundle, config)


def _open_torch(bundle: Bundle, config: BackendConfig, _stop: Event) -> Backend:
    from edge_ad.backends.torch import TorchBackend

    return TorchBackend(bundle, config)


def _open_engine(bundle: Bundle, config: BackendConfig, stop: Event) -> Backend:
    from edge_ad.engines.service import open_engine

    return open_engine(bundle, config, stop)


# Imported on opening, so that a station loads only the vendor library it uses.
OPENERS: dict[str, Callable[[Bundle, BackendConfig, Event], Backend]] = {
    "onnxruntime": _open_onnxruntime,
    "openvino": _open_openvino,
    "torch": _open_torch,
    "torch_tensorrt": _open_engine,
    "tensorrt": _open_engine,
}


# What each computes in, where the bundle holds it.
PRECISIONS: dict[str, tuple[Precision, ...]] = {
    "onnxruntime": ("fp32", "int8"),
    "openvino": ("fp32", "bf16", "int8"),
    "torch": ("fp32",),
    "torch_tensorrt": ("fp32", "fp16", "int8"),
    "tensorrt": ("fp32", "fp16", "int8"),
}


def open_backend(bundle: Bundle, config: BackendConfig, stop: Event | None = None) -> Backend:
    """Load a bundle's graph in the configured engine and prove it on the golden images.

    Args:
        bundle: whose graph.
        config: which engine.
        stop: ends what may take minutes, the building of an engine.

    Raises:
        StoppedError: it was told to stop.
        ConfigError: the engine has no such precision, or does not run on such a device.
        BackendError: the engine is not installed, or refused the graph or the device.
        BundleError: the golden outputs are missed by more than the manifest's tolerance.
    """
    has = PRECISIONS[config.name]
    if config.precision not in has:
        raise ConfigError(f"{config.name} runs {' or '.join(has)}, not {config.precision}: set precision")
    backend = OPENERS[config.name](bundle, config, stop or Event())
    prove_golden(bundle, backend)
    return backend


def check_input(image: NDArray[np.uint8], height: int, width: int) -> None:
    """Refuse anything but (N, height, width, 3) uint8, N >= 1.

    Raises:
        BackendError: naming the wanted and the given shape and type.
    """
    if image.dtype != np.uint8 or image.ndim != 4 or image.shape[0] < 1 or image.shape[1:] != (height, width, 3):
        raise BackendError(f"the graph takes uint8 (N, {height}, {width}, 3), got {image.dtype} {image.shape}")


def tolerance(bundle: Bundle, engine: str) -> Tolerance:
    """How far an engine, "<back-end>/<precision>", may be off the golden outputs.

    Raises:
        BundleError: the manifest does not say.
    """
    stated = bundle.manifest.tolerances.get(engine)
    if stated is None:
        raise BundleError(f"{bundle.path} states no tolerance for {engine}: export it with a newer edge-ad")
    return stated


def prove_golden(bundle: Bundle, backend: Backend) -> dict[str, float]:
    """Compare the engine's outputs with the golden ones; returns the largest errors.

    As many images are run at once as a frame has tiles, and each of them in each row: where an engine is wrong in one
    row only, that tile of all parts would be. INT8 is held to its own golden outputs, and to a stated mean distance
    from those of FP32.

    Raises:
        BundleError: an output differs by more than the tolerance of this back-end and precision.
    """
    engine = f"{backend.name}/{backend.precision}"
    allowed = tolerance(bundle, engine).model_dump()
    golden = bundle.golden(backend.precision)
    is_int8 = backend.precision == "int8" and bundle.manifest.int8 is not None
    fp32 = bundle.golden("fp32").expected if is_int8 else None
    errors, drifts = [], []
    # No more at once than a station runs: they would leave an engine the memory of so many for as long as it lives. Nor
    # are the outputs kept: of many tiles in all their places they are gigabytes.
    for rows in rotations(len(golden.image), bundle.manifest.input.frame_layout().tiles):
        found = backend.run(golden.image[rows])
        errors.append(max_errors(found, _rows_of(golden.expected, rows)))
        if fp32 is not None:
            drifts.append(mean_errors(found, _rows_of(fp32, rows)))
    largest = {name: float(np.max([run[name] for run in errors])) for name in errors[0]}
    _refuse_beyond(largest, allowed, f"{engine} misses", bundle)
    if bundle.manifest.int8 is not None and drifts:
        drift = {name: float(np.mean([run[name] for run in drifts])) for name in drifts[0]}
        _refuse_beyond(drift, bundle.manifest.int8.golden_drift.model_dump(), f"{engine} drifts from fp32 on", bundle)
    return largest


def rotations(images: int, rows: int) -> Iterator[NDArray[np.intp]]:
    """Which of the images is in which row of a run, run by run: each row has had each of them in the end."""
    for first in range(images):
        yield (first + np.arange(rows)) % images


def _rows_of(output: RawOutput, rows: NDArray[np.intp]) -> RawOutput:
    return RawOutput(*(getattr(output, name)[rows] for name in OUTPUTS))


def one_at_a_time(run: Callable[[NDArray[np.uint8]], RawOutput], images: NDArray[np.uint8]) -> RawOutput:
    """The outputs for (N, H, W, 3) images, by a `run` for each of them."""
    rows = [run(images[row : row + 1]) for row in range(len(images))]
    if len(rows) == 1:
        return rows[0]
    return RawOutput(*(np.concatenate([getattr(row, name) for row in rows]) for name in OUTPUTS))


def _refuse_beyond(errors: dict[str, float], allowed: dict[str, float], what: str, bundle: Bundle) -> None:
    worse = [f"{name} {errors[name]:.2g} > {allowed[name]:.2g}" for name in errors if not errors[name] <= allowed[name]]
    if worse:
        raise BundleError(f"{what} the golden outputs of {bundle.path} ({', '.join(worse)}): it is not served")


def max_errors(found: RawOutput, expected: RawOutput) -> dict[str, float]:
    """Largest difference of each output, under the names of `Tolerance`; NaN anywhere gives NaN."""
    relative = np.abs(found.score - expected.score) / np.maximum(np.abs(expected.score), 1e-6)
    return {
        "anomaly_map": float(np.max(np.abs(found.anomaly_map - expected.anomaly_map))),
        "reconstruction": float(np.max(np.abs(found.reconstruction - expected.reconstruction))),
        "score_relative": float(np.max(relative)),
    }


def mean_errors(found: RawOutput, expected: RawOutput) -> dict[str, float]:
    """Mean absolute difference of each output, under the names of `Drift`; NaN anywhere gives NaN."""
    return {
        "anomaly_map": float(np.mean(np.abs(found.anomaly_map - expected.anomaly_map))),
        "reconstruction": float(np.mean(np.abs(found.reconstruction - expected.reconstruction))),
        "score": float(np.mean(np.abs(found.score - expected.score))),
    }
