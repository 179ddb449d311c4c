"""Rules of Torch-TensorRT's way to an engine, as far as they hold without a GPU: refusals, precision, the whole graph.

The partitioner and the converters need torch_tensorrt (make engines), not a GPU.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edge_ad.bundle import MODEL_FILE, PROGRAM, Bundle, FileEntry, Manifest, open_bundle
from edge_ad.engines import torch_tensorrt as builder
from edge_ad.engines.tensorrt import Limits
from edge_ad.engines.torch_tensorrt import (
    compile_settings,
    fixed_program,
    load_program,
    load_vendor,
    refuse_other_torch,
    refuse_unfit,
)
from edge_ad.errors import BackendError, BundleError
from tests.bundles import make_bundle
from tests.quantising import int8_graph
from tests.trainer.tiny import tiny_config
from trainer.config import profile
from trainer.export import export_graph, save_program
from trainer.golden import golden_images
from trainer.methods.base import build_method

N = torch.export.Dim("N", min=1, max=64)
LIMITS = Limits(256 << 20, Path("timing.bin"))


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """A bundle that lists a program, as far as its manifest goes."""
    found = open_bundle(make_bundle(tmp_path / "bundle"))
    return Bundle(found.path, with_program(found.manifest))


def with_program(manifest: Manifest) -> Manifest:
    files = manifest.files | {PROGRAM: FileEntry(sha256="0" * 64, bytes=1)}
    return manifest.model_copy(update={"files": files, "program_torch": "2.8.0"})


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The versions that seem to be installed."""
    versions = {"torch": "2.8.0", "torch-tensorrt": "2.8.0"}
    monkeypatch.setattr(builder, "installed_version", versions.get)
    return versions


# --- refusals: one line each, before anything heavy is imported ---------------------------------------------------


def test_a_program_of_the_installed_torch_is_taken(bundle: Bundle, installed: dict[str, str]) -> None:
    refuse_unfit(bundle, "fp16")


def test_a_bundle_without_a_program_is_refused_with_the_command_that_mends_it(tmp_path: Path) -> None:
    bundle = open_bundle(make_bundle(tmp_path / "bundle"))
    with pytest.raises(BundleError, match=r"holds no model\.pt2: export it with --program .*, or --backend tensorrt"):
        refuse_unfit(bundle, "fp16")


def test_int8_needs_the_bundles_int8_graph(bundle: Bundle, installed: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="holds no int8 model"):
        refuse_unfit(bundle, "int8")
    quantised = open_bundle(make_bundle(tmp_path / "int8", int8=True))
    refuse_unfit(Bundle(quantised.path, with_program(quantised.manifest)), "int8")


@pytest.mark.parametrize("absent", ["torch", "torch-tensorrt"])
def test_without_its_packages_the_extra_is_named(bundle: Bundle, installed: dict[str, str], absent: str) -> None:
    del installed[absent]
    with pytest.raises(BackendError, match=r"not installed: pip install edge-ad\[tensorrt\], or --backend tensorrt"):
        refuse_unfit(bundle, "fp16")


@pytest.mark.parametrize("here", ["2.8.0", "2.13.1+cpu", "2.13.0a0+nv25"])
@pytest.mark.parametrize("recorded", [None, "2.8.0", "2.13.0+cpu", "2.1.3"])
def test_a_program_of_another_minor_version_of_torch_is_refused(
    bundle: Bundle, recorded: str | None, here: str
) -> None:
    written = Bundle(bundle.path, bundle.manifest.model_copy(update={"program_torch": recorded}))
    if recorded is not None and recorded.split(".")[:2] == here.split(".")[:2]:
        refuse_other_torch(written, here)
        return
    with pytest.raises(BundleError) as refused:
        refuse_other_torch(written, here)
    said = str(refused.value)
    assert f"was written by torch {recorded}, here is {here}: " in said
    assert f'pip install "torch=={".".join(here.split(".")[:2])}.*" and edge-ad-train export RUN' in said
    assert "\n" not in said


def test_a_torch_without_cuda_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BackendError, match=r"torch .* sees no CUDA device: install its CUDA build, or --backend"):
        load_vendor()


def test_a_torch_tensorrt_that_does_not_load_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setitem(sys.modules, "torch_tensorrt", None)
    with pytest.raises(BackendError, match="torch_tensorrt does not load") as refused:
        load_vendor()
    assert "\n" not in str(refused.value)


def test_importing_the_builder_imports_neither_torch_nor_pycuda() -> None:
    code = "import sys, edge_ad.engines.build; sys.exit(bool({'torch', 'pycuda', 'tensorrt'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# --- the program ------------------------------------------------------------------------------------------------


class Brightness(nn.Module):
    """A graph with a constant, a buffer and a weight, as the real one has."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1 / 255))
        self.register_buffer("noise", torch.ones(1, dtype=torch.float16))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        unit = image.to(torch.float32).mul(self.scale)
        return unit.mean(dim=3) + torch.tensor([0.25]) + self.noise.float(), unit.amax(dim=(1, 2, 3))


class Frozen(nn.Module):
    """Normalisation without weights, in a part without gradients: torch.export makes a graph of its own of that."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3, affine=False)
        nn.init.constant_(self.norm.running_mean, 3.0)

    @torch.no_grad()
    def forward(self, image: Tensor) -> Tensor:
        return self.norm(image.to(torch.float32).permute(0, 3, 1, 2)) / 255


class Bare(nn.Module):
    """A network around it."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = Frozen()

    def forward(self, image: Tensor) -> tuple[Tensor]:
        return (self.frozen(image) * 2,)


class Gamma(nn.Module):
    """An operator that TensorRT has not, between operators that it has."""

    def forward(self, image: Tensor) -> Tensor:
        planes = image.to(torch.float32).permute(0, 3, 1, 2).relu().mul(2.0).add(1.0)
        return torch.lgamma(planes).relu().mul(2.0).add(1.0).sum(dim=(1, 2, 3))


def write(path: Path, module: nn.Module) -> Path:
    example = torch.zeros((2, 8, 9, 3), dtype=torch.uint8)
    torch.export.save(torch.export.export(module.eval(), (example,), dynamic_shapes=({0: N},)), path)
    return path


def random_images(n: int) -> Tensor:
    return torch.randint(0, 256, (n, 8, 9, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-6), ("fp16", 2e-3)])
def test_fixed_at_one_image_the_program_says_the_same(tmp_path: Path, precision: Any, tolerance: float) -> None:
    free = load_program(write(tmp_path / PROGRAM, Brightness()))
    expected = free.module()(random_images(3))
    fixed = fixed_program(free, precision, (1, 8, 9, 3), "cpu")
    assert fixed.range_constraints == {}
    for i in range(3):
        for found, wanted in zip(fixed.module()(random_images(3)[i : i + 1]), expected, strict=True):
            assert found.dtype == torch.float32
            torch.testing.assert_close(found, wanted[i : i + 1], atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-6), ("fp16", 2e-3)])
def test_a_normalisation_without_weights_gets_some_and_says_the_same(
    tmp_path: Path, precision: Any, tolerance: float
) -> None:
    """Torch-TensorRT's partitioner takes it without, its converter does not."""
    free = load_program(write(tmp_path / PROGRAM, Bare()))
    expected = free.module()(random_images(1))[0]
    fixed = fixed_program(free, precision, (1, 8, 9, 3), "cpu")
    (norm,) = (node for node in fixed.graph.nodes if "batch_norm" in str(node.target))
    assert None not in norm.args[:5]
    torch.testing.assert_close(fixed.module()(random_images(1))[0], expected, atol=tolerance, rtol=tolerance)


def types_computed_in(program: torch.export.ExportedProgram) -> set[torch.dtype]:
    """Of all floating-point results inside a program, the outputs left out."""
    (output,) = (node for node in program.graph.nodes if node.op == "output")
    inside = [node for node in program.graph.nodes if node.op == "call_function" and output not in node.users]
    values = [node.meta.get("val") for node in inside]
    return {value.dtype for value in values if isinstance(value, Tensor) and value.dtype.is_floating_point}


def test_the_whole_network_computes_in_the_precision_asked_for(tmp_path: Path) -> None:
    """Not only its weights: a constant left in FP32 would lift everything behind it to FP32."""
    config = tiny_config()
    save_program(tmp_path / PROGRAM, build_method(config, 0).graph().eval(), config)
    shape = (1, config.input.height, config.input.width, 3)
    for precision, wanted in (("fp32", {torch.float32, torch.float16}), ("fp16", {torch.float16})):
        program = fixed_program(load_program(tmp_path / PROGRAM), precision, shape, "cpu")  # type: ignore[arg-type]
        assert types_computed_in(program) <= wanted
        weights = [value for value in program.state_dict.values() if value.is_floating_point()]
        assert {value.dtype for value in weights} <= wanted


def test_in_fp16_the_network_says_nearly_the_same(tmp_path: Path) -> None:
    config = tiny_config()
    graph = build_method(config, 0).graph().eval()
    save_program(tmp_path / PROGRAM, graph, config)
    image = torch.from_numpy(golden_images(1, config.input.height, config.input.width))
    halved = fixed_program(load_program(tmp_path / PROGRAM), "fp16", tuple(image.shape), "cpu").module()  # type: ignore[arg-type]
    with torch.inference_mode():
        for found, wanted in zip(halved(image), graph(image), strict=True):
            torch.testing.assert_close(found, wanted, atol=1e-2, rtol=1e-2)


# --- the compiler -----------------------------------------------------------------------------------------------


def test_settings_that_versions_differ_in_are_passed_only_where_the_signature_has_them() -> None:
    new = compile_settings(["disable_tf32"], LIMITS)
    old = compile_settings(["use_explicit_typing", "offload_module_to_cpu"], LIMITS)
    assert "use_explicit_typing" not in new
    assert old == new | {"use_explicit_typing": True, "offload_module_to_cpu": True}
    assert new["disable_tf32"] is True
    assert new["require_full_compilation"] is True
    assert new["workspace_size"] == LIMITS.workspace_bytes


def test_no_engine_is_kept_as_a_pickle() -> None:
    settings = compile_settings([], LIMITS)
    assert settings["cache_built_engines"] is settings["reuse_cached_engines"] is False


Run = Callable[..., "subprocess.CompletedProcess[str]"]
Found = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def without_gpu() -> Run:
    if importlib.util.find_spec("torch_tensorrt") is None:
        pytest.skip("torch_tensorrt is not installed (make engines installs torch-tensorrt-rtx)")

    def run(what: str, path: Path, height: int, width: int, *precisions: str) -> subprocess.CompletedProcess[str]:
        script = [sys.executable, "-m", "tests.edge_ad.engines.without_gpu"]
        command = [*script, what, str(path), str(height), str(width), *precisions]
        return subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[3])

    return run


@pytest.fixture(scope="module", params=["demo", "edge"])
def found(without_gpu: Run, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What Torch-TensorRT makes of the program of a profile that ships, its weights untrained."""
    config = profile(request.param)
    path = tmp_path_factory.mktemp(request.param) / PROGRAM
    method = build_method(config, 0).eval()
    save_program(path, method.graph().eval(), config)
    int8_graph(export_graph(method, config).model, path.with_name(MODEL_FILE["int8"]))
    ended = without_gpu("build", path, config.input.height, config.input.width, "fp32", "fp16", "int8")
    assert ended.returncode == 0, ended.stderr[-2000:]
    answer: Found = json.loads(ended.stdout.splitlines()[-1])
    return answer


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_partitioner_takes_the_whole_graph_in_one_engine(found: Found, precision: str) -> None:
    """Network, guidance, score and reconstruction, from uint8 pixels on: every operator, none left to torch."""
    engines = found[precision]["engines"]
    assert len(engines) == 1
    assert next(iter(engines.values())) > 50
    assert found[precision]["outside"] == 0


def test_the_converters_make_an_engine_and_fp16_makes_it_smaller(found: Found) -> None:
    assert 0 < found["fp16"]["bytes"] < found["fp32"]["bytes"]


def test_every_setting_of_ours_is_known_to_the_compiler(found: Found) -> None:
    assert [answer["unknown_settings"] for answer in found.values()] == [[], [], []]


def test_in_int8_every_pair_reaches_the_converters_those_of_weights_too(found: Found) -> None:
    """Computed beforehand, a weight's pair would leave FP16 weights, and no convolution in INT8."""
    assert found["fp16"]["pairs"] == 0
    assert found["int8"]["pairs"] == found["int8"]["pairs_wanted"] > 50


def test_a_graph_that_does_not_become_one_engine_is_refused(without_gpu: Run, tmp_path: Path) -> None:
    """The control of the tests above, and of the promise that nothing falls back to torch."""
    program = write(tmp_path / PROGRAM, Gamma())
    result = without_gpu("partition", program, 8, 9, "fp32")
    assert result.returncode != 0
    assert "model is not fully supported" in result.stderr
    result = without_gpu("convert", program, 8, 9, "fp32")
    assert result.returncode != 0
    last = result.stderr.splitlines()[-1]
    assert "BackendError: Torch-TensorRT refused the program: UnsupportedOperatorException: Conversion of" in last
    assert "lgamma" in last
