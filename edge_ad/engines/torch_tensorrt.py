"""Torch-TensorRT: an engine from the bundle's torch.export program, through its converters.

What comes out is a TensorRT engine like the one of TensorRT's own builder, and runs the same way: torch is needed to
build, not in the daemon. One code path serves torch_tensorrt 2.8 (JetPack 6) to 2.14: types are those of the program,
and a setting that not all versions have is passed where the signature has it. There is no fall-back to torch: a graph
that does not become one engine is refused.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import logging
import re
from collections.abc import Collection
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from edge_ad.bundle import PROGRAM, Bundle
from edge_ad.config import Precision
from edge_ad.engines.quantised_program import quantised, register_converter
from edge_ad.engines.tensorrt import Limits
from edge_ad.errors import BackendError, BundleError, first_line

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.fx import GraphModule
    from torch.nn import Module

COMPILER_LOG, TENSORRT_LOG = "torch_tensorrt", "torch_tensorrt [TensorRT Conversion Context]"
RTX = "torch-tensorrt-rtx"  # the same compiler, whose engines are TensorRT-RTX's
ONNX_INSTEAD = "or --backend tensorrt, which builds from the bundle's ONNX"


def installed_version(distribution: str) -> str | None:
    """The version of a distribution, found without importing it."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def compiler_version() -> str | None:
    """Of Torch-TensorRT, as a key has it: "2.8.0", "rtx 2.13.0" of the one for TensorRT-RTX; None without either."""
    found = {"": installed_version("torch-tensorrt"), "rtx ": installed_version(RTX)}
    return ", ".join(f"{kind}{version}" for kind, version in found.items() if version is not None) or None


def refuse_unfit(bundle: Bundle, precision: Precision) -> None:
    """Refuse what this builder cannot build from, before anything heavy is imported.

    Raises:
        BundleError: the bundle holds no program, one of another torch, or is not there in this precision.
        BackendError: torch or torch_tensorrt is not installed.
    """
    bundle.model_path(precision)  # of INT8 the pairs are taken, by which the program is quantised
    if PROGRAM not in bundle.manifest.files:
        again = "export it with --program (edge-ad-train export RUN --out NEW_BUNDLE --program)"
        raise BundleError(f"{bundle.path} holds no {PROGRAM}: {again}, {ONNX_INSTEAD}")
    torch = installed_version("torch")
    if torch is None or compiler_version() is None:
        raise BackendError(f"torch and torch-tensorrt are not installed: pip install edge-ad[tensorrt], {ONNX_INSTEAD}")
    refuse_other_torch(bundle, torch)


def refuse_other_torch(bundle: Bundle, installed: str) -> None:
    """Refuse a program that another minor version of torch wrote: the format changes between them.

    Raises:
        BundleError: naming both versions and the command that mends it.
    """
    recorded = bundle.manifest.program_torch
    if recorded is None or _minor(recorded) != _minor(installed):
        wanted = f'pip install "torch=={_minor(installed)}.*"'
        again = f"on the desktop, {wanted} and edge-ad-train export RUN --out NEW_BUNDLE --program"
        raise BundleError(
            f"{bundle.path / PROGRAM} was written by torch {recorded}, here is {installed}: {again}, {ONNX_INSTEAD}"
        )


def build_from_program(bundle: Bundle, precision: Precision, shape: tuple[int, int, int, int], limits: Limits) -> bytes:
    """Build an engine for one input shape.

    Raises:
        BackendError: torch or torch_tensorrt does not load, sees no CUDA device, or refused the program.
    """
    compiler = load_vendor()
    path, int8 = bundle.path / PROGRAM, bundle.model_path("int8") if precision == "int8" else None
    try:
        program = fixed_program(load_program(path), precision, shape, "cuda", int8)
        return convert(compiler, program, limits)
    except BackendError:
        raise
    except Exception as error:  # torch and torch_tensorrt share no base but Exception
        raise BackendError(f"Torch-TensorRT refused {path}: {_line(error)}, {ONNX_INSTEAD}") from error


def load_vendor() -> ModuleType:
    """Import torch_tensorrt; importing it initialises CUDA.

    Raises:
        BackendError: it or torch does not load, or torch sees no CUDA device.
    """
    try:
        import torch
    except Exception as error:  # a library of CUDA that is not there is an OSError
        raise BackendError(f"torch does not load ({_line(error)}): see docs/jetson.md, {ONNX_INSTEAD}") from error
    if not torch.cuda.is_available():
        raise BackendError(f"torch {torch.__version__} sees no CUDA device: install its CUDA build, {ONNX_INSTEAD}")
    try:
        import torch_tensorrt
    except Exception as error:  # a CUDA or TensorRT library that does not fit is an OSError or AssertionError
        raise BackendError(
            f"torch_tensorrt does not load ({_line(error)}): see docs/jetson.md, {ONNX_INSTEAD}"
        ) from error
    module: ModuleType = torch_tensorrt
    register_converter(module)
    return module


def load_program(path: Path) -> ExportedProgram:
    """Read a torch.export program."""
    import torch

    return torch.export.load(path)


def fixed_program(
    program: ExportedProgram,
    precision: Precision,
    shape: tuple[int, int, int, int],
    device: str,
    int8: Path | None = None,
) -> ExportedProgram:
    """The program for one shape, in a precision, with its weights on `device`.

    INT8 is by the bundle's INT8 graph, the file `int8`, and what that does not quantise is FP16.

    Torch-TensorRT takes the range of N from the program, not from its inputs: left free (1..64) it would tune the
    engine for 33 images and reserve memory for 64.
    """
    import torch
    from torch.export.passes import move_to_device_pass

    if (precision == "int8") != (int8 is not None):
        raise ValueError(f"{precision} with the INT8 graph {int8}: without one it would be FP16, with one it is INT8")
    flat = program.run_decompositions({})  # nothing is decomposed; what ran without gradients is no graph of its own
    module = with_batch_norm_weights(flat.module())
    if int8 is not None:
        module = quantised(module, int8)
    if precision != "fp32":
        module = halved(module)
    return move_to_device_pass(torch.export.export(module, (torch.zeros(shape, dtype=torch.uint8),)), device)


def with_batch_norm_weights(module: GraphModule) -> GraphModule:
    """Give batch normalisations without weights (affine=False) ones and zeros: the converter does not take None."""
    import torch

    graph, aten = module.graph, torch.ops.aten
    norms = (aten.batch_norm.default, aten._native_batch_norm_legit_no_training.default)
    for number, node in enumerate(list(graph.nodes)):
        arguments: Any = node.args  # input, weight, bias, mean, variance ...
        if node.target in norms and arguments[1] is None:
            owner, attribute = _place(module, arguments[3].target)
            mean = getattr(owner, attribute)
            module.register_buffer(f"ones_{number}", torch.ones_like(mean))
            module.register_buffer(f"zeros_{number}", torch.zeros_like(mean))
            with graph.inserting_before(node):
                weights = (graph.get_attr(f"ones_{number}"), graph.get_attr(f"zeros_{number}"))
            node.args = (arguments[0], *weights, *arguments[3:])
    module.recompile()
    return module


def halved(module: GraphModule) -> GraphModule:
    """An exported program's module with all of its arithmetic in FP16, its outputs FP32 as before.

    torch_tensorrt 2.8 could choose FP16 itself, 2.13 cannot any more; a graph that says FP16 means it to both.
    """
    import torch
    from torch.fx.node import map_aggregate

    for node in module.graph.nodes:
        if node.op == "get_attr":  # parameters, buffers and constants
            _halve_tensor(module, str(node.target))
        node.args = map_aggregate(node.args, _halve_type)  # type: ignore[assignment]
        node.kwargs = map_aggregate(node.kwargs, _halve_type)  # type: ignore[assignment]
    (output,) = (node for node in module.graph.nodes if node.op == "output")
    results: Any = output.args[0]
    to_type, graph = torch.ops.aten.to.dtype, module.graph
    with graph.inserting_before(output):
        output.args = (tuple(graph.call_function(to_type, (result, torch.float32)) for result in results),)
    module.recompile()
    return module


def _halve_type(value: Any) -> Any:
    import torch

    return torch.float16 if value is torch.float32 else value


def _place(module: GraphModule, name: str) -> tuple[Module, str]:
    """Who owns what a graph refers to by a dotted name, and as what."""
    owner, _, attribute = name.rpartition(".")
    return module.get_submodule(owner), attribute


def _halve_tensor(module: GraphModule, name: str) -> None:
    """Replace a tensor that a graph refers to by its FP16 form, if it is FP32."""
    import torch

    owner, attribute = _place(module, name)
    value = getattr(owner, attribute)
    if isinstance(value, torch.Tensor) and value.dtype == torch.float32:
        halved = value.detach().half()
        is_parameter = isinstance(value, torch.nn.Parameter)
        setattr(owner, attribute, torch.nn.Parameter(halved, requires_grad=False) if is_parameter else halved)


def convert(compiler: ModuleType, program: ExportedProgram, limits: Limits) -> bytes:
    """Convert a program of one fixed shape, whole, to a serialized engine.

    Raises:
        BackendError: the compiler refused it; why.
    """
    convert_ = compiler.dynamo.convert_exported_program_to_serialized_trt_engine
    (example,), _ = program.example_inputs
    inputs = [compiler.Input(shape=tuple(example.shape), dtype=example.dtype)]
    settings = compile_settings(inspect.signature(convert_).parameters, limits)
    with _LastError(COMPILER_LOG) as compiler_errors, _LastError(TENSORRT_LOG) as tensorrt_errors:
        try:
            plan: bytes = convert_(program, arg_inputs=inputs, **settings)
        except Exception as error:  # torch_tensorrt's errors share no base but Exception
            reason = compiler_errors.said or _line(error)
            own = f" (TensorRT: {tensorrt_errors.said})" if tensorrt_errors.said else ""
            raise BackendError(f"Torch-TensorRT refused the program: {reason}{own}, {ONNX_INSTEAD}") from error
    return plan


class _LastError(logging.Handler):
    """Keeps the first line of what was logged last as an error, in the block.

    torch_tensorrt 2.8 to 2.10 only log what went wrong, go on without an engine and end in an UnboundLocalError; later
    ones raise, for an operator that TensorRT has not, an error that begins with the whole graph.
    """

    def __init__(self, log: str) -> None:
        super().__init__(logging.ERROR)
        self.said = ""
        self._log = logging.getLogger(log)

    def __enter__(self) -> _LastError:
        self._log.addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._log.removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        cause = record.exc_info[1] if record.exc_info else None
        self.said = _line(cause) if isinstance(cause, Exception) else record.getMessage().strip().partition("\n")[0]


def compile_settings(accepted: Collection[str], limits: Limits) -> dict[str, Any]:
    """The few of the compiler's many settings that we choose.

    Args:
        accepted: the parameters of the installed compiler.
        limits: what the build may take.
    """
    settings = {
        "disable_tf32": True,
        "require_full_compilation": True,  # one engine or an error
        "pass_through_build_failures": True,
        "workspace_size": limits.workspace_bytes,
        "timing_cache_path": str(limits.timing_cache),
        "cache_built_engines": False,  # engines are kept by edge_ad/engines/store.py, and not as pickles
        "reuse_cached_engines": False,
    }
    versions_differ = {
        "use_explicit_typing": True,  # 2.8 to 2.12; later ones know nothing else
        "offload_module_to_cpu": True,  # the weights are not needed twice on a board that shares its memory
    }
    return settings | {name: value for name, value in versions_differ.items() if name in accepted}


def _minor(version: str) -> str:
    """Major and minor version: "2.13.0+cpu" is "2.13"."""
    return ".".join(re.split(r"[.+]", version)[:2])


def _line(error: Exception) -> str:
    name, said = type(error).__name__, first_line(error)
    return said if said == name else f"{name}: {said}"
