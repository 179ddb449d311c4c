"""Rules of the torch back-end beyond the contract: its refusals, each with the command that mends it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edge_ad.backends.base import open_backend
from edge_ad.backends.torch import load_module
from edge_ad.bundle import PROGRAM, Bundle, FileEntry, open_bundle
from edge_ad.config import BackendConfig
from edge_ad.errors import BackendError, BundleError, ConfigError
from tests.bundles import make_bundle

EXPORT = r"edge-ad-train export RUN --out NEW_BUNDLE --program"


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """A bundle that holds a program which no torch can load."""
    found = open_bundle(make_bundle(tmp_path / "bundle"))
    (found.path / PROGRAM).write_bytes(b"of another age")
    files = found.manifest.files | {PROGRAM: FileEntry(sha256="0" * 64, bytes=14)}
    return Bundle(found.path, found.manifest.model_copy(update={"files": files, "program_torch": "1.0.0"}))


def test_a_bundle_without_a_program_is_refused_naming_the_command(tmp_path: Path) -> None:
    bundle = open_bundle(make_bundle(tmp_path / "bundle"))
    with pytest.raises(BundleError, match=rf"holds no model\.pt2: write it with torch by `{EXPORT}`, or set backend"):
        open_backend(bundle, BackendConfig(name="torch"))


def test_a_program_that_this_torch_cannot_load_is_refused_naming_both_versions(bundle: Bundle) -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(
        BundleError, match=rf"written by torch 1\.0\.0 .*: write it with torch .* by `{EXPORT}`"
    ) as refused:
        load_module(bundle, "cpu")
    assert torch.__version__ in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"precision": "int8"}, "torch runs fp32, not int8"), ({"device": "tensorrt"}, "torch runs on cpu or cuda, not")],
)
def test_what_it_does_not_run_is_refused_and_not_replaced(bundle: Bundle, wrong: dict[str, str], said: str) -> None:
    config = BackendConfig.model_validate({"name": "torch", **wrong})
    with pytest.raises(ConfigError, match=said):
        open_backend(bundle, config)


def test_a_torch_without_cuda_is_refused_and_not_run_on_the_cpu(bundle: Bundle) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(BackendError, match="sees no CUDA device: set device: cpu"):
        open_backend(bundle, BackendConfig(name="torch", device="cuda"))


def test_without_torch_the_extra_is_named(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(BackendError, match=r"torch does not load .*: install edge-ad\[train\], or set backend"):
        open_backend(bundle, BackendConfig(name="torch"))


@pytest.mark.parametrize("vendor", ["torch", "openvino"])
def test_importing_a_back_end_does_not_import_its_vendor(vendor: str) -> None:
    code = f"import sys, edge_ad.backends.{vendor}; sys.exit('{vendor}' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
