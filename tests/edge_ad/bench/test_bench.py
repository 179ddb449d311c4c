"""Rules of `edge-ad bench`, with the real engines in real processes; no time is asserted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_ad import doctor
from edge_ad.bench import rounds, worker
from edge_ad.bench.ceiling import LIBRARIES
from edge_ad.bench.figures import STAGES, Ceiling, Sample, Workload
from edge_ad.bench.report import COLOURS, as_json, as_lines, bars, report
from edge_ad.bench.rounds import Measured, ceiling_turns, choose, label, run_rounds, run_worker
from edge_ad.bench.worker import always_a_defect, full_frame
from edge_ad.bundle import Bundle, FileEntry, open_bundle
from edge_ad.cli import main
from edge_ad.config import BackendConfig
from edge_ad.core.decision import decide
from edge_ad.errors import BackendError
from edge_ad.images import read_image, write_png
from edge_ad.pipeline import Pipeline
from edge_ad.records import Frame, Roi
from tests.bundles import make_bundle

ONE = Workload(1, 160, 120)
ORT = BackendConfig(name="onnxruntime")
OPENVINO = BackendConfig(name="openvino")
TORCH = BackendConfig(name="torch")


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return open_bundle(make_bundle(tmp_path / "bundle"))


def sample(engine_ms: float) -> Sample:
    times = {"pre": [1.0], "engine": [engine_ms], "post": [0.5], "step": [engine_ms + 1.5]}
    return Sample(0.7, times, 80_000_000, 90_000_000)


def folder_of(folder: Path, sizes: list[tuple[int, int]]) -> Path:
    """Images of noise of these (height, width)."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for number, size in enumerate(sizes):
        write_png(folder / f"{number}.png", rng.integers(0, 256, (*size, 3), np.uint8))
    return folder


@pytest.fixture
def body(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The JSON of a real bench of onnxruntime, the picture beside it."""
    monkeypatch.setattr(rounds, "CEILING_S", 0.0)
    monkeypatch.setattr(rounds, "LIBRARIES", {"onnxruntime": LIBRARIES["onnxruntime"]})
    out = tmp_path / "new" / "folder"
    which = ["--backend", "onnxruntime", "--repeats", "2", "--frame", "160x120"]
    where = ["--json", str(out / "bench.json"), "--out", str(out)]
    assert main(["bench", str(bundle.path), *which, *where]) == 0
    found: dict[str, Any] = json.loads((out / "bench.json").read_text())
    return found


# --- the command ------------------------------------------------------------------------------------------------


def test_the_json_tells_figures_bundle_and_machine(body: dict[str, Any], bundle: Bundle) -> None:
    assert body["schema"] == "edge-ad/bench/1"
    assert body["bundle"]["digest"] == bundle.digest
    assert body["bundle"]["bytes"] == {"model.onnx": bundle.model_path("fp32").stat().st_size}
    assert (body["rounds"], body["frames_per_round"], body["frame"]) == (2, 50, [120, 160])
    assert {"CPU", "CPU clock", "memory"} <= body["machine"]["system"].keys()
    assert "load average, 1 min" in body["machine"]["at the start"]
    engine = body["engines"][0]
    assert (engine["backend"], engine["device"], engine["precision"]) == ("onnxruntime", "cpu", "fp32")
    assert body["reference"] == "onnxruntime cpu fp32"
    assert engine["ms"].keys() == set(STAGES)
    assert all(0 < q["p50"] <= q["p95"] <= q["p99"] for q in engine["ms"].values())
    assert len(engine["cold_start_s"]) == 2
    assert 0 < engine["resident_mb"] <= engine["peak_mb"]
    assert body["ceilings"].keys() == {"fp32"}
    assert engine["ceiling_share"] == engine["gmacs_per_s"] / body["ceilings"]["fp32"]["gmacs_per_s"]
    assert engine["speed"] == {"median": 1.0, "lowest": 1.0, "highest": 1.0}
    assert all(engine[rate] > 0 for rate in ("frames_per_s", "gmacs_per_s"))


def test_the_plot_lies_in_the_folder(body: dict[str, Any], tmp_path: Path) -> None:
    assert body
    assert read_image(tmp_path / "new" / "folder" / "bench.png").ndim == 3


def test_own_images_are_measured_at_their_own_size(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rounds, "LIBRARIES", {})
    folder = folder_of(tmp_path / "images", [(90, 160), (120, 100), (33, 47)])
    which = ["--backend", "onnxruntime", "--repeats", "1", "--images", str(folder)]
    assert main(["bench", str(bundle.path), *which, "--json", str(tmp_path / "bench.json")]) == 0
    found = json.loads((tmp_path / "bench.json").read_text())
    assert (found["frame"], found["images"], found["frames_per_round"]) == ([90, 160], str(folder), 50)
    assert f"50 frames, 160x90 (the first), images of {folder}" in capsys.readouterr().out


def test_each_of_so_many_images_is_read_once_and_is_a_defect_by_its_own_map(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_of(tmp_path / "images", [(64, 64 + number) for number in range(6)])
    seen: list[tuple[int, float, float]] = []

    def step(pipeline: Pipeline, image: NDArray[np.uint8], number: int) -> dict[str, float]:
        pipeline.step(Frame("test", number, image, 0, 0))
        assert pipeline.thresholds is not None and pipeline.anomaly_map is not None
        share = float((pipeline.anomaly_map > pipeline.thresholds.pixel).mean())
        seen.append((image.shape[1], share, pipeline.thresholds.image))
        return dict.fromkeys(STAGES, 1.0)

    monkeypatch.setattr(worker, "timed_step", step)
    worker.measure(bundle, ORT, Workload(3, 64, 64, str(folder)))
    assert [width for width, _, _ in seen] == [64, 66, 68]
    assert all(0 < share <= 0.011 and image < 0 for _, share, image in seen)


def test_images_that_cannot_be_read_are_refused_before_the_minutes(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of(tmp_path / "images", [(64, 64)])
    (folder / "z.png").write_bytes(b"no picture")
    assert main(["bench", str(bundle.path), "--images", str(folder)]) == 2
    assert f"cannot decode {folder / 'z.png'}" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main(["bench", str(bundle.path), "--images", str(folder), "--frame", "64x64"])
    assert ended.value.code == 2
    assert "not allowed with" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wrong", "said", "code"),
    [
        (["--backend", "abacus"], "--backend abacus: choose all or one of onnxruntime, openvino", 2),
        (["--json", "/dev/null/bench.json"], "/dev/null: ", 2),
        (["--json", "/dev"], "--json /dev is a folder: name a file", 2),
        (["--out", "/dev/null/bench"], "/dev/null/bench: ", 2),
        (["--backend", "torch", "--repeats", "1"], "torch cpu fp32: ", 1),
    ],
)
def test_what_cannot_be_measured_is_one_line(
    bundle: Bundle, capsys: pytest.CaptureFixture[str], wrong: list[str], said: str, code: int
) -> None:
    assert main(["bench", str(bundle.path), *wrong]) == code
    said_ = capsys.readouterr().err
    assert ("measuring" in said_) == (code == 1)
    error = [line for line in said_.splitlines() if not line.startswith("measuring")]
    assert len(error) == 1
    assert said in error[0]


@pytest.mark.parametrize("size", ["1920", "0x1080", "1920x", "1920X1080", "-1x5", "1e3x5"])
def test_a_frame_without_a_width_and_a_height_is_refused(size: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["bench", "bundle", f"--frame={size}"])
    assert ended.value.code == 2
    assert f"WIDTHxHEIGHT in pixels, as 1920x1080, got {size}" in capsys.readouterr().err


# --- the rounds -------------------------------------------------------------------------------------------------


def test_every_precision_of_the_bundle_is_tried_on_every_engine_that_has_it(bundle: Bundle) -> None:
    assert {label(engine) for engine in choose(bundle, "onnxruntime")} == {
        "onnxruntime cpu fp32",
        "onnxruntime cuda fp32",
        "onnxruntime tensorrt fp32",
    }
    files = bundle.manifest.files | {"model.int8.onnx": FileEntry(sha256="0" * 64, bytes=1)}
    both = Bundle(bundle.path, bundle.manifest.model_copy(update={"files": files}))
    assert [label(engine) for engine in choose(both, "openvino")] == [
        *("openvino cpu fp32", "openvino cpu bf16", "openvino cpu int8")
    ]
    assert [label(engine) for engine in choose(both, "torch")] == ["torch cpu fp32", "torch cuda fp32"]
    for built in ("tensorrt", "torch_tensorrt"):
        assert [engine.precision for engine in choose(both, built)] == ["fp32", "fp16", "int8"]


def test_engines_take_turns_in_alternating_order(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[BackendConfig | str] = []

    def measure(path: Path, engine: BackendConfig, workload: Workload) -> Sample:
        seen.append(engine)
        return sample(1.0)

    def convolve(arguments: list[str]) -> dict[str, Any]:
        seen.append(" ".join(arguments[1:3]))
        return {"rates": {"a": 100.0 * len(seen), "b": 1.0}}

    monkeypatch.setattr(rounds, "run_worker", measure)
    monkeypatch.setattr(rounds, "run_process", convolve)
    found = run_rounds(bundle, [ORT, OPENVINO], 2, ONE)
    bare = ["onnxruntime fp32", "openvino fp32", "torch fp32"]
    assert seen == [ORT, OPENVINO, *bare, *bare[::-1], OPENVINO, ORT]
    assert {len(samples) for samples in found.samples.values()} == {2}
    assert found.rates["fp32"]["onnxruntime, a"] == [300.0, 800.0]


def test_a_library_without_convolutions_is_named_and_not_tried_again(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {"onnxruntime": "onnx is not installed", "openvino": {"rates": {"a": 5.0}}, "torch": {"rates": {"a": 4.0}}}
    asked: list[str] = []

    def convolve(arguments: list[str]) -> object:
        asked.append(arguments[1])
        return said[arguments[1]]

    monkeypatch.setattr(rounds, "run_worker", lambda path, engine, workload: sample(1.0))
    monkeypatch.setattr(rounds, "run_process", convolve)
    found = run_rounds(bundle, [ORT], 2, ONE)
    assert asked.count("onnxruntime") == 1
    assert found.no_rates == {"onnxruntime fp32": "onnx is not installed"}
    told = report(bundle, found, 2, ONE, {})
    assert told.ceilings == {"fp32": Ceiling("openvino, a", 5.0)}
    assert "no ceiling by onnxruntime fp32: onnx is not installed" in list(as_lines(told))


def test_only_precisions_that_are_measured_on_the_cpu_have_a_ceiling() -> None:
    cuda = BackendConfig(name="onnxruntime", device="cuda", precision="int8")
    assert {turn.precision for turn in ceiling_turns([ORT, cuda])} == {"fp32"}


def test_an_engine_that_fails_once_has_no_figures_and_is_not_tried_again(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "LIBRARIES", {})
    outcomes: dict[BackendConfig, list[Sample | str]] = {ORT: [sample(1.0)] * 3, TORCH: [sample(2.0), "out of memory"]}
    monkeypatch.setattr(rounds, "run_worker", lambda path, engine, workload: outcomes[engine].pop(0))
    found = run_rounds(bundle, [TORCH, ORT], 3, ONE)
    assert found.samples.keys() == {ORT}
    assert found.refused == {TORCH: "out of memory"}


def test_where_no_engine_runs_each_ones_reason_is_said(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "run_worker", lambda path, engine, workload: f"{engine.name} is not installed")
    with pytest.raises(
        BackendError, match=r"onnxruntime cpu fp32: onnxruntime is not .*; torch cpu fp32: torch is not"
    ):
        run_rounds(bundle, [ORT, TORCH], 2, ONE)


# --- one process ------------------------------------------------------------------------------------------------


def test_a_process_that_dies_is_a_reason_and_not_the_end(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "WORKER", "edge_ad.bench.nowhere")
    reason = run_worker(bundle.path, ORT, ONE)
    assert isinstance(reason, str)
    assert reason.startswith("its process ended with 1: ")
    assert "nowhere" in reason


def test_a_process_that_hangs_is_a_reason_and_not_the_end(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "LIMIT_S", 0.01)
    assert run_worker(bundle.path, ORT, ONE) == "it did not end within 0.01 s"


def test_an_engine_that_refuses_the_bundle_says_why(bundle: Bundle) -> None:
    reason = run_worker(bundle.path, TORCH, ONE)
    assert isinstance(reason, str)
    assert "holds no model.pt2" in reason


def test_the_measured_path_ends_in_a_defect_with_regions(bundle: Bundle) -> None:
    frame = full_frame(bundle.golden().image[-1], 160, 120)
    assert (frame.shape, frame.dtype) == ((120, 160, 3), np.uint8)
    anomaly_map = bundle.golden().expected.anomaly_map[0]
    decision = decide(0.0, anomaly_map, always_a_defect(anomaly_map), Roi(0, 0, 1920, 1080), 16, 1)
    assert decision.verdict == "defect"
    assert len(decision.regions) > 1


# --- the report -------------------------------------------------------------------------------------------------


@pytest.fixture
def measured() -> Measured:
    return Measured({ORT: [sample(20.0)] * 2, OPENVINO: [sample(10.0)] * 2}, {TORCH: "torch does not load"})


def test_the_table_names_every_engine_measured_or_not(bundle: Bundle, measured: Measured) -> None:
    lines = list(as_lines(report(bundle, measured, 2, ONE, {})))
    assert sum(line.startswith("onnxruntime cpu fp32 ") for line in lines) == 1
    assert [line.split()[-2] for line in lines if line.startswith("openvino cpu fp32 ")] == ["2.00"]
    assert lines[-1] == "  torch cpu fp32: torch does not load"
    rows = [line for line in lines if line.startswith(("back-end", "onnxruntime", "openvino"))]
    assert len({len(row) for row in rows}) == 1


def test_what_was_not_measured_has_its_reason_in_the_json(bundle: Bundle, measured: Measured) -> None:
    found = as_json(report(bundle, measured, 2, ONE, {}))
    reason = {"backend": "torch", "device": "cpu", "precision": "fp32", "reason": "torch does not load"}
    assert found["not_measured"] == [reason]
    assert json.loads(json.dumps(found)) == found


def test_the_slower_engine_has_the_longer_bar(bundle: Bundle, measured: Measured) -> None:
    picture = bars(report(bundle, measured, 2, ONE, {}))
    bar = (picture == COLOURS["engine"]).all(axis=2).sum(axis=1)
    slow, fast = sorted({int(length) for length in bar if length > 20}, reverse=True)  # the legend's square is smaller
    assert slow == pytest.approx(2 * fast, abs=3)


# --- the machine ------------------------------------------------------------------------------------------------


def test_the_clock_is_told_where_the_kernel_tells_it(tmp_path: Path) -> None:
    assert doctor.clock(tmp_path) == "not readable"
    for name, value in (("governor", "schedutil"), ("cur_freq", "729600"), ("max_freq", "1510400")):
        (tmp_path / f"scaling_{name}").write_text(f"{value}\n")
    assert doctor.clock(tmp_path) == "schedutil, 729 of 1510 MHz"
