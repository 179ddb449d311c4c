"""Rules of running an engine beyond the contract: frames over the GPU, CUDA graphs, memory; on a pretended GPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_ad.backends.base import TakesFrames, max_errors
from edge_ad.backends.tensorrt import TensorRTBackend
from edge_ad.bundle import MODEL_FILE, Bundle, open_bundle
from edge_ad.config import RegionConfig
from edge_ad.core.layout import Layout
from edge_ad.core.preprocess import preprocess
from edge_ad.errors import BackendError, DataError
from edge_ad.frames import FrameGraph, frame_graph
from edge_ad.pipeline import Pipeline
from edge_ad.records import Frame, RawOutput, Roi
from tests.bundles import make_bundle
from tests.fake_gpu import FakeGpu

SIZE = 32
KERNEL = b"\x7fELF of the pretended driver"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return open_bundle(make_bundle(tmp_path_factory.mktemp("engine") / "bundle", SIZE))


@pytest.fixture(params=[True, False], ids=["mapped", "copied"])
def gpu(fake_gpu: FakeGpu, request: pytest.FixtureRequest) -> Iterator[FakeGpu]:
    """A board whose GPU shares the CPU's memory, and a card with its own."""
    fake_gpu.driver.fake_integrated(int(request.param))
    yield fake_gpu
    fake_gpu.driver.fake_integrated(1)


@pytest.fixture
def backend(gpu: FakeGpu, bundle: Bundle) -> Iterator[TensorRTBackend]:
    opened = TensorRTBackend(bundle, "tensorrt", "fp32", plan_of(bundle), KERNEL)
    yield opened
    opened.close()


def plan_of(bundle: Bundle) -> bytes:
    import tensorrt

    prefix: bytes = tensorrt.PREFIX
    return prefix + (bundle.path / MODEL_FILE["fp32"]).read_bytes()


def noise(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 200, (height, width, 3), dtype=np.uint8)


def same(found: RawOutput, expected: RawOutput) -> bool:
    return set(max_errors(found, expected).values()) == {0.0}


@pytest.mark.parametrize("size", [(96, 80), (64, 64), (33, 47), (32, 32)], ids=str)
def test_a_frame_over_the_gpu_gives_what_its_preprocessed_image_gives(
    backend: TensorRTBackend, size: tuple[int, int]
) -> None:
    for seed in range(3):
        frame = noise(*size, seed)
        backend.load(frame, None)
        assert same(backend.run_loaded(), backend.run(preprocess(frame, None, Layout(SIZE, SIZE))))


TILES = Layout(SIZE, SIZE, "stretch", 2, 3, 8)


LAID = {"stretch": TILES, "letterbox": replace(TILES, fit="letterbox"), "turns": replace(TILES, turns=True)}


@pytest.fixture(params=LAID.values(), ids=LAID.keys())
def tiled(gpu: FakeGpu, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TensorRTBackend]:
    """An engine for six tiles."""
    bundle = open_bundle(make_bundle(tmp_path / "tiled", SIZE, layout=request.param))
    opened = TensorRTBackend(bundle, "tensorrt", "fp32", plan_of(bundle), KERNEL)
    yield opened
    opened.close()


@pytest.mark.parametrize("size", [(112, 240), (56, 80), (57, 103), (168, 160), (200, 90), (40, 300), (20, 20)], ids=str)
def test_the_tiles_of_a_frame_are_those_of_the_cpu_whoever_cuts_them(
    tiled: TensorRTBackend, size: tuple[int, int]
) -> None:
    """Boxes, fractions, the canvas as it is, an axis that grows; stretched over the GPU, letterbox over the CPU."""
    frame = noise(*size)
    tiled.load(frame, None)
    found = tiled.run_loaded()
    assert found.score.shape == (TILES.tiles,)
    assert same(found, tiled.run(preprocess(frame, None, tiled._layout)))
    least = tiled._layout.of(*size).canvas
    assert (tiled._frames is not None) == (
        tiled._layout.fit == "stretch" and size[0] >= least[0] and size[1] >= least[1]
    )


@pytest.mark.parametrize("count", [1, 5, 6, 7, 13])
def test_any_number_of_images_runs_on_an_engine_of_a_fixed_one(
    tiled: TensorRTBackend, bundle: Bundle, gpu: FakeGpu, count: int
) -> None:
    images = np.stack([noise(SIZE, SIZE, seed) for seed in range(count)])
    one_by_one = TensorRTBackend(bundle, "tensorrt", "fp32", plan_of(bundle), None)
    assert same(tiled.run(images), one_by_one.run(images))
    one_by_one.close()


def test_a_region_of_interest_is_cut_first(backend: TensorRTBackend) -> None:
    frame, roi = noise(90, 120), Roi(7, 9, 100, 70)
    backend.load(frame, roi)
    assert same(backend.run_loaded(), backend.run(preprocess(frame, roi, Layout(SIZE, SIZE))))


def test_a_region_outside_the_frame_is_refused_as_everywhere(backend: TensorRTBackend) -> None:
    with pytest.raises(DataError, match="leaves the 120x90 image"):
        backend.load(noise(90, 120), Roi(50, 0, 100, 70))


def test_a_frame_that_must_grow_goes_over_the_cpu(backend: TensorRTBackend) -> None:
    frame = noise(20, 100)
    backend.load(frame, None)
    assert same(backend.run_loaded(), backend.run(preprocess(frame, None, Layout(SIZE, SIZE))))


def test_frames_of_changing_size_are_told_apart(backend: TensorRTBackend, gpu: FakeGpu) -> None:
    backend.load(noise(96, 80), None)
    backend.run_loaded()
    before = gpu.live()
    for size in ((64, 64), (20, 20), (96, 80)):
        frame = noise(*size)
        backend.load(frame, None)
        assert same(backend.run_loaded(), backend.run(preprocess(frame, None, Layout(SIZE, SIZE))))
    assert gpu.live() == before


def test_without_the_kernel_frames_go_over_the_cpu(gpu: FakeGpu, bundle: Bundle) -> None:
    backend = TensorRTBackend(bundle, "tensorrt", "fp32", plan_of(bundle), None)
    frame = noise(96, 80)
    backend.load(frame, None)
    assert same(backend.run_loaded(), backend.run(preprocess(frame, None, Layout(SIZE, SIZE))))
    backend.close()


def test_where_no_graph_can_be_recorded_the_result_is_the_same(gpu: FakeGpu, bundle: Bundle) -> None:
    gpu.driver.fake_refuse_capture(1)
    try:
        backend = TensorRTBackend(bundle, "tensorrt", "fp32", plan_of(bundle), KERNEL)
        frame = noise(96, 80)
        backend.load(frame, None)
        found = backend.run_loaded()
        expected = backend.run(preprocess(frame, None, Layout(SIZE, SIZE)))
        backend.close()
    finally:
        gpu.driver.fake_refuse_capture(0)
    assert same(found, expected)


def test_the_frame_path_hands_it_whole_frames(backend: TensorRTBackend, bundle: Bundle) -> None:
    assert isinstance(backend, TakesFrames)
    pipeline = Pipeline(frame_graph(backend, bundle.manifest), Roi(10, 10, 64, 64), RegionConfig())
    pipeline.warm_up()
    frame = noise(96, 80)
    event = pipeline.step(Frame("top", 1, frame, captured_ns=0, captured_monotonic_ns=0))
    expected = backend.run(preprocess(frame, Roi(10, 10, 64, 64), Layout(SIZE, SIZE)))
    assert event.decision.score == float(expected.score[0])


@pytest.mark.parametrize("roi", [None, Roi(10, 10, 64, 64)], ids=["whole", "roi"])
def test_after_the_warm_up_the_first_frame_records_and_allocates_nothing(
    backend: TensorRTBackend, bundle: Bundle, gpu: FakeGpu, roi: Roi | None
) -> None:
    pipeline = Pipeline(frame_graph(backend, bundle.manifest), roi, RegionConfig())
    pipeline.warm_up((96, 80))
    before = gpu.captures(), gpu.live()
    assert backend._frames is not None
    pipeline.step(Frame("top", 1, noise(96, 80), captured_ns=0, captured_monotonic_ns=0))
    assert (gpu.captures(), gpu.live()) == before


def test_without_a_known_size_the_warm_up_still_goes_the_way_of_a_frame(tiled: TensorRTBackend, bundle: Bundle) -> None:
    Pipeline(FrameGraph(tiled, tiled._layout, bundle.manifest.top_k), None, RegionConfig()).warm_up()
    assert (tiled._frames is not None) == (tiled._layout.fit == "stretch")


def test_closing_gives_everything_back(gpu: FakeGpu, bundle: Bundle) -> None:
    before = gpu.live()
    backend = TensorRTBackend(bundle, "tensorrt", "fp32", plan_of(bundle), KERNEL)
    backend.load(noise(96, 80), None)
    backend.run_loaded()
    assert gpu.live() > before
    backend.close()
    assert gpu.live() == before


def test_a_closed_engine_takes_no_frame(gpu: FakeGpu, bundle: Bundle) -> None:
    backend = TensorRTBackend(bundle, "tensorrt", "fp32", plan_of(bundle), KERNEL)
    backend.close()
    with pytest.raises(BackendError, match="closed"):
        backend.load(noise(96, 80), None)
    with pytest.raises(BackendError, match="closed"):
        backend.run_loaded()


def test_an_engine_of_another_version_is_refused_with_the_way_out(gpu: FakeGpu, bundle: Bundle) -> None:
    with pytest.raises(BackendError, match=r"refuses the engine \(.*not compatible.*\): edge-ad build BUNDLE --again"):
        TensorRTBackend(bundle, "tensorrt", "fp32", b"pretended engine of 9.0.0\n", None)


def test_an_engine_of_another_graph_is_refused(gpu: FakeGpu, bundle: Bundle, tmp_path: Path) -> None:
    other = open_bundle(make_bundle(tmp_path / "other", SIZE))
    with pytest.raises(BackendError, match="it was not built from a bundle's graph"):
        TensorRTBackend(other, "torch_tensorrt", "fp32", plan_of(other), None)
