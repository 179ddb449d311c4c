"""The engine that a station runs: the one in service, or, where none fits, one built now in a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from threading import Event

from loguru import logger

from edge_ad.backends.base import tolerance
from edge_ad.backends.tensorrt import TensorRTBackend
from edge_ad.bundle import Bundle
from edge_ad.config import BackendConfig
from edge_ad.core.layout import Layout
from edge_ad.cuda.device import DeviceFacts, device_facts
from edge_ad.cuda.resize import cubin_path
from edge_ad.engines import store
from edge_ad.engines.build import current_key
from edge_ad.engines.kernel import provide_kernel
from edge_ad.engines.key import Builder, EngineKey
from edge_ad.engines.store import NoEngineError
from edge_ad.errors import BackendError, BundleError, StoppedError, UsageError

LISTEN_S = 0.2  # between two looks at whether to stop


def open_engine(bundle: Bundle, config: BackendConfig, stop: Event) -> TensorRTBackend:
    """Open the engine for a bundle on this device, built first where there is none that fits.

    Raises:
        StoppedError: it was told to stop while it built.
        BundleError: the bundle cannot be built in this precision, or the engine misses its golden outputs.
        BackendError: TensorRT, pycuda or CUDA is missing, or the build failed.
    """
    builder: Builder = "torch_tensorrt" if config.name == "torch_tensorrt" else "tensorrt"
    tolerance(bundle, f"{builder}/{config.precision}")  # before minutes of building
    facts = device_facts()
    folder = store.engines_dir()
    plan = plan_for(bundle, current_key(bundle, builder, config.precision, facts), stop)
    cubin = kernel_for(folder, facts, bundle.manifest.input.frame_layout())
    return TensorRTBackend(bundle, builder, config.precision, plan, cubin)


def kernel_for(folder: Path, facts: DeviceFacts, layout: Layout) -> bytes | None:
    """The kernel that prepares frames, compiled anew where its file was damaged; None where the CPU prepares them.

    Where there is no file none is compiled: that is also how `edge-ad build` left it if this OpenCV rounds otherwise,
    and a compiler at every start would find no more than that.
    """
    path = cubin_path(folder, facts.sm)
    if layout.fit == "stretch" and not path.exists():
        logger.info("frames are prepared on the CPU: {} is not there (edge-ad build makes it, with nvcc)", path)
        return None
    return provide_kernel(folder, facts, layout, logger.info)


def plan_for(bundle: Bundle, key: EngineKey, stop: Event) -> bytes:
    """The bytes of the engine for a key, built first where there is none.

    Raises:
        StoppedError: it was told to stop while it built.
        BundleError, BackendError: the build failed; what it said.
    """
    folder = store.engines_dir()
    try:
        return store.read_plan(folder, store.in_service(folder, key, to_run=True))
    except NoEngineError as error:
        logger.warning("{}: building it now, which can take minutes", error)
    build_apart(bundle, key, stop)
    return store.read_plan(folder, store.in_service(folder, key, to_run=True))


def build_apart(bundle: Bundle, key: EngineKey, stop: Event) -> None:
    """Build in a process of its own: the memory that a builder takes, torch's most of all, must not stay with us.

    Raises:
        StoppedError: it was told to stop; so was the build, perhaps by the same who told us.
        BundleError, BackendError: the build failed; what it said, on one line.
    """
    command = [sys.executable, "-m", "edge_ad.cli", "build", str(bundle.path)]
    command += ["--precision", key.precision, "--backend", key.builder]
    code, complaints = _ended(command, stop)
    if code == 0:
        return
    if stop.is_set():
        raise StoppedError("stopped while an engine was being built")
    if code < 0:
        raise BackendError(f"edge-ad build {bundle.path}: {_killed_by(-code)}")
    said = (complaints.strip().splitlines() or [f"it ended with {code} and said nothing"])[-1]
    kind = BundleError if code == UsageError.exit_code else BackendError
    raise kind(f"edge-ad build {bundle.path}: {said.removeprefix('<3>').removeprefix('error: ')}")


def _ended(command: Sequence[str], stop: Event) -> tuple[int, str]:
    """Run a command to its end, or until it is told to stop: its exit code and what it wrote to standard error."""
    with subprocess.Popen(  # noqa: S603 - our own arguments
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as child:
        try:
            while not stop.is_set():
                with suppress(subprocess.TimeoutExpired):
                    _, complaints = child.communicate(timeout=LISTEN_S)
                    return child.returncode, complaints
        finally:
            child.terminate()  # it has ended, but for a stop or Ctrl-C
    return child.returncode, ""


def _killed_by(number: int) -> str:
    """What to say of a child that a signal ended: its last line on stderr would be some warning from before."""
    if number == signal.SIGKILL:  # the system's way with who takes most when memory runs out
        return f"killed by signal {number} (out of memory? docs/jetson.md, 8 GB boards)"
    return f"killed by signal {number} ({signal.strsignal(number) or 'unknown'})"
