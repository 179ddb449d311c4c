"""TensorRT itself: an engine from an ONNX graph, by its own parser and builder.

Written for TensorRT 10.3 (JetPack 6) to 11 alike: strongly typed, so precision is the graph's, and no calibrator.
`trt` is the module `tensorrt`, or `tensorrt_rtx`, which has the same interface and builds without a GPU (make engines).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from loguru import logger

from edge_ad.durable import write_whole
from edge_ad.errors import BackendError


@dataclass(frozen=True, slots=True)
class Limits:
    """What a build may take.

    Attributes:
        workspace_bytes: scratch memory of one kernel.
        timing_cache: file with earlier measurements, written anew after the build; without it a build takes longer.
    """

    workspace_bytes: int
    timing_cache: Path


def load_tensorrt() -> ModuleType:
    """Import TensorRT.

    Raises:
        BackendError: it is missing or does not load.
    """
    try:
        import tensorrt
    except Exception as error:  # libraries that do not fit are an OSError, a RuntimeError ...
        raise BackendError(
            f"tensorrt does not load ({type(error).__name__}: {error}): on a Jetson it comes with JetPack, make the "
            "environment with --system-site-packages (docs/jetson.md)"
        ) from error
    module: ModuleType = tensorrt
    return module


def make_log(trt: ModuleType) -> Any:
    """A logger for TensorRT that keeps the last error in `said`, instead of writing everything to the terminal."""

    class Log(trt.ILogger):  # type: ignore[misc, name-defined]  # its base is only known now
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.said = "TensorRT gave no reason"

        def log(self, severity: Any, msg: str) -> None:
            if severity <= trt.ILogger.ERROR:
                self.said = " ".join(msg.split())

    return Log()


def build_from_onnx(trt: ModuleType, graph: bytes, shape: tuple[int, int, int, int], limits: Limits) -> bytes:
    """Build an engine for one input shape.

    Raises:
        BackendError: the parser or the builder refused the graph.
    """
    log = make_log(trt)
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(graph):
        said = " ".join(str(parser.get_error(0)).split()) if parser.num_errors else log.said
        raise BackendError(f"TensorRT {trt.__version__} cannot parse the graph: {said}")
    config = builder_config(trt, builder, limits)
    profile = builder.create_optimization_profile()
    profile.set_shape(network.get_input(0).name, shape, shape, shape)  # N fixed: tuned for it, and for CUDA graphs
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BackendError(f"TensorRT {trt.__version__} cannot build the graph: {log.said}")
    _keep_timings(config, limits.timing_cache)
    return bytes(plan)


def builder_config(trt: ModuleType, builder: Any, limits: Limits) -> Any:
    """The builder's settings: bounded memory, FP32 that is FP32, timings kept."""
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, limits.workspace_bytes)
    config.clear_flag(trt.BuilderFlag.TF32)
    config.max_aux_streams = 0  # further streams would cost memory each, and win nothing at N = 1
    known = _known_timings(limits.timing_cache)
    cache = config.create_timing_cache(known) or config.create_timing_cache(b"")  # None: the file is damaged
    config.set_timing_cache(cache, ignore_mismatch=False)
    return config


def _known_timings(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        logger.warning("{} cannot be read ({}): all kernels are measured anew", path, error.strerror)
        return b""


def _keep_timings(config: Any, path: Path) -> None:
    timings = config.get_timing_cache()
    if timings is None:
        return
    try:
        write_whole(path, bytes(timings.serialize()))
    except OSError as error:
        logger.warning("{} cannot be written ({}): the next build measures anew", path, error.strerror)
