"""The import rule: edge_ad <- calibration <- trainer, pure cores, and each vendor library behind its adapter."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bundles import make_bundle

ROOT = Path(__file__).parents[1]
PACKAGES = ("edge_ad", "calibration", "trainer")  # each may import itself and what stands left of it

# What the pure parts may import of this project; of the rest, numpy and OpenCV's image functions.
CORE = ("edge_ad.core", "edge_ad.records", "edge_ad.errors")
SPARKPLUG_CORE = ("feed", "metrics", "payload", "session", "wire")
PURE = {
    "edge_ad/core": CORE,
    "calibration/threshold.py": (*CORE, "calibration.threshold"),
    "trainer/maths": (*CORE, "trainer.maths"),
    **{f"edge_ad/sparkplug/{name}.py": (*CORE, "edge_ad.sparkplug") for name in SPARKPLUG_CORE},
}
# No clock, thread, file, process, network or operating system in them.
IMPURE = {"asyncio", "io", "os", "pathlib", "queue", "random", "shutil", "socket", "sqlite3", "subprocess", "tempfile"}
IMPURE |= {"threading", "time", "loguru", "yaml", "pydantic"}

ADAPTERS = {
    "paho": ["edge_ad/mqtt.py"],
    "amqtt": ["edge_ad/demo/broker.py"],
    "sqlite3": ["edge_ad/outbox_file.py"],
    "gpiod": ["edge_ad/gpio.py"],
    "onnxruntime": [
        *("edge_ad/backends/onnxruntime.py", "edge_ad/bench/ceiling.py", "edge_ad/engines/onnx_graph.py"),
        *("trainer/export.py", "trainer/quantise.py"),
    ],
    "openvino": ["edge_ad/backends/openvino.py", "edge_ad/bench/ceiling.py"],
    "onnx": [
        *("edge_ad/bench/ceiling.py", "edge_ad/engines/onnx_graph.py", "edge_ad/engines/quantised_program.py"),
        "trainer",
    ],
    "pycuda": ["edge_ad/cuda"],
    "torch": [
        *("edge_ad/backends/torch.py", "edge_ad/bench/ceiling.py"),
        *("edge_ad/engines/torch_tensorrt.py", "edge_ad/engines/quantised_program.py"),
        "trainer",
    ],
    "lightning_fabric": ["trainer/distributed.py", "trainer/train.py"],
    "torch_tensorrt": ["edge_ad/engines/torch_tensorrt.py"],
    "tensorrt": ["edge_ad/engines/tensorrt.py"],
}


def sources(place: str) -> list[Path]:
    path = ROOT / place
    return [path] if path.is_file() else sorted(path.rglob("*.py"))


def imported(source: Path) -> Iterator[str]:
    """Full names of the modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{source}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(name: str, allowed: str) -> bool:
    return name == allowed or name.startswith(f"{allowed}.")


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_only_to_its_left(package: str) -> None:
    to_the_right = PACKAGES[PACKAGES.index(package) + 1 :]
    wrong = [
        f"{source.relative_to(ROOT)} imports {name}"
        for source in sources(package)
        for name in imported(source)
        if name.split(".")[0] in to_the_right
    ]
    assert wrong == []


@pytest.mark.parametrize("place", PURE)
def test_a_pure_part_imports_nothing_of_the_shell_and_nothing_of_the_world(place: str) -> None:
    assert sources(place)
    wrong = [
        f"{source.relative_to(ROOT)} imports {name}"
        for source in sources(place)
        for name in imported(source)
        if name.split(".")[0] in IMPURE
        or (name.split(".")[0] in PACKAGES and not any(within(name, allowed) for allowed in PURE[place]))
    ]
    assert wrong == []


@pytest.mark.parametrize("vendor", ADAPTERS)
def test_a_vendor_library_is_imported_only_in_its_adapters(vendor: str) -> None:
    wrong = [
        f"{source.relative_to(ROOT)} imports {name}"
        for package in PACKAGES
        for source in sources(package)
        for name in imported(source)
        if within(name, vendor) and not any(source.is_relative_to(ROOT / adapter) for adapter in ADAPTERS[vendor])
    ]
    assert wrong == []


def modules_after(program: str, *arguments: str) -> set[str]:
    """Names of the modules that are loaded once a program has run in a fresh interpreter."""
    ended = subprocess.run(
        [sys.executable, "-c", f"{program}\nimport sys\nprint(*sys.modules)", *arguments],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    return set(ended.stdout.split())


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_the_daemon_on_a_cpu_engine_never_loads_torch(tmp_path: Path, engine: str) -> None:
    if importlib.util.find_spec(engine) is None:
        pytest.skip(f"{engine} is not installed")
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "import edge_ad.daemon\n"
        "from edge_ad.backends.base import open_backend\n"
        "from edge_ad.bundle import open_bundle\n"
        "from edge_ad.config import BackendConfig\n"
        "open_backend(open_bundle(Path(sys.argv[1])), BackendConfig(name=sys.argv[2], threads=1))\n"
    )
    loaded = modules_after(program, str(make_bundle(tmp_path / "bundle")), engine)
    assert engine in loaded
    assert not loaded & {"torch", "onnx", "amqtt", "trainer", "calibration"}


def test_the_help_of_edge_ad_loads_nothing_heavy() -> None:
    program = "from edge_ad.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass"
    assert not modules_after(program) & {"cv2", "numpy", "onnxruntime", "pydantic", "paho", "loguru", "torch"}
