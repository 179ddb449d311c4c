"""ONNX Runtime: the portable engine, on the CPU or through its CUDA and TensorRT providers."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from edge_ad.backends.base import OUTPUTS, check_input
from edge_ad.bundle import Bundle
from edge_ad.config import BackendConfig
from edge_ad.errors import BackendError
from edge_ad.records import RawOutput

PROVIDERS = {
    "cpu": ["CPUExecutionProvider"],
    "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"],
    "tensorrt": ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"],
}
PRECISIONS = ("fp32", "int8")


class OnnxRuntimeBackend:
    """A session over a bundle's ONNX file (implements `Backend`)."""

    name = "onnxruntime"

    def __init__(self, bundle: Bundle, config: BackendConfig) -> None:
        """Load the graph.

        Raises:
            BackendError: the provider is not in this onnxruntime, or it refused the graph; or a precision it lacks.
        """
        self.precision = config.precision
        if config.precision not in PRECISIONS:
            raise BackendError(f"onnxruntime runs {' or '.join(PRECISIONS)}, not {config.precision}: set precision")
        self._height, self._width = bundle.manifest.input.height, bundle.manifest.input.width
        providers = PROVIDERS[config.device]
        if providers[0] not in ort.get_available_providers():
            raise BackendError(
                f"this onnxruntime {ort.__version__} has no {providers[0]}: install its GPU build or set device: cpu"
            )
        options = ort.SessionOptions()
        options.intra_op_num_threads = config.threads
        # One block for all tensors is no faster on a CPU, and a daemon is 9 MB larger with it.
        options.enable_mem_pattern = config.device != "cpu"
        path = str(bundle.model_path(config.precision))
        try:
            session = ort.InferenceSession(path, options, providers=providers)
        except Exception as error:  # onnxruntime's exceptions share no base but Exception
            raise BackendError(f"onnxruntime refused {bundle.path} on {config.device}: {_line(error)}") from error
        if session.get_providers()[0] != providers[0]:  # onnxruntime falls back to the CPU with a warning only
            raise BackendError(f"onnxruntime fell back to {session.get_providers()[0]}: {providers[0]} did not start")
        self._session: ort.InferenceSession | None = session

    def run(self, image: NDArray[np.uint8]) -> RawOutput:
        """See `Backend.run`."""
        check_input(image, self._height, self._width)
        if self._session is None:
            raise BackendError("this back-end is closed")
        try:
            anomaly_map, score, reconstruction = self._session.run(OUTPUTS, {"image": image})
        except Exception as error:  # as above
            raise BackendError(f"onnxruntime failed: {_line(error)}") from error
        return RawOutput(anomaly_map, score, reconstruction)

    def close(self) -> None:
        """See `Backend.close`."""
        self._session = None


def describe() -> str:
    """This onnxruntime: its version and what it can run on."""
    return f"{ort.__version__}: {', '.join(ort.get_available_providers())}"


def _line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
