"""A pretended TensorRT: its "engine" is the ONNX graph, and onnxruntime runs it, at the addresses that it was given.

Only what edge-ad uses of the interface. With a graph whose producer is "broken" it refuses where the real one would.
"""

from __future__ import annotations

import ctypes
from enum import IntEnum
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

__version__ = "10.3.0"
PREFIX = b"pretended engine of 10.3.0\n"


class ILogger:
    ERROR = 1

    def __init__(self) -> None:
        pass


class NetworkDefinitionCreationFlag(IntEnum):
    STRONGLY_TYPED = 1


class MemoryPoolType(IntEnum):
    WORKSPACE = 0


class BuilderFlag(IntEnum):
    TF32 = 7


class TensorIOMode(IntEnum):
    INPUT = 1
    OUTPUT = 2


def nptype(dtype: Any) -> Any:
    return dtype


class Builder:
    def __init__(self, log: Any) -> None:
        self.log = log

    def create_network(self, flags: int) -> Network:
        assert flags == 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED
        return Network()

    def create_builder_config(self) -> Config:
        return Config()

    def create_optimization_profile(self) -> Profile:
        return Profile()

    def build_serialized_network(self, network: Network, config: Config) -> bytes | None:
        assert config.profile is not None
        if onnx.load_from_string(network.graph).producer_name == "broken":
            self.log.log(ILogger.ERROR, "no kernel for\nthis layer")
            return None
        return PREFIX + network.graph


class Network:
    graph = b""

    def get_input(self, index: int) -> Any:
        return onnx.load_from_string(self.graph).graph.input[index]


class Profile:
    def set_shape(self, name: str, *shapes: tuple[int, ...]) -> None:
        assert name == "image"
        assert len(set(shapes)) == 1, "N must be fixed"


class Timings:
    def serialize(self) -> bytes:
        return b"timings"


class Config:
    profile: Profile | None = None
    max_aux_streams = 1

    def set_memory_pool_limit(self, pool: MemoryPoolType, limit: int) -> None:
        assert limit >= 1 << 20

    def clear_flag(self, flag: BuilderFlag) -> None:
        pass

    def create_timing_cache(self, known: bytes) -> Timings:
        assert known in (b"", b"timings")
        return Timings()

    def set_timing_cache(self, cache: Timings, ignore_mismatch: bool) -> bool:
        return True

    def get_timing_cache(self) -> Timings:
        return Timings()

    def add_optimization_profile(self, profile: Profile) -> int:
        self.profile = profile
        return 0


class OnnxParser:
    num_errors = 1

    def __init__(self, network: Network, log: Any) -> None:
        self._network = network

    def parse(self, graph: bytes) -> bool:
        self._network.graph = graph
        return graph != b"not a graph"

    def get_error(self, index: int) -> str:
        return "not a\ngraph"


class Runtime:
    def __init__(self, log: Any) -> None:
        self.log = log

    def deserialize_cuda_engine(self, plan: bytes) -> Engine | None:
        if not plan.startswith(PREFIX):
            self.log.log(ILogger.ERROR, "The engine plan file is not compatible with this version of TensorRT")
            return None
        return Engine(plan[len(PREFIX) :])


class Engine:
    def __init__(self, graph: bytes) -> None:
        options = ort.SessionOptions()  # its fusions of Q/DQ pairs compute something else where scales are FP16
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        self.session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self._inputs = [tensor.name for tensor in self.session.get_inputs()]
        self.names = [*self._inputs, *(tensor.name for tensor in self.session.get_outputs())]
        self.num_io_tensors = len(self.names)

    def get_tensor_name(self, index: int) -> str:
        return self.names[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self._inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        return np.uint8 if name in self._inputs else np.float32

    def create_execution_context(self) -> Execution:
        return Execution(self)


_driver = ctypes.CDLL("libcuda.so.1")
_Callback = ctypes.CFUNCTYPE(None, ctypes.c_int)
_executions: list[Execution] = []


@_Callback
def _run(number: int) -> None:
    _executions[number].run()


class Execution:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._addresses: dict[str, int] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._number = len(_executions)
        _executions.append(self)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._shapes = {name: shape}
        found = self._engine.session.run(None, {name: np.zeros(shape, np.uint8)})
        outputs = [tensor.name for tensor in self._engine.session.get_outputs()]
        self._shapes |= {output: array.shape for output, array in zip(outputs, found, strict=True)}
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        assert stream
        _driver.fake_queue(_run, self._number)
        return True

    def run(self) -> None:
        (image, *outputs) = self._engine.names
        found = self._engine.session.run(outputs, {image: self._array(image, np.uint8)})
        for name, array in zip(outputs, found, strict=True):
            self._array(name, np.float32)[...] = array

    def _array(self, name: str, dtype: Any) -> Any:
        shape = self._shapes[name]
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        memory = (ctypes.c_byte * size).from_address(self._addresses[name])
        return np.frombuffer(memory, dtype).reshape(shape)
