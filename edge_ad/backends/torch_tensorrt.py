"""Torch-TensorRT: the bundle's torch.export program, compiled on the device to one TensorRT engine.

The engine is built for one image, the case of a camera; a batch runs row by row. It always runs on CUDA device 0, in
the context and on a stream that it shares with pycuda's frame buffer. One code path serves torch_tensorrt 2.8
(JetPack 6) to 2.14: types are those of the program, and a setting that not all versions have is passed where the
signature has it. There is no fall-back to torch: a graph that does not become one engine is refused.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Collection
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edge_ad.backends.base import INSTEAD, check_input
from edge_ad.bundle import PROGRAM, Bundle, Precision
from edge_ad.config import BackendConfig
from edge_ad.cuda.buffers import FrameBuffer
from edge_ad.cuda.device import PrimaryContext
from edge_ad.errors import BackendError, BundleError
from edge_ad.records import RawOutput

if TYPE_CHECKING:
    from torch import Tensor
    from torch.export import ExportedProgram
    from torch.nn import Module


class TorchTensorRTBackend:
    """One TensorRT engine for one image (implements `Backend`); `device` of the configuration has no meaning here."""

    name = "torch_tensorrt"

    def __init__(self, bundle: Bundle, config: BackendConfig) -> None:
        """Compile the program, or load its engine from the cache.

        Raises:
            BackendError: torch, torch_tensorrt, pycuda or CUDA is missing, or the graph was refused.
            BundleError: the bundle holds no program, or one of another torch.
        """
        self.precision: Precision = config.precision
        self._height, self._width = bundle.manifest.input.height, bundle.manifest.input.width
        path = program_path(bundle, config.precision)
        self._torch, compiler = load_vendor()
        refuse_other_torch(bundle, self._torch.__version__)
        self._context = PrimaryContext()
        cache = engine_cache(bundle, self._context.facts.sm, versions(self._torch, compiler))
        try:
            program = one_image(load_program(path), self._height, self._width, "cuda")
            engine: Module = compile_program(compiler, program, cache)
            self._input = FrameBuffer(self._context, (1, self._height, self._width, 3))
            self._stream = self._torch.cuda.ExternalStream(self._input.stream_handle)
            self._image: Tensor = self._torch.as_tensor(self._input, device="cuda")
            self._torch.cuda.synchronize()  # the engine's weights are up before another stream uses them
        except Exception as error:  # torch, torch_tensorrt and pycuda share no base but Exception
            raise BackendError(f"Torch-TensorRT refused {path}: {_line(error)}") from error
        self._engine: Module | None = engine

    def run(self, image: NDArray[np.uint8]) -> RawOutput:
        """See `Backend.run`."""
        check_input(image, self._height, self._width)
        if self._engine is None:
            raise BackendError("this back-end is closed")
        try:
            rows = [self._run_one(self._engine, row) for row in image]
        except Exception as error:  # as above
            raise BackendError(f"Torch-TensorRT failed: {_line(error)}") from error
        anomaly_map, score, reconstruction = (np.concatenate(parts) for parts in zip(*rows, strict=True))
        return RawOutput(anomaly_map, score, reconstruction)

    def close(self) -> None:
        """See `Backend.close`."""
        if self._engine is not None:
            self._engine = None
            del self._image
            self._input.close()
            self._context.close()

    def _run_one(self, engine: Module, row: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """Run one (H, W, 3) image; the copies back to the host wait for the stream."""
        np.copyto(self._input.host[0], row)
        self._input.upload()
        with self._torch.inference_mode(), self._torch.cuda.stream(self._stream):
            return [output.cpu().numpy() for output in engine(self._image)]


def load_vendor() -> tuple[ModuleType, ModuleType]:
    """Import torch and torch_tensorrt and turn TF32 off in torch.

    Raises:
        BackendError: one of them is missing or does not load, or torch sees no CUDA device.
    """
    try:
        import torch
    except ImportError as error:
        raise BackendError(f"torch is not installed: install edge-ad[tensorrt], {INSTEAD}") from error
    if not torch.cuda.is_available():
        raise BackendError(f"torch {torch.__version__} sees no CUDA device: install its CUDA build, {INSTEAD}")
    try:
        import torch_tensorrt
    except Exception as error:  # a CUDA or TensorRT library that does not fit is an OSError or AssertionError
        raise BackendError(f"torch_tensorrt does not load ({_line(error)}): see README, {INSTEAD}") from error
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    return torch, torch_tensorrt


def program_path(bundle: Bundle, precision: Precision) -> Path:
    """The bundle's torch.export program.

    Raises:
        BundleError: it was exported without one.
        BackendError: a precision that this back-end does not compile.
    """
    if precision != "fp32":
        raise BackendError(f"torch_tensorrt compiles fp32, not {precision}: set precision: fp32, {INSTEAD}")
    if PROGRAM not in bundle.manifest.files:
        raise BundleError(f"{bundle.path} holds no {PROGRAM}: export it with --program, {INSTEAD}")
    return bundle.path / PROGRAM


def refuse_other_torch(bundle: Bundle, installed: str) -> None:
    """Refuse a program that another minor version of torch wrote: the format changes between them.

    Raises:
        BundleError: naming both versions.
    """
    recorded = bundle.manifest.program_torch
    if recorded is None or _minor(recorded) != _minor(installed):
        raise BundleError(
            f"{bundle.path / PROGRAM} was written by torch {recorded}, here is {installed}: "
            f"export it with torch {_minor(installed)}, {INSTEAD}"
        )


def load_program(path: Path) -> ExportedProgram:
    """Read a torch.export program."""
    import torch

    return torch.export.load(path)


def one_image(program: ExportedProgram, height: int, width: int, device: str) -> ExportedProgram:
    """Fix N = 1 and move the weights to `device`.

    Torch-TensorRT takes the range of N from the program, not from its inputs: left free (1..64) it would tune the
    engine for 33 images and reserve memory for 64.
    """
    import torch
    from torch.export.passes import move_to_device_pass

    example = torch.zeros((1, height, width, 3), dtype=torch.uint8)
    return move_to_device_pass(torch.export.export(program.module(), (example,)), device)


def compile_program(compiler: ModuleType, program: ExportedProgram, cache: Path) -> Module:
    """Compile a program of one image, given as its only argument, to one engine."""
    compile_ = compiler.dynamo.compile
    (example,), _ = program.example_inputs
    inputs = [compiler.Input(shape=tuple(example.shape), dtype=example.dtype)]
    settings = compile_settings(inspect.signature(compile_).parameters, cache)
    compiled: Module = compile_(program, arg_inputs=inputs, **settings)
    return compiled


def compile_settings(accepted: Collection[str], cache: Path) -> dict[str, Any]:
    """The few of the compiler's many settings that we choose.

    Args:
        accepted: the parameters of the installed `torch_tensorrt.dynamo.compile`.
        cache: folder of this engine and nothing else: the compiler's own key ignores the weights.
    """
    settings = {
        "disable_tf32": True,
        "require_full_compilation": True,  # one engine or an error
        "pass_through_build_failures": True,
        "immutable_weights": False,  # the engine cache holds only engines that can be refitted
        "cache_built_engines": True,
        "reuse_cached_engines": True,
        "engine_cache_dir": str(cache),
        "timing_cache_path": str(cache / "timing.bin"),
    }
    if "use_explicit_typing" in accepted:  # 2.8 to 2.12; later versions know nothing else
        settings["use_explicit_typing"] = True
    return settings


def engine_cache(bundle: Bundle, sm: str, stack: str) -> Path:
    """The private folder for one bundle's engine on one device and software stack; anything else builds anew.

    Under systemd it lies in CacheDirectory=, else in the user's cache. torch_tensorrt keeps pickles in it, so only its
    owner may write there.

    Raises:
        BackendError: the folder cannot be made.
    """
    root = os.environ.get("CACHE_DIRECTORY") or str(Path.home() / ".cache" / "edge-ad")
    folder = Path(root.split(":")[0]) / "engines" / f"{bundle.digest[:16]}-{sm}-{stack}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise BackendError(f"cannot make the engine cache {folder} ({error.strerror}): set $CACHE_DIRECTORY") from error
    return folder


def versions(torch: ModuleType, compiler: ModuleType) -> str:
    """The software that an engine depends on, as part of a folder's name."""
    import tensorrt

    found = (("torch", torch), ("torchtrt", compiler), ("trt", tensorrt))
    named = "-".join(f"{name}{module.__version__}" for name, module in found)
    return f"{named}-cuda{torch.version.cuda}"


def _minor(version: str) -> str:
    """Major and minor version: "2.13.0+cpu" is "2.13"."""
    return ".".join(re.split(r"[.+]", version)[:2])


def _line(error: Exception) -> str:
    first = str(error).strip().splitlines()[:1]
    return f"{type(error).__name__}: {first[0]}" if first else type(error).__name__
