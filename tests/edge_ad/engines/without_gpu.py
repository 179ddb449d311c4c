"""A script: what Torch-TensorRT makes of a program, on a machine without a GPU.

    python -m tests.edge_ad.engines.without_gpu partition|build|convert PROGRAM HEIGHT WIDTH PRECISION...

Prints JSON, precision -> what was found. `partition`: the operators of the program and of each TensorRT engine;
`build`: the same, and the size of the engine that our own code builds; `convert`: only the latter. For INT8 the INT8
graph lies beside the program.
torch_tensorrt asks for a CUDA device at import, so one is pretended; nothing runs on it. A process of its own, because
that cannot be undone.
"""

from __future__ import annotations

import inspect
import json
import os
import sys
import tempfile
from operator import getitem
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch.export import ExportedProgram

from edge_ad.bundle import MODEL_FILE
from edge_ad.engines.quantised_program import operator, register_converter
from edge_ad.engines.tensorrt import Limits
from edge_ad.engines.torch_tensorrt import compile_settings, convert, fixed_program, load_program

WORKSPACE = 256 << 20


class Orin:
    """The properties that torch_tensorrt asks for."""

    major, minor = 8, 7
    name = "pretended Orin"
    total_memory = 8 << 30
    multi_processor_count = 16


class Serialized:
    """Stands for an engine, which cannot be loaded without a GPU: hands out the bytes that it would be loaded from."""

    def __init__(self, plan: bytes) -> None:
        self._plan = plan

    def serialize(self) -> bytes:
        return self._plan

    def serialize_with_config(self, config: object) -> bytes:
        return self._plan

    def create_serialization_config(self) -> Any:
        return self

    def clear_flag(self, flag: object) -> None:
        pass

    def get_aliased_input_tensor(self, name: str) -> None:
        return None


class Runtime:
    """In place of TensorRT's, which wants a driver."""

    def __init__(self, log: object) -> None:
        pass

    def deserialize_cuda_engine(self, plan: object) -> Serialized:
        return Serialized(bytes(plan))  # type: ignore[call-overload]


def pretend_gpu() -> ModuleType:
    """Answer torch.cuda's questions, hide torch_tensorrt's C++ runtime, which needs CUDA's libtorch, and import it."""
    torch.cuda.get_device_capability = lambda device=None: (Orin.major, Orin.minor)
    torch.cuda.current_device = lambda: 0
    torch.cuda.get_device_properties = lambda device=None: Orin
    torch.cuda.get_device_name = lambda device=None: Orin.name
    torch.cuda.mem_get_info = lambda device=None: (Orin.total_memory, Orin.total_memory)
    if torch.version.cuda is None:
        torch._C._CudaDeviceProperties = Orin
        is_file = os.path.isfile
        os.path.isfile = lambda path: "libtorchtrt" not in str(path) and is_file(path)
    import torch_tensorrt
    from torch_tensorrt.dynamo.conversion import _TRTInterpreter as interpreter

    interpreter.trt.Runtime = Runtime
    compiler: ModuleType = torch_tensorrt
    register_converter(compiler)
    return compiler


def operators(module: torch.nn.Module) -> int:
    """How many operators a graph calls; picking an output out of a tuple is none."""
    return sum(node.op == "call_function" and node.target is not getitem for node in module.graph.nodes)


def partition(compiler: ModuleType, program: ExportedProgram, limits: Limits) -> dict[str, object]:
    """The dry run of the compiler that splits a graph among TensorRT and torch."""
    compile_ = compiler.dynamo.compile
    (example,), _ = program.example_inputs
    inputs = [compiler.Input(shape=tuple(example.shape), dtype=example.dtype)]
    settings = compile_settings(inspect.signature(compile_).parameters, limits) | {"offload_module_to_cpu": False}
    compiled = compile_(program, arg_inputs=inputs, dryrun=True, **settings)
    parts = {name: child for name, child in compiled.named_children() if "_run_on_acc" in name}
    engines = {name: operators(part) for name, part in parts.items()}
    pairs = sum(node.target is operator() for part in parts.values() for node in part.graph.nodes)
    return {"engines": engines, "outside": operators(compiled), "pairs": pairs}


def unknown_settings(compiler: ModuleType, limits: Limits) -> list[str]:
    """Those of our settings that this compiler does not have: it would swallow them without a word."""
    accepted = inspect.signature(compiler.dynamo.convert_exported_program_to_serialized_trt_engine).parameters
    return [name for name in compile_settings(accepted, limits) if name not in accepted]


def examine(compiler: ModuleType, what: str, path: Path, shape: tuple[int, int, int, int], precision: Any) -> object:
    limits = Limits(WORKSPACE, Path(tempfile.mkdtemp()) / "timing.bin")
    int8 = path.with_name(MODEL_FILE["int8"]) if precision == "int8" else None
    program = fixed_program(load_program(path), precision, shape, "cpu", int8)
    wanted = sum(node.target is operator() for node in program.graph.nodes)
    found = {"unknown_settings": unknown_settings(compiler, limits), "pairs_wanted": wanted}
    if what != "convert":
        found |= partition(compiler, program, limits)
    return found if what == "partition" else found | {"bytes": len(convert(compiler, program, limits))}


def main(what: str, path: str, height: str, width: str, *precisions: str) -> None:
    compiler = pretend_gpu()
    shape = (1, int(height), int(width), 3)
    found = {precision: examine(compiler, what, Path(path), shape, precision) for precision in precisions}
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
