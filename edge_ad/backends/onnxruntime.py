"""ONNX Runtime: the portable engine, on the CPU or through its CUDA and TensorRT providers."""

from __future__ import annotations

import os

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from edge_ad.backends.base import OUTPUTS, check_input
from edge_ad.bundle import Bundle
from edge_ad.config import BackendConfig, Precision
from edge_ad.engines.store import vendor_cache
from edge_ad.errors import BackendError, first_line
from edge_ad.records import RawOutput

TENSORRT = "TensorrtExecutionProvider"
CUDA = {"CUDAExecutionProvider": {"use_tf32": "0"}}  # FP32 is not TF32, which is on by default
# Device -> provider -> its options, the preferred one first.
PROVIDERS: dict[str, dict[str, dict[str, str]]] = {
    "cpu": {"CPUExecutionProvider": {}},
    "cuda": CUDA,
    "tensorrt": {TENSORRT: {}, **CUDA},
}


class OnnxRuntimeBackend:
    """A session over a bundle's ONNX file (implements `Backend`)."""

    name = "onnxruntime"

    def __init__(self, bundle: Bundle, config: BackendConfig) -> None:
        """Load the graph.

        Raises:
            BackendError: the provider is not in this onnxruntime, or did not take the whole graph.
        """
        self.precision = config.precision
        self._height, self._width = bundle.manifest.input.height, bundle.manifest.input.width
        providers = PROVIDERS[config.device]
        first = next(iter(providers))
        if first not in ort.get_available_providers():
            raise BackendError(
                f"this onnxruntime {ort.__version__} has no {first}: install its GPU build or set device: cpu"
            )
        if config.device == "tensorrt":
            # TensorRT's provider has no option for TF32; NVIDIA's libraries read this once, when the first one loads.
            os.environ["NVIDIA_TF32_OVERRIDE"] = "0"
            providers = {**providers, first: _tensorrt_options(bundle, config.precision)}
        options = as_written()
        if config.device == "tensorrt" and config.precision == "int8":
            # Folded into FP32 weights, as for the CPU, no pair would be left for TensorRT to make INT8 of.
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = config.threads
        # One block for all tensors is no faster on a CPU, and a daemon is 9 MB larger with it.
        options.enable_mem_pattern = config.device != "cpu"
        if config.device != "cpu":  # else nodes that the provider does not take run on the CPU without a word
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        path = bundle.model_path(config.precision)
        try:  # enable_fallback: older onnxruntimes ignore it, fall back here and are caught below
            with path.open("rb") as file:  # by its number: onnxruntime takes no name that is not UTF-8
                name = f"/proc/self/fd/{file.fileno()}"
                session = ort.InferenceSession(name, options, providers=list(providers.items()), enable_fallback=0)
        except Exception as error:  # onnxruntime's exceptions share no base but Exception
            raise BackendError(f"onnxruntime refused {bundle.path} on {config.device}: {first_line(error)}") from error
        if session.get_providers()[0] != first:  # onnxruntime falls back to the CPU with a warning only
            raise BackendError(f"onnxruntime fell back to {session.get_providers()[0]}: {first} did not start")
        session.disable_fallback()  # or a run that fails on the GPU would be repeated on the CPU, and so all later ones
        self._session: ort.InferenceSession | None = session

    def run(self, image: NDArray[np.uint8]) -> RawOutput:
        """See `Backend.run`."""
        check_input(image, self._height, self._width)
        if self._session is None:
            raise BackendError("this back-end is closed")
        try:
            anomaly_map, score, reconstruction = self._session.run(OUTPUTS, {"image": image})
        except Exception as error:  # as above
            raise BackendError(f"onnxruntime failed: {first_line(error)}") from error
        return RawOutput(anomaly_map, score, reconstruction)

    def close(self) -> None:
        """See `Backend.close`."""
        self._session = None


def as_written() -> ort.SessionOptions:
    """Options of a session that computes Q/DQ pairs as the graph says: rounded to codes, the convolution in FP32.

    Its fusions of them cut sums off on a processor without VNNI, and are slower (docs/decisions/0014). TensorRT's
    provider gets the pairs and makes its own of them.
    """
    options = ort.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    return options


def _tensorrt_options(bundle: Bundle, precision: Precision) -> dict[str, str]:
    """What TensorRT's provider is told: the precision, and where it keeps its engines.

    All by name, or environment variables (ORT_TENSORRT_FP16_ENABLE) would decide. FP32 is nothing else, and beside INT8
    stays FP32, as everywhere in this back-end; a graph with Q/DQ pairs is refused unless INT8 is enabled.
    """
    options = {"trt_fp16_enable": "False", "trt_int8_enable": str(precision == "int8")}
    # The provider names engines by the graph's structure, not by its weights: two bundles of a profile look the same.
    folder = vendor_cache(bundle, precision, "onnxruntime", ort.__version__)
    if folder is None:
        return options
    cached = dict.fromkeys(("trt_engine_cache_enable", "trt_timing_cache_enable"), "True")
    return options | cached | {"trt_engine_cache_path": str(folder)}  # without a path of their own, for timings too


def describe() -> str:
    """This onnxruntime: its version and what it can run on."""
    return f"{ort.__version__}: {', '.join(ort.get_available_providers())}"
