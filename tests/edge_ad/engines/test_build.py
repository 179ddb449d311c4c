"""Rules of `edge-ad build`: proved before it serves, the old engine serves until then, and every refusal is one line.

On a pretended GPU (tests/fake_gpu): the driver's and TensorRT's part is played, all of ours is real.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest

from edge_ad import demo
from edge_ad.backends.base import Backend, max_errors, open_backend
from edge_ad.bundle import GOLDEN, MODEL_FILE, Bundle, open_bundle
from edge_ad.cli import main
from edge_ad.config import BackendConfig
from edge_ad.core.layout import Fit, Layout
from edge_ad.cuda.device import device_facts
from edge_ad.cuda.resize import find_nvcc
from edge_ad.engines import build, kernel, store
from edge_ad.engines import torch_tensorrt as torch_builder
from edge_ad.engines.build import choose, current_key
from edge_ad.engines.kernel import read_kernel
from edge_ad.engines.store import EngineRecord
from edge_ad.errors import BackendError, BundleError
from edge_ad.frames import frame_graph
from tests.bundles import make_bundle
from tests.daemons import running_daemon, wait_until
from tests.fake_gpu import FakeGpu
from tests.quantising import with_int8
from tests.station import write_config

Build = Callable[..., list[str]]


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return open_bundle(make_bundle(tmp_path / "bundle"))


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def run(fake_gpu: FakeGpu, bundle: Bundle, state: Path, capsys: pytest.CaptureFixture[str]) -> Build:
    """Runs the command; the lines that it said, the last of them its error if there was one."""

    def command(*arguments: str, code: int = 0) -> list[str]:
        assert main(["build", str(bundle.path), *arguments]) == code
        said = capsys.readouterr()
        assert len(said.err.splitlines()) == (code != 0), said.err
        return [*said.out.splitlines(), *said.err.splitlines()]

    return command


def served(state: Path) -> list[EngineRecord]:
    return store.records(state / "engines")


def rewrite(bundle: Bundle, change: Callable[[onnx.ModelProto], None]) -> None:
    """Change the graph behind the manifest's back."""
    path = bundle.path / MODEL_FILE["fp32"]
    model = onnx.load(path)
    change(model)
    onnx.save(model, str(path))


# --- which builder ------------------------------------------------------------------------------------------------


def test_left_open_the_builder_is_torch_tensorrt_where_it_can(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "refuse_unfit", lambda bundle, precision: None)
    monkeypatch.setattr(build, "load_vendor", lambda: None)
    assert choose(bundle, "fp16", "auto") == ("torch_tensorrt", "")


@pytest.mark.parametrize("cause", ["no GPU", "compiler", "torch"])
def test_left_open_a_torch_tensorrt_that_is_installed_and_does_not_work_is_not_taken(
    run: Build, state: Path, monkeypatch: pytest.MonkeyPatch, cause: str
) -> None:
    """Only loading it shows that."""
    monkeypatch.setattr(build, "refuse_unfit", lambda bundle, precision: None)
    cuda = SimpleNamespace(is_available=lambda: cause != "no GPU")
    torch = None if cause == "torch" else SimpleNamespace(__version__="2.13.0", cuda=cuda)
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch_tensorrt", None)
    said = run("--precision", "fp32")
    why = {
        "no GPU": "torch 2.13.0 sees no CUDA device",
        "compiler": "torch_tensorrt does not load (",
        "torch": "torch does not load (",
    }
    assert said[0].startswith(f"TensorRT's own builder, from ONNX; not Torch-TensorRT: {why[cause]}")
    assert said[-1].startswith("in service: backend: {name: tensorrt, precision: fp32}")


def test_else_it_is_tensorrts_own_and_the_reason_is_said(bundle: Bundle) -> None:
    builder, why = choose(bundle, "fp16", "auto")
    assert builder == "tensorrt"
    assert why.startswith("TensorRT's own builder, from ONNX; not Torch-TensorRT: ")
    assert "edge-ad-train export RUN --out NEW_BUNDLE --program" in why


def test_asked_for_by_name_torch_tensorrt_is_not_replaced(bundle: Bundle) -> None:
    with pytest.raises(BundleError, match=r"holds no model\.pt2"):
        choose(bundle, "fp16", "torch_tensorrt")


def test_the_versions_of_torch_count_only_for_the_builder_that_uses_them(
    fake_gpu: FakeGpu, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = {"torch": "2.8.0", "torch-tensorrt": "2.8.1"}
    for module in (build, torch_builder):
        monkeypatch.setattr(module, "installed_version", versions.get)
    facts = device_facts()
    own = current_key(bundle, "tensorrt", "fp16", facts)
    assert (own.torch, own.torch_tensorrt) == (None, None)
    other = current_key(bundle, "torch_tensorrt", "fp16", facts)
    assert (other.torch, other.torch_tensorrt) == ("2.8.0", "2.8.1")
    versions["torch-tensorrt-rtx"] = versions.pop("torch-tensorrt")
    assert current_key(bundle, "torch_tensorrt", "fp16", facts).torch_tensorrt == "rtx 2.8.1"
    assert (own.shape, own.sm, own.tensorrt, own.cuda) == ((1, 32, 32, 3), "sm_87", "10.3.0", "13.0")


# --- without what it needs ------------------------------------------------------------------------------------------


def test_without_tensorrt_one_line_says_where_it_comes_from(
    bundle: Bundle, state: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert main(["build", str(bundle.path), "--backend", "tensorrt"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: tensorrt does not load (")
    assert "JetPack" in said
    assert len(said.splitlines()) == 1


def test_a_bundle_that_states_no_tolerance_is_refused_before_minutes_of_building(
    bundle: Bundle, state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = bundle.path / "manifest.json"
    fields = json.loads(path.read_text())
    del fields["tolerances"]["tensorrt/fp16"]
    from edge_ad.bundle import manifest_digest

    path.write_text(json.dumps(fields | {"digest": manifest_digest(fields)}))
    assert main(["build", str(bundle.path), "--backend", "tensorrt"]) == 2
    assert "states no tolerance for tensorrt/fp16: export it with a newer edge-ad" in capsys.readouterr().err


def test_int8_of_a_bundle_without_it_is_refused(run: Build) -> None:
    said = run("--precision", "int8", "--backend", "tensorrt", code=2)
    assert "holds no int8 model" in said[-1]


# --- building -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_new_engine_is_proved_recorded_and_in_service(
    run: Build, state: Path, bundle: Bundle, precision: str
) -> None:
    said = run("--precision", precision, "--backend", "tensorrt", "--json", str(state.parent / "engine.json"))
    assert any(line.startswith("golden images: anomaly_map off by ") for line in said)
    assert said[-1].startswith(f"in service: backend: {{name: tensorrt, precision: {precision}}}")
    (record,) = served(state)
    assert record.key.bundle == bundle.digest
    assert record.golden_errors.keys() == {"anomaly_map", "reconstruction", "score_relative"}
    assert json.loads((state.parent / "engine.json").read_text()) == record.model_dump(by_alias=True, mode="json")
    timings = f"timing-sm_87x{record.key.multiprocessors}-{record.key.memory_gib}gib-10.3.0.bin"
    assert (state / "engines" / timings).read_bytes() == b"timings"


def test_an_int8_engine_is_proved_on_golden_outputs_of_its_own(
    fake_gpu: FakeGpu, state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = open_bundle(with_int8(Path(demo.__file__).parent / "bundle", tmp_path / "int8"))
    assert main(["build", str(bundle.path), "--precision", "int8", "--backend", "tensorrt"]) == 0
    assert "in service: backend: {name: tensorrt, precision: int8}" in capsys.readouterr().out
    (record,) = served(state)
    assert 0 < record.golden_errors["anomaly_map"] <= bundle.manifest.tolerances["tensorrt/int8"].anomaly_map


def assert_same_as_on_the_cpu(bundle: Bundle, backend: Backend, size: tuple[int, int]) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    on_gpu, on_cpu = (
        frame_graph(engine, bundle.manifest).run(frame, None).joined()
        for engine in (backend, open_backend(bundle, BackendConfig()))
    )
    assert max(max_errors(on_gpu, on_cpu).values()) <= 1e-6


@pytest.mark.parametrize(("fit", "who"), [("stretch", "frames are prepared on the GPU"), ("letterbox", "on the CPU")])
def test_an_engine_takes_the_tiles_of_a_frame_at_a_time(
    fake_gpu: FakeGpu, state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], fit: Fit, who: str
) -> None:
    bundle = open_bundle(make_bundle(tmp_path / "tiled", layout=Layout(32, 32, fit, 2, 3, 8)))
    if fit == "stretch" and find_nvcc() is None:
        who = "frames are prepared on the CPU: there is no nvcc"
    assert main(["build", str(bundle.path), "--precision", "fp32", "--backend", "tensorrt"]) == 0
    assert who in capsys.readouterr().out
    (record,) = served(state)
    assert record.key.shape == (6, 32, 32, 3)
    backend = open_backend(bundle, BackendConfig(name="tensorrt"))
    assert_same_as_on_the_cpu(bundle, backend, (90, 200))
    backend.close()


def test_all_that_root_builds_is_for_the_owner_of_the_state_directory(
    run: Build, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    monkeypatch.setattr(kernel, "compile_kernel", lambda sm: b"\x7fELF")
    state.mkdir()
    os.chown(state, 65534, 65533)
    run("--backend", "tensorrt")
    made = [state / "engines", *(state / "engines").rglob("*")]
    assert {".lock", ".bin", ".json", ".plan", ".cubin"} <= {path.suffix or path.name for path in made}
    assert {(path.stat().st_uid, path.stat().st_gid) for path in made} == {(65534, 65533)}


def test_an_engine_that_fits_is_not_built_again_unless_asked(run: Build, state: Path) -> None:
    run("--backend", "tensorrt")
    before = served(state)
    assert run("--backend", "tensorrt")[-1].startswith("nothing to do: built at ")
    assert run("--backend", "tensorrt", "--again")[-1].startswith("in service: ")
    assert len(served(state)) == len(before) == 1


def test_again_means_kernels_are_measured_again(run: Build, state: Path) -> None:
    run("--backend", "tensorrt")
    (timings,) = (state / "engines").glob("timing-*.bin")
    timings.write_bytes(b"of another board")  # the pretended TensorRT fails if it is handed these
    run("--backend", "tensorrt", "--again")
    assert timings.read_bytes() == b"timings"


def test_where_the_record_goes_is_made_before_the_build(run: Build, state: Path, tmp_path: Path) -> None:
    assert run("--backend", "tensorrt", "--json", str(tmp_path), code=2) == [
        f"error: --json {tmp_path} is a folder: name a file"
    ]
    assert served(state) == []
    run("--backend", "tensorrt", "--json", str(tmp_path / "new" / "engine.json"))
    assert json.loads((tmp_path / "new" / "engine.json").read_text())["schema"] == "edge-ad/engine/1"


def test_another_tensorrt_means_a_new_engine_and_one_line_says_so(
    run: Build, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("--backend", "tensorrt")
    import tensorrt

    monkeypatch.setattr(tensorrt, "__version__", "10.7.0")
    said = run("--backend", "tensorrt")
    assert [line for line in said if "TensorRT 10.3.0 -> 10.7.0" in line] == [
        line for line in said if line.startswith("building: ")
    ]
    assert served(state)[0].key.tensorrt == "10.7.0"


def test_an_engine_that_misses_the_golden_outputs_is_not_served_and_the_old_one_stays(
    run: Build, state: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("--backend", "tensorrt")
    before = served(state)

    def darker(bundle: Bundle, precision: str) -> bytes:
        model = onnx.load(bundle.path / MODEL_FILE["fp32"])
        (full,) = (tensor for tensor in model.graph.initializer if tensor.name == "full")
        full.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(full) * 0 + 300, "full"))
        return bytes(model.SerializeToString())

    monkeypatch.setattr(build, "typed_graph", darker)
    said = run("--backend", "tensorrt", "--again", code=2)
    assert "misses the golden outputs" in said[-1]
    assert served(state) == before
    assert [path.name for path in (state / "engines" / before[0].key.slot).glob("*.plan")] == [before[0].plan]


def test_what_the_parser_and_the_builder_refuse_is_one_line_of_theirs(
    run: Build, state: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "typed_graph", lambda bundle, precision: b"not a graph")
    assert run("--backend", "tensorrt", code=1)[-1].endswith("cannot parse the graph: not a graph")
    broken = onnx.load(bundle.path / MODEL_FILE["fp32"])
    broken.producer_name = "broken"
    monkeypatch.setattr(build, "typed_graph", lambda bundle, precision: broken.SerializeToString())
    assert run("--backend", "tensorrt", code=1)[-1].endswith("cannot build the graph: no kernel for this layer")
    assert served(state) == []


def test_a_build_leaves_no_memory_of_the_gpu_behind(run: Build, fake_gpu: FakeGpu) -> None:
    run("--backend", "tensorrt")
    before = fake_gpu.live()
    run("--backend", "tensorrt", "--again")
    assert fake_gpu.live() == before


# --- the kernel for frames ------------------------------------------------------------------------------------------


def test_the_kernel_is_compiled_proved_and_kept(run: Build, state: Path) -> None:
    if find_nvcc() is None:
        pytest.skip("no nvcc here")
    (line,) = (line for line in run("--backend", "tensorrt") if line.startswith("frames are prepared"))
    assert line.startswith("frames are prepared on the GPU: ")
    assert Path(line.split(": ")[1]).parent == state / "engines"


def test_without_nvcc_frames_are_prepared_on_the_cpu_and_the_engine_is_built(
    run: Build, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_ad.cuda.resize.find_nvcc", lambda: None)
    said = run("--backend", "tensorrt")
    assert any(line.startswith("frames are prepared on the CPU: there is no nvcc") for line in said)
    assert len(served(state)) == 1


def test_a_kernel_that_differs_from_this_opencv_is_not_kept(
    run: Build, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if find_nvcc() is None:
        pytest.skip("no nvcc here")
    original = kernel.preprocess  # what the proof compares with
    monkeypatch.setattr(kernel, "preprocess", lambda *arguments: original(*arguments) ^ 1)
    said = run("--backend", "tensorrt")
    assert any("CPU: the kernel differs from this OpenCV in" in line for line in said)
    assert list((state / "engines").glob("*.cubin")) == []


def test_again_makes_the_kernel_anew_too(run: Build, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "compile_kernel", lambda sm: b"\x7fELF old")
    run("--backend", "tensorrt")
    (path,) = (state / "engines").glob("*.cubin")
    monkeypatch.setattr(kernel, "compile_kernel", lambda sm: b"\x7fELF new")
    run("--backend", "tensorrt")
    assert read_kernel(path) == b"\x7fELF old"
    run("--backend", "tensorrt", "--again")
    assert read_kernel(path) == b"\x7fELF new"


# --- opening --------------------------------------------------------------------------------------------------------


def test_a_station_finds_the_engine_and_builds_it_in_a_process_of_its_own_where_there_is_none(
    fake_gpu: FakeGpu, bundle: Bundle, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in fake_gpu.environment().items():
        monkeypatch.setenv(name, value)
    config = BackendConfig(name="tensorrt", precision="fp16")
    open_backend(bundle, config).close()
    (record,) = served(state)
    open_backend(bundle, config).close()
    assert served(state) == [record]


@pytest.mark.parametrize("whom", [os.kill, os.killpg])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_daemon_that_is_told_to_stop_while_it_builds_ends_at_once_with_0(
    fake_gpu: FakeGpu, bundle: Bundle, state: Path, tmp_path: Path, whom: Callable[[int, int], None], number: int
) -> None:
    """Alone, or with its build as systemd and a terminal do; the build waits here for another one."""
    camera = {"kind": "folder", "path": str(tmp_path)}
    config = write_config(tmp_path / "station.yaml", bundle.path, camera, {"backend": {"name": "tensorrt"}})
    environment = {**fake_gpu.environment(), "STATE_DIRECTORY": str(state)}
    folder, key = store.engines_dir(), current_key(bundle, "tensorrt", "fp32", device_facts())
    with store.building(folder, key), running_daemon(config, environment, ["setsid"]) as daemon:
        children = Path(f"/proc/{daemon.process.pid}/task/{daemon.process.pid}/children")
        wait_until(lambda: children.read_text().strip() != "")
        build = Path("/proc") / children.read_text().split()[0]
        wait_until(lambda: b"build" in (build / "cmdline").read_bytes())
        whom(daemon.process.pid, number)
        assert daemon.wait() == 0
        assert daemon.logged().splitlines()[-1].endswith("stopped while an engine was being built")
        assert not build.exists()


def test_a_build_that_fails_in_its_own_process_is_one_line_here(
    fake_gpu: FakeGpu, bundle: Bundle, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in fake_gpu.environment().items():
        monkeypatch.setenv(name, value)
    rewrite(bundle, lambda model: setattr(model, "producer_name", "broken"))
    with pytest.raises(BundleError, match=r"was altered|the manifest says") as refused:
        open_backend(bundle, BackendConfig(name="tensorrt"))
    assert "\n" not in str(refused.value)


def test_golden_outputs_are_proved_at_each_start_too(
    fake_gpu: FakeGpu, run: Build, bundle: Bundle, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine that was right when it was built may meet another driver's bugs today."""
    import numpy as np

    run("--backend", "tensorrt", "--precision", "fp32")
    golden = bundle.golden()
    expected = replace(golden.expected, score=golden.expected.score + 1)
    np.savez(
        bundle.path / GOLDEN,
        image=golden.image,
        anomaly_map=expected.anomaly_map,
        score=expected.score,
        reconstruction=expected.reconstruction,
    )
    with pytest.raises(BundleError, match="misses the golden outputs"):
        open_backend(bundle, BackendConfig(name="tensorrt"))


@pytest.mark.parametrize("left", [b"", b"\x7fELF of which the end is missing"])
def test_a_station_whose_kernel_was_damaged_makes_it_anew_and_takes_frames(
    fake_gpu: FakeGpu, run: Build, bundle: Bundle, state: Path, monkeypatch: pytest.MonkeyPatch, left: bytes
) -> None:
    """As a power cut may leave it."""
    monkeypatch.setattr(kernel, "compile_kernel", lambda sm: b"\x7fELF")
    run("--backend", "tensorrt", "--precision", "fp32")
    (path,) = (state / "engines").glob("*.cubin")
    path.write_bytes(left)
    backend = open_backend(bundle, BackendConfig(name="tensorrt"))
    assert_same_as_on_the_cpu(bundle, backend, (64, 80))
    backend.close()
    assert read_kernel(path) == b"\x7fELF"


def test_without_cuda_opening_is_one_line(bundle: Bundle, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycuda", None)
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    with pytest.raises(BackendError, match=r"^no CUDA: ") as refused:
        open_backend(bundle, BackendConfig(name="tensorrt"))
    assert "\n" not in str(refused.value)


def test_the_module_of_the_torch_builder_is_not_needed_by_the_other(bundle: Bundle) -> None:
    assert torch_builder.installed_version("no-such-distribution") is None
