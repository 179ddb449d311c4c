"""What only a GPU can show: real engines, built, proved and timed. docs/jetson.md has the command for a board."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from edge_ad import demo
from edge_ad.backends.base import max_errors, open_backend
from edge_ad.bench.figures import quantiles
from edge_ad.bundle import Bundle, open_bundle
from edge_ad.config import BackendConfig, Precision, RegionConfig
from edge_ad.console import say
from edge_ad.core.layout import Layout
from edge_ad.core.preprocess import preprocess
from edge_ad.cuda.device import PrimaryContext
from edge_ad.cuda.resize import compile_kernel
from edge_ad.engines import store
from edge_ad.engines.build import Request, run_build
from edge_ad.engines.kernel import prove_kernel
from edge_ad.frames import frame_graph
from edge_ad.pipeline import Pipeline
from edge_ad.records import Frame
from tests.bundles import with_tiles
from tests.quantising import with_int8

pytestmark = pytest.mark.gpu

DEMO = Path(demo.__file__).parent / "bundle"
REPEATS = 200


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state")


@pytest.fixture(autouse=True)
def _state(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(state))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return open_bundle(with_int8(DEMO, tmp_path_factory.mktemp("demo") / "bundle"))


@pytest.fixture(scope="module")
def tiled(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The same graph for frames of six tiles."""
    return open_bundle(with_tiles(bundle.path, tmp_path_factory.mktemp("tiled") / "bundle", rows=2, columns=3))


@pytest.mark.parametrize("laid", ["bundle", "tiled"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_an_engine_is_built_proved_and_in_service(
    request: pytest.FixtureRequest, state: Path, laid: str, precision: Precision
) -> None:
    bundle: Bundle = request.getfixturevalue(laid)
    record = run_build(Request(bundle.path, precision, "tensorrt"), say)
    assert record.key.shape[0] == bundle.manifest.input.frame_layout().tiles
    assert store.in_service(state / "engines", record.key) == record
    open_backend(bundle, BackendConfig(name="tensorrt", precision=precision)).close()


@pytest.mark.parametrize("laid", ["bundle", "tiled"])
def test_the_engine_agrees_with_onnxruntime_beyond_the_golden_images(request: pytest.FixtureRequest, laid: str) -> None:
    bundle: Bundle = request.getfixturevalue(laid)
    size = bundle.manifest.input
    images = np.random.default_rng(3).integers(0, 256, (8, size.height, size.width, 3), dtype=np.uint8)
    engine = open_backend(bundle, BackendConfig(name="tensorrt"))
    errors = max_errors(engine.run(images), open_backend(bundle, BackendConfig()).run(images))
    allowed = bundle.manifest.tolerances["tensorrt/fp32"].model_dump()
    engine.close()
    assert all(errors[name] <= allowed[name] for name in errors), errors


def test_the_kernel_gives_opencvs_pixels_on_this_gpu(bundle: Bundle) -> None:
    context = PrimaryContext()
    prove_kernel(context, compile_kernel(context.facts.sm), Layout(256, 256, rows=2, columns=2, overlap=32))
    context.close()


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_times_of_a_full_hd_frame(bundle: Bundle, precision: Precision) -> None:
    """Prints ms (pytest -s shows them); docs/jetson.md says what to compare them with."""
    backend = open_backend(bundle, BackendConfig(name="tensorrt", precision=precision))
    pipeline = Pipeline(frame_graph(backend, bundle.manifest), None, RegionConfig())
    image = np.random.default_rng(5).integers(0, 256, (1080, 1920, 3), dtype=np.uint8)
    steps = []
    for number in range(REPEATS):
        event = pipeline.step(Frame("top", number, image, 0, time.monotonic_ns()))
        steps.append(sum(event.latency_ms.values()))
    say(f"{precision}: {quantiles(steps[REPEATS // 10 :])}")
    expected = backend.run(preprocess(image, None, bundle.manifest.input.frame_layout()))
    assert event.decision.score == float(expected.score[0])
    backend.close()
