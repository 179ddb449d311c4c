"""What only a GPU can show: real engines, built, proved and timed. docs/jetson.md has the command for a board.

What is not installed there is skipped, with its own words as the reason.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Iterator
from contextlib import contextmanager
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
from edge_ad.engines.key import Builder
from edge_ad.errors import BackendError
from edge_ad.frames import frame_graph
from edge_ad.pipeline import Pipeline
from edge_ad.records import Frame
from tests.bundles import NOT_HERE, with_tiles
from tests.quantising import with_int8

pytestmark = pytest.mark.gpu

DEMO = Path(demo.__file__).parent / "bundle"
REPEATS = 200
BUILT = [
    ("tensorrt", "bundle"),
    ("tensorrt", "tiled"),
    ("torch_tensorrt", "program"),
    ("torch_tensorrt", "tiled_program"),
]
ON_CUDA = [
    ("onnxruntime", "cuda", "fp32", "bundle"),
    ("onnxruntime", "cuda", "int8", "bundle"),
    ("onnxruntime", "tensorrt", "fp32", "bundle"),
    ("onnxruntime", "tensorrt", "int8", "bundle"),
    ("torch", "cuda", "fp32", "program"),
]


@contextmanager
def skip_if_not_here() -> Iterator[None]:
    try:
        yield
    except BackendError as error:
        if not NOT_HERE.search(str(error)):
            raise
        pytest.skip(str(error))


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


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle with a program of the torch that is here, which the demo's has not."""
    if importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed")
    from tests.trainer.tiny import tiny_bundle

    folder = tmp_path_factory.mktemp("program")
    return open_bundle(with_int8(tiny_bundle(folder), folder / "int8"))


@pytest.fixture(scope="module")
def tiled_program(program: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return open_bundle(with_tiles(program.path, tmp_path_factory.mktemp("tiled") / "program", rows=2, columns=3))


@pytest.mark.parametrize(("builder", "laid"), BUILT)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_an_engine_is_built_proved_and_in_service(
    request: pytest.FixtureRequest, state: Path, builder: Builder, laid: str, precision: Precision
) -> None:
    bundle: Bundle = request.getfixturevalue(laid)
    with skip_if_not_here():
        record = run_build(Request(bundle.path, precision, builder), say)
    assert record.key.builder == builder
    assert record.key.shape[0] == bundle.manifest.input.frame_layout().tiles
    assert store.in_service(state / "engines", record.key) == record
    open_backend(bundle, BackendConfig(name=builder, precision=precision)).close()


@pytest.mark.parametrize(("builder", "laid"), BUILT)
def test_the_engine_agrees_with_onnxruntime_beyond_the_golden_images(
    request: pytest.FixtureRequest, builder: Builder, laid: str
) -> None:
    assert_same_as_on_the_cpu(request.getfixturevalue(laid), BackendConfig(name=builder))


@pytest.mark.parametrize(("name", "device", "precision", "laid"), ON_CUDA)
def test_engines_that_nobody_builds_agree_with_onnxruntime_on_the_cpu(
    request: pytest.FixtureRequest, name: str, device: str, precision: Precision, laid: str
) -> None:
    fields = {"name": name, "device": device, "precision": precision}
    assert_same_as_on_the_cpu(request.getfixturevalue(laid), BackendConfig.model_validate(fields))


def assert_same_as_on_the_cpu(bundle: Bundle, config: BackendConfig) -> None:
    """Of noise, which no golden image is."""
    size = bundle.manifest.input
    images = np.random.default_rng(3).integers(0, 256, (8, size.height, size.width, 3), dtype=np.uint8)
    with skip_if_not_here():
        engine = open_backend(bundle, config)
    errors = max_errors(engine.run(images), open_backend(bundle, BackendConfig(precision=config.precision)).run(images))
    allowed = bundle.manifest.tolerances[f"{config.name}/{config.precision}"].model_dump()
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
