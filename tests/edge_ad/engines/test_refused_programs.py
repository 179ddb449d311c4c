"""Rules of what Torch-TensorRT refuses: one line says why, in the words of whoever refused, and nothing is built.

torch_tensorrt is played: what its versions do with an error is what differs between them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edge_ad.bundle import PROGRAM, Bundle
from edge_ad.engines import torch_tensorrt as builder
from edge_ad.engines.tensorrt import Limits
from edge_ad.engines.torch_tensorrt import ONNX_INSTEAD, TENSORRT_LOG, build_from_program, fixed_program
from edge_ad.errors import BackendError

LOG = logging.getLogger("torch_tensorrt.dynamo._compiler")
SHAPE = (1, 8, 9, 3)
Convert = Callable[..., bytes]


class UnsupportedOperatorException(RuntimeError):  # noqa: N818 - torch_tensorrt's name
    pass


def interpret(program: torch.export.ExportedProgram, tensorrt_says: str) -> bytes:
    """What all versions do: an operator without a converter is refused, a build that fails is an empty assertion."""
    for node in program.graph.nodes:
        if "lgamma" in str(node.target):
            raise UnsupportedOperatorException(f"Conversion of function {node.target} not currently supported!")
    if tensorrt_says:
        logging.getLogger(TENSORRT_LOG).error(tensorrt_says)
        raise AssertionError
    return b"engine"


def convert_2_8(program: torch.export.ExportedProgram, tensorrt_says: str) -> bytes:
    """2.8 to 2.10: an error is logged, and then the engine is missing."""
    try:
        engine = interpret(program, tensorrt_says)
    except UnsupportedOperatorException:
        LOG.error(f"Conversion of module {program.graph} not currently fully supported!", exc_info=True)
    except Exception as error:
        LOG.error(f"While interpreting the module got an error: {error}", exc_info=True)
    return engine


def convert_2_13(program: torch.export.ExportedProgram, tensorrt_says: str) -> bytes:
    """2.12 and later raise too; of an operator, beginning with the whole graph."""
    try:
        return interpret(program, tensorrt_says)
    except UnsupportedOperatorException as error:
        said = f"Conversion of module {program.graph} not currently fully supported!"
        LOG.error(said, exc_info=True)
        raise UnsupportedOperatorException(said) from error
    except Exception as error:
        said = f"While interpreting the module got an error: {error}"
        LOG.error(said, exc_info=True)
        raise RuntimeError(said) from error


@pytest.fixture(params=[convert_2_8, convert_2_13])
def convert(request: pytest.FixtureRequest) -> Convert:
    found: Convert = request.param
    return found


class Unit(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return image.to(torch.float32) / 255


class Gamma(nn.Module):
    """An operator that TensorRT has not."""

    def forward(self, image: Tensor) -> Tensor:
        return torch.lgamma(image.to(torch.float32))


Build = Callable[..., bytes]


@pytest.fixture
def build(convert: Convert, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Build:
    """The builder's whole way from a bundle's folder, but for CUDA; what TensorRT says of it, if it refuses."""

    def run(module: nn.Module, tensorrt_says: str = "") -> bytes:
        program = torch.export.export(module, (torch.zeros(SHAPE, dtype=torch.uint8),))
        torch.export.save(program, tmp_path / PROGRAM)
        dynamo = SimpleNamespace(
            convert_exported_program_to_serialized_trt_engine=lambda program, **_: convert(program, tensorrt_says)
        )
        monkeypatch.setattr(builder, "load_vendor", lambda: SimpleNamespace(dynamo=dynamo, Input=lambda **_: None))
        bundle: Any = Bundle(tmp_path, None)  # type: ignore[arg-type]
        return build_from_program(bundle, "fp32", SHAPE, Limits(256 << 20, Path("timing.bin")))

    monkeypatch.setattr(
        builder,
        "fixed_program",
        lambda program, precision, shape, _, int8: fixed_program(program, precision, shape, "cpu", int8),
    )
    return run


def test_a_program_that_can_be_converted_is_an_engine(build: Build) -> None:
    assert build(Unit()) == b"engine"
    assert logging.getLogger("torch_tensorrt").handlers == []


def test_an_operator_that_tensorrt_has_not_is_named(build: Build) -> None:
    with pytest.raises(BackendError) as refused:
        build(Gamma())
    assert str(refused.value) == (
        "Torch-TensorRT refused the program: UnsupportedOperatorException: Conversion of function aten.lgamma.default "
        f"not currently supported!, {ONNX_INSTEAD}"
    )
    assert logging.getLogger("torch_tensorrt").handlers == []


def test_what_tensorrt_itself_refuses_is_said_in_its_words(build: Build) -> None:
    with pytest.raises(BackendError) as refused:
        build(Unit(), "Error Code 10: no implementation for conv7\nwithin the workspace of 128 MiB")
    assert str(refused.value) == (
        "Torch-TensorRT refused the program: AssertionError (TensorRT: Error Code 10: no implementation for conv7), "
        f"{ONNX_INSTEAD}"
    )
