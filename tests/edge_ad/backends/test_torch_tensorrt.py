"""Rules of the Torch-TensorRT back-end that hold without a GPU: its refusals, its settings, its engine's folder.

The partitioner's verdict needs torch_tensorrt (`pip install torch-tensorrt-rtx`), not a GPU. Building, running and
parity need a GPU.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from edge_ad.backends.base import open_backend
from edge_ad.backends.torch_tensorrt import (
    compile_settings,
    engine_cache,
    load_program,
    load_vendor,
    one_image,
    program_path,
    refuse_other_torch,
)
from edge_ad.bundle import PROGRAM, Bundle, FileEntry, open_bundle
from edge_ad.config import BackendConfig
from edge_ad.errors import BackendError, BundleError
from tests.bundles import make_bundle
from tests.trainer.tiny import tiny_config
from trainer.export import save_program
from trainer.methods.base import build_method

without_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
N = torch.export.Dim("N", min=1, max=64)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """A bundle that lists a program, as far as its manifest goes."""
    found = open_bundle(make_bundle(tmp_path / "bundle"))
    files = found.manifest.files | {PROGRAM: FileEntry(sha256="0" * 64, bytes=1)}
    manifest = found.manifest.model_copy(update={"files": files, "program_torch": torch.__version__})
    return Bundle(found.path, manifest)


# --- refusals: one line each ------------------------------------------------------------------------------------


def test_a_bundle_without_a_program_is_refused(tmp_path: Path) -> None:
    bundle = open_bundle(make_bundle(tmp_path / "bundle"))
    with pytest.raises(BundleError, match=r"holds no model\.pt2: export it with --program, or set backend"):
        open_backend(bundle, BackendConfig(name="torch_tensorrt"))


def test_a_precision_that_it_does_not_compile_is_refused(bundle: Bundle) -> None:
    with pytest.raises(BackendError, match="compiles fp32, not int8"):
        program_path(bundle, "int8")


@without_cuda
def test_a_torch_without_cuda_is_refused_and_not_run_on_the_cpu(bundle: Bundle) -> None:
    with pytest.raises(BackendError, match=r"torch .* sees no CUDA device: install its CUDA build, or set backend"):
        open_backend(bundle, BackendConfig(name="torch_tensorrt"))


def test_without_torch_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(BackendError, match=r"torch is not installed: install edge-ad\[tensorrt\]"):
        load_vendor()


def test_a_torch_tensorrt_that_does_not_load_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setitem(sys.modules, "torch_tensorrt", None)
    with pytest.raises(BackendError, match="torch_tensorrt does not load") as refused:
        load_vendor()
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("installed", ["2.8.0", "2.13.1+cpu", "2.13.0a0+nv25"])
@pytest.mark.parametrize("recorded", [None, "2.8.0", "2.13.0+cpu", "2.1.3"])
def test_a_program_of_another_minor_version_of_torch_is_refused(
    bundle: Bundle, recorded: str | None, installed: str
) -> None:
    written = Bundle(bundle.path, bundle.manifest.model_copy(update={"program_torch": recorded}))
    if recorded is not None and recorded.split(".")[:2] == installed.split(".")[:2]:
        refuse_other_torch(written, installed)
        return
    with pytest.raises(BundleError, match=rf"was written by torch {recorded}, here is".replace("+", r"\+")):
        refuse_other_torch(written, installed)


def test_importing_the_backend_imports_neither_torch_nor_pycuda() -> None:
    code = "import sys, edge_ad.backends.torch_tensorrt as m; sys.exit(bool({'torch', 'pycuda'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# --- the program ------------------------------------------------------------------------------------------------


class Brightness(nn.Module):
    """A graph with a constant and a weight, as the real one has."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1 / 255))

    def forward(self, image: Tensor) -> Tensor:
        return image.to(torch.float32).mul(self.scale).mean(dim=3) + torch.tensor([0.25])


class Gamma(nn.Module):
    """An operator that TensorRT has not, between operators that it has."""

    def forward(self, image: Tensor) -> Tensor:
        planes = image.to(torch.float32).permute(0, 3, 1, 2).relu().mul(2.0).add(1.0)
        return torch.lgamma(planes).relu().mul(2.0).add(1.0).sum(dim=(1, 2, 3))


def write(path: Path, module: nn.Module) -> Path:
    example = torch.zeros((2, 8, 9, 3), dtype=torch.uint8)
    torch.export.save(torch.export.export(module.eval(), (example,), dynamic_shapes=({0: N},)), path)
    return path


def test_fixed_at_one_image_the_program_says_the_same(tmp_path: Path) -> None:
    free = load_program(write(tmp_path / PROGRAM, Brightness()))
    fixed = one_image(free, 8, 9, "cpu")
    assert fixed.range_constraints == {}
    image = torch.randint(0, 256, (3, 8, 9, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    expected = free.module()(image)
    for i in range(3):
        torch.testing.assert_close(fixed.module()(image[i : i + 1]), expected[i : i + 1])


# --- the compiler -----------------------------------------------------------------------------------------------


def test_explicit_typing_is_asked_for_only_where_the_signature_has_it(tmp_path: Path) -> None:
    new, old = compile_settings(["disable_tf32"], tmp_path), compile_settings(["use_explicit_typing"], tmp_path)
    assert "use_explicit_typing" not in new
    assert old == new | {"use_explicit_typing": True}
    assert new["disable_tf32"] is True
    assert new["require_full_compilation"] is True
    assert Path(new["engine_cache_dir"]) == Path(new["timing_cache_path"]).parent == tmp_path


def test_each_bundle_device_and_stack_has_its_own_private_folder(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CACHE_DIRECTORY", f"{tmp_path / 'cache'}:/elsewhere")
    other = Bundle(bundle.path, bundle.manifest.model_copy(update={"digest": "f" * 64}))
    folders = {
        engine_cache(bundle, "sm_87", "torch2.8"),
        engine_cache(other, "sm_87", "torch2.8"),
        engine_cache(bundle, "sm_110", "torch2.8"),
        engine_cache(bundle, "sm_87", "torch2.13"),
    }
    assert len(folders) == 4
    for folder in folders:
        assert folder.parent == tmp_path / "cache" / "engines"
        assert folder.stat().st_mode & 0o777 == 0o700


def test_a_cache_that_cannot_be_made_is_one_line(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path / "file"))
    with pytest.raises(BackendError, match=r"cannot make the engine cache .* \(Not a directory\)"):
        engine_cache(bundle, "sm_87", "torch2.8")


def partition(path: Path, height: int, width: int) -> subprocess.CompletedProcess[str]:
    if importlib.util.find_spec("torch_tensorrt") is None:
        pytest.skip("torch_tensorrt is not installed: pip install torch-tensorrt-rtx")
    command = [sys.executable, "-m", "tests.edge_ad.backends.partition", str(path), str(height), str(width)]
    root = Path(__file__).parents[3]
    return subprocess.run(command, capture_output=True, text=True, cwd=root)


def test_the_partitioner_takes_the_whole_graph_in_one_engine(tmp_path: Path) -> None:
    """Network, guidance, score and reconstruction, from uint8 pixels on."""
    config = tiny_config()
    save_program(tmp_path / PROGRAM, build_method(config, 0).graph().eval(), config)
    result = partition(tmp_path / PROGRAM, config.input.height, config.input.width)
    assert result.returncode == 0, result.stderr[-2000:]
    found = json.loads(result.stdout.splitlines()[-1])
    assert next(iter(found["engines"].values())) > 50
    assert len(found["engines"]) == 1
    assert found["outside"] == 0
    assert found["unknown_settings"] == []


def test_a_graph_that_does_not_become_one_engine_is_refused(tmp_path: Path) -> None:
    """The control of the test above, and of the promise that nothing falls back to torch."""
    result = partition(write(tmp_path / PROGRAM, Gamma()), 8, 9)
    assert result.returncode != 0
    assert "model is not fully supported" in result.stderr
