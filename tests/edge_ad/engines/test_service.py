"""Rules of opening an engine that need no GPU: what a build in its own process said, and who prepares frames."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread

import pytest

from edge_ad import demo
from edge_ad.bundle import open_bundle
from edge_ad.core.layout import Layout
from edge_ad.cuda.resize import cubin_path
from edge_ad.engines import kernel, service, store
from edge_ad.engines.kernel import write_kernel
from edge_ad.errors import BackendError, BundleError, StoppedError
from tests.daemons import wait_until
from tests.edge_ad.cuda.test_device import ORIN
from tests.edge_ad.engines.test_key import KEY
from tests.edge_ad.engines.test_store import put

DEMO = Path(demo.__file__).parent / "bundle"
Build = Callable[..., None]
NEVER = Event()


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Build:
    """Builds apart, where a shell script does what the build would."""

    def run(script: str, stop: Event = NEVER) -> None:
        python = tmp_path / "python"
        python.write_text(f"#!/bin/sh\n{script}\n")
        python.chmod(0o755)
        monkeypatch.setattr(service.sys, "executable", str(python))
        service.build_apart(open_bundle(DEMO), KEY, stop)

    return run


def test_a_build_that_was_killed_for_its_memory_says_so_and_not_its_last_warning(build: Build) -> None:
    with pytest.raises(BackendError, match=r": killed by signal 9 \(out of memory\? docs/jetson\.md, 8 GB boards\)$"):
        build("echo 'foo.py:12: UserWarning: something harmless' >&2; kill -9 $$")


def test_any_other_signal_is_named(build: Build) -> None:
    with pytest.raises(BackendError, match=r": killed by signal 11 \(Segmentation fault\)$"):
        build("kill -11 $$")


def test_a_build_that_failed_is_its_last_line_in_its_own_class(build: Build) -> None:
    build("exit 0")
    with pytest.raises(BackendError, match=r": the GPU failed$"):
        build("echo warning >&2; echo 'error: the GPU failed' >&2; exit 1")
    with pytest.raises(BundleError, match=r": misses the golden outputs$"):
        build("echo '<3>error: misses the golden outputs' >&2; exit 2")
    with pytest.raises(BackendError, match="it ended with 3 and said nothing"):
        build("exit 3")


@pytest.mark.parametrize("end", ["exec sleep 600", "kill -TERM $$", "exit 130"])
def test_told_to_stop_it_ends_the_build_which_has_not_failed_then(build: Build, tmp_path: Path, end: str) -> None:
    """Nor where the build was told too: systemd tells all processes of a unit, Ctrl-C all of a terminal."""
    stop, new, number, told = Event(), *(tmp_path / name for name in ("new", "number", "told"))

    def stop_once_it_runs() -> None:
        wait_until(number.exists)
        stop.set()
        told.touch()

    stopping = Thread(target=stop_once_it_runs)
    stopping.start()
    with pytest.raises(StoppedError, match="stopped while an engine was being built"):
        build(f"echo $$ >{new}; mv {new} {number}; until [ -e {told} ]; do sleep 0.01; done; {end}", stop)
    stopping.join()
    with pytest.raises(ProcessLookupError):
        os.kill(int(number.read_text()), 0)


def test_an_engine_that_torch_built_runs_where_torch_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    monkeypatch.delattr(service, "build_apart")
    put(store.engines_dir(), b"engine", KEY)
    assert service.plan_for(open_bundle(DEMO), replace(KEY, torch=None, torch_tensorrt=None), NEVER) == b"engine"


def test_a_station_takes_the_kernel_that_is_there_and_compiles_none_where_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(kernel, "compile_kernel")
    assert service.kernel_for(tmp_path, ORIN, Layout(64, 64)) is None
    write_kernel(cubin_path(tmp_path, ORIN.sm), b"\x7fELF")
    assert service.kernel_for(tmp_path, ORIN, Layout(64, 64)) == b"\x7fELF"
    assert service.kernel_for(tmp_path, ORIN, Layout(64, 64, "letterbox")) is None
