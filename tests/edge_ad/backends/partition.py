"""A script: what Torch-TensorRT's partitioner makes of a program, on a machine without a GPU.

    python -m tests.edge_ad.backends.partition PROGRAM HEIGHT WIDTH

Prints JSON: the operators of the program and of each TensorRT engine. torch_tensorrt asks for a CUDA device at import,
so a device is pretended; nothing is built and nothing runs. A process of its own, because that cannot be undone.
"""

from __future__ import annotations

import inspect
import json
import os
import sys
import tempfile
from operator import getitem
from pathlib import Path

import torch

from edge_ad.backends.torch_tensorrt import compile_settings, load_program, one_image


class Orin:
    """The properties that torch_tensorrt asks for."""

    major, minor = 8, 7
    name = "pretended Orin"
    total_memory = 8 << 30
    multi_processor_count = 16


def pretend_gpu() -> None:
    """Answer torch.cuda's questions, and hide torch_tensorrt's C++ runtime, which needs CUDA's libtorch."""
    torch.cuda.get_device_capability = lambda device=None: (Orin.major, Orin.minor)
    torch.cuda.current_device = lambda: 0
    torch.cuda.get_device_properties = lambda device=None: Orin
    torch.cuda.get_device_name = lambda device=None: Orin.name
    torch.cuda.mem_get_info = lambda device=None: (Orin.total_memory, Orin.total_memory)
    if torch.version.cuda is None:
        torch._C._CudaDeviceProperties = Orin
        is_file = os.path.isfile
        os.path.isfile = lambda path: "libtorchtrt" not in str(path) and is_file(path)


def operators(module: torch.nn.Module) -> int:
    """How many operators a graph calls; picking an output out of a tuple is none."""
    return sum(node.op == "call_function" and node.target is not getitem for node in module.graph.nodes)


def main(path: str, height: str, width: str) -> None:
    pretend_gpu()
    import torch_tensorrt

    compile_ = torch_tensorrt.dynamo.compile
    accepted = inspect.signature(compile_).parameters
    program = one_image(load_program(Path(path)), int(height), int(width), "cpu")
    inputs = [torch_tensorrt.Input(shape=(1, int(height), int(width), 3), dtype=torch.uint8)]
    settings = compile_settings(accepted, Path(tempfile.mkdtemp()))
    compiled = compile_(program, arg_inputs=inputs, dryrun=True, **settings)
    engines = {name: operators(child) for name, child in compiled.named_children() if "_run_on_acc" in name}
    unknown = [name for name in settings if name not in accepted]
    found = {"engines": engines, "outside": operators(compiled), "unknown_settings": unknown}
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
