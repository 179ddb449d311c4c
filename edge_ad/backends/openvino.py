"""OpenVINO: a second engine for the CPU, often the faster one.

The precision is the configured one and nothing below it: left to itself, OpenVINO computes FP32 graphs in bfloat16
wherever the CPU can, without a word.
"""

from __future__ import annotations

from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from edge_ad.backends.base import INSTEAD, OUTPUTS, check_input, one_at_a_time
from edge_ad.backends.processor import sums_int8_whole
from edge_ad.bundle import Bundle
from edge_ad.config import BackendConfig, Precision
from edge_ad.engines.store import vendor_cache
from edge_ad.errors import BackendError, ConfigError
from edge_ad.records import RawOutput

PRECISION_HINT = "INFERENCE_PRECISION_HINT"
# What OpenVINO computes in where the graph does not say it; an INT8 graph says it for its INT8 layers.
HINTS: dict[Precision, str] = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}


class OpenVinoBackend:
    """A compiled model on the CPU (implements `Backend`).

    It is compiled for one image, and tiles run one after the other: with N free, every frame pays for shapes that are
    inferred anew and for memory that cannot be laid out beforehand, a tenth of its time.
    """

    name = "openvino"

    def __init__(self, bundle: Bundle, config: BackendConfig) -> None:
        """Compile the graph.

        Raises:
            ConfigError: the device is not the CPU.
            BackendError: openvino is missing, the processor would compute INT8 otherwise
                than the graph says, or the graph or its precision was refused.
        """
        self.precision = config.precision
        self._height, self._width = bundle.manifest.input.height, bundle.manifest.input.width
        if config.device != "cpu":
            raise ConfigError(f"openvino runs on the CPU, not on {config.device}: set device: cpu")
        path = bundle.model_path(config.precision)
        if config.precision == "int8" and not sums_int8_whole():
            raise BackendError(
                "this processor has no VNNI: openvino would cut off sums of INT8 here, and its scores would not be "
                f"the bundle's; set precision: fp32, {INSTEAD}"
            )
        openvino = load_vendor()
        try:
            core = openvino.Core()
            cache = vendor_cache(bundle, config.precision, "openvino", openvino.__version__.partition("-")[0])
            if cache is not None:
                core.set_property({"CACHE_DIR": str(cache)})  # what is damaged there it compiles anew
            graph = core.read_model(path)
            graph.reshape({"image": [1, self._height, self._width, 3]})
            model = core.compile_model(graph, "CPU", settings(config))
            granted = model.get_property(PRECISION_HINT).get_type_name()
            request = model.create_infer_request()
        except Exception as error:  # openvino raises RuntimeError and TypeError, with its C++ call stack as the text
            raise BackendError(f"openvino refused {path}: {_line(error)}") from error
        wanted = HINTS[config.precision]
        if granted != wanted:
            raise BackendError(f"openvino would compute in {granted}, not in {wanted}: set precision, {INSTEAD}")
        self._request = request

    def run(self, image: NDArray[np.uint8]) -> RawOutput:
        """See `Backend.run`."""
        check_input(image, self._height, self._width)
        if self._request is None:
            raise BackendError("this back-end is closed")
        try:
            return one_at_a_time(self._run_one, image)
        except Exception as error:  # as above
            raise BackendError(f"openvino failed: {_line(error)}") from error

    def _run_one(self, image: NDArray[np.uint8]) -> RawOutput:
        found = self._request.infer({"image": image})  # copies in and out: the engine keeps its own tensors
        return RawOutput(*(found[name] for name in OUTPUTS))

    def close(self) -> None:
        """See `Backend.close`."""
        self._request = None


def load_vendor() -> ModuleType:
    """Import openvino.

    Raises:
        BackendError: it is missing or does not load.
    """
    try:
        import openvino
    except ImportError as error:
        raise BackendError(f"openvino does not load ({error}): install edge-ad[openvino], {INSTEAD}") from error
    module: ModuleType = openvino
    return module


def settings(config: BackendConfig) -> dict[str, str | int]:
    """The few of OpenVINO's properties that we choose; `threads` 0 leaves their number to it.

    ACCURACY keeps it from a lower precision of its own choice.
    """
    return {
        PRECISION_HINT: HINTS[config.precision],
        "EXECUTION_MODE_HINT": "ACCURACY",
        "PERFORMANCE_HINT": "LATENCY",  # one stream that has all threads: one frame at a time
        "INFERENCE_NUM_THREADS": config.threads,
    }


def _line(error: Exception) -> str:
    """The last line of an error: above it stands where in OpenVINO's sources it was raised."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
