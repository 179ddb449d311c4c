"""What every back-end keeps, on whatever hardware and from whatever vendor: the contract of `Backend`.

One that cannot run here (not installed, no such device) is skipped, with its own words as the reason.
"""

from __future__ import annotations

import copy
import importlib.util
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_ad.backends.base import OPENERS, PRECISIONS, Backend, max_errors, open_backend, prove_golden
from edge_ad.bundle import GOLDEN, GOLDEN_PREFIX, Bundle, open_bundle
from edge_ad.config import BackendConfig, Precision
from edge_ad.errors import BackendError, BundleError, ConfigError
from edge_ad.records import RawOutput
from tests.bundles import NOT_HERE, make_bundle, with_tiles
from tests.quantising import with_int8
from tests.trainer.tiny import tiny_bundle

ON_A_PROGRAM = ("torch", "torch_tensorrt")  # they run model.pt2, which only an exported run has
SIZE = 32  # of both bundles


# Every precision of every back-end, and each of its devices; what builds an engine runs on CUDA whatever is set.
DEVICES = {"onnxruntime": ("cpu", "cuda", "tensorrt"), "torch": ("cpu", "cuda")}
ENGINES = [
    (name, precision, device)
    for name, precisions in PRECISIONS.items()
    for precision in precisions
    for device in DEVICES.get(name, ("cpu",))
]


@pytest.fixture(scope="module", params=ENGINES, ids=lambda engine: "/".join(engine).removesuffix("/cpu"))
def engine(request: pytest.FixtureRequest) -> tuple[str, Precision, str]:
    found: tuple[str, Precision, str] = request.param
    return found


@pytest.fixture(scope="module")
def name(engine: tuple[str, Precision, str]) -> str:
    return engine[0]


@pytest.fixture(scope="module")
def precision(engine: tuple[str, Precision, str]) -> Precision:
    return engine[1]


@pytest.fixture(scope="module")
def device(engine: tuple[str, Precision, str]) -> str:
    return engine[2]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle of the trainer's, with a program."""
    if importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed")
    return open_bundle(tiny_bundle(tmp_path_factory.mktemp("exported")))


@pytest.fixture(scope="module")
def quantised(exported: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The same with an INT8 graph."""
    return open_bundle(with_int8(exported.path, tmp_path_factory.mktemp("quantised") / "bundle"))


@pytest.fixture(scope="module")
def darkness(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle that needs no trainer."""
    return open_bundle(make_bundle(tmp_path_factory.mktemp("darkness") / "bundle", SIZE, int8=True))


@pytest.fixture(scope="module")
def bundle(name: str, precision: Precision, request: pytest.FixtureRequest) -> Bundle:
    with_program = "quantised" if precision == "int8" else "exported"
    found: Bundle = request.getfixturevalue(with_program if name in ON_A_PROGRAM else "darkness")
    return found


@pytest.fixture(scope="module")
def backend(name: str, precision: Precision, device: str, bundle: Bundle) -> Iterator[Backend]:
    opened = open_or_skip(name, precision, bundle, device)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def tolerance(name: str, precision: Precision, bundle: Bundle) -> dict[str, float]:
    return bundle.manifest.tolerances[f"{name}/{precision}"].model_dump()


def open_or_skip(name: str, precision: Precision, bundle: Bundle, device: str = "cpu") -> Backend:
    fields = {"name": name, "precision": precision, "device": device, "threads": 1}
    try:
        return open_backend(bundle, BackendConfig.model_validate(fields))
    except BackendError as error:
        if not NOT_HERE.search(str(error)):
            raise
        pytest.skip(str(error))


def images(n: int) -> NDArray[np.uint8]:
    """(n, SIZE, SIZE, 3): noise, each row another; not so bright that the bundle stalls."""
    return np.random.default_rng(11).integers(0, 200, (n, SIZE, SIZE, 3), dtype=np.uint8)


def within(errors: dict[str, float], tolerance: dict[str, float]) -> bool:
    return all(errors[output] <= tolerance[output] for output in errors)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_any_number_of_images_gets_what_onnxruntime_says(
    backend: Backend, bundle: Bundle, tolerance: dict[str, float], n: int
) -> None:
    """Of the same graph: bf16 and fp16 are measured by that of FP32."""
    found = backend.run(images(n))
    of_file: Precision = "int8" if backend.precision == "int8" else "fp32"
    expected = open_backend(bundle, BackendConfig(threads=1, precision=of_file)).run(images(n))
    assert within(max_errors(found, expected), tolerance)
    assert found.anomaly_map.shape == (n, SIZE, SIZE)
    assert found.score.shape == (n,)
    assert found.reconstruction.shape == (n, SIZE, SIZE, 3)
    assert {array.dtype for array in asdict(found).values()} == {np.dtype(np.float32)}


def test_the_same_images_give_the_same_result_bit_for_bit(backend: Backend) -> None:
    first = backend.run(images(2))
    backend.run(images(3)[2:])
    assert set(max_errors(backend.run(images(2)), first).values()) == {0.0}


def test_a_result_outlives_the_next_run(backend: Backend) -> None:
    """The engine may keep its own buffers, but never hands them out."""
    first = backend.run(images(2)[:1])
    kept = copy.deepcopy(first)
    backend.run(images(2)[1:])
    assert set(max_errors(first, kept).values()) == {0.0}


def test_the_input_stays_as_it_was_and_may_be_read_only(backend: Backend) -> None:
    image = images(2)
    image.flags.writeable = False
    backend.run(image)
    assert np.array_equal(image, images(2))


def test_a_row_does_not_depend_on_its_neighbours(backend: Backend, tolerance: dict[str, float]) -> None:
    together, alone = backend.run(images(3)), backend.run(images(3)[1:2])
    row = RawOutput(together.anomaly_map[1:2], together.score[1:2], together.reconstruction[1:2])
    assert within(max_errors(row, alone), tolerance)


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((1, SIZE, SIZE, 3), np.float32),
        np.zeros((1, SIZE, SIZE + 1, 3), np.uint8),
        np.zeros((1, 3, SIZE, SIZE), np.uint8),
        np.zeros((SIZE, SIZE, 3), np.uint8),
        np.zeros((0, SIZE, SIZE, 3), np.uint8),
    ],
    ids=lambda image: f"{image.dtype}{image.shape}",
)
def test_another_shape_or_type_is_refused_and_the_engine_lives_on(backend: Backend, wrong: NDArray[np.uint8]) -> None:
    with pytest.raises(BackendError, match=r"the graph takes uint8 \(N, 32, 32, 3\), got"):
        backend.run(wrong)
    assert backend.run(images(1)).score.shape == (1,)


def test_outputs_beyond_the_tolerance_are_not_served(backend: Backend, bundle: Bundle, tmp_path: Path) -> None:
    """One golden pixel that is off by a twentieth is enough."""
    golden = bundle.golden(backend.precision)
    golden.expected.anomaly_map[0, 0, 0] += 0.05
    prefix = GOLDEN_PREFIX[backend.precision]
    with np.load(bundle.path / GOLDEN) as kept:
        arrays = {**kept, **{f"{prefix}{name}": values for name, values in asdict(golden.expected).items()}}
    np.savez(tmp_path / GOLDEN, **arrays)
    with pytest.raises(BundleError, match=r"misses the golden outputs .*anomaly_map 0\.0\d+ > .* not served"):
        prove_golden(Bundle(tmp_path, bundle.manifest), backend)


@pytest.mark.parametrize("row", [0, 1, 5])
@pytest.mark.parametrize("golden", [0, 1])
def test_every_tile_of_a_frame_is_proved_on_every_golden_image(
    bundle: Bundle, backend: Backend, tmp_path: Path, row: int, golden: int
) -> None:
    """As a kernel with a fault in one row of a batch would do it: there, nothing is seen in one of the images."""
    tiled = open_bundle(with_tiles(bundle.path, tmp_path / "tiled", rows=2, columns=3))
    blind = BlindIn(backend, row, tiled.golden().image[golden])
    with pytest.raises(BundleError, match="misses the golden outputs"):
        prove_golden(tiled, blind)
    assert blind.at_once == {6}


class BlindIn:
    """A back-end that does not see one image in one row of a batch; it notes how many images it was given at once."""

    def __init__(self, backend: Backend, row: int, image: NDArray[np.uint8]) -> None:
        self.name, self.precision, self.close = backend.name, backend.precision, backend.close
        self.at_once: set[int] = set()
        self._backend, self._row, self._image = backend, row, image

    def run(self, image: NDArray[np.uint8]) -> RawOutput:
        self.at_once.add(len(image))
        found = self._backend.run(image)
        if np.array_equal(image[self._row], self._image):
            found.score[self._row] = 0
            found.anomaly_map[self._row] = 0
        return found


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_bundle_may_lie_in_a_folder_whose_name_is_no_utf8(
    darkness: Bundle, tmp_path: Path, name: str, precision: Precision
) -> None:
    folder = tmp_path / os.fsdecode(b"Pr\xfcfung")
    shutil.copytree(darkness.path, folder)
    open_or_skip(name, precision, open_bundle(folder)).close()


def test_a_closed_back_end_refuses_to_run_and_closes_again(
    name: str, precision: Precision, device: str, bundle: Bundle
) -> None:
    backend = open_or_skip(name, precision, bundle, device)
    backend.close()
    backend.close()
    with pytest.raises(BackendError, match="closed"):
        backend.run(images(1))


@pytest.mark.parametrize("name", OPENERS)
def test_a_precision_without_a_file_or_an_engine_is_refused_and_not_replaced(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if name in ON_A_PROGRAM:
        bundle: Bundle = request.getfixturevalue("exported")
    else:
        bundle = open_bundle(make_bundle(tmp_path / "bundle", SIZE))
    open_or_skip(name, "fp32", bundle).close()
    config = BackendConfig.model_validate({"name": name, "precision": "int8"})
    with pytest.raises((BundleError, BackendError, ConfigError), match="int8") as refused:
        open_backend(bundle, config)
    assert "\n" not in str(refused.value)


def test_int8_that_is_too_far_from_fp32_is_not_served(darkness: Bundle, tmp_path: Path) -> None:
    """Its own golden outputs may be met and yet be those of a broken graph."""
    golden = darkness.golden("int8")
    fp32 = {name: values + 0.05 for name, values in asdict(darkness.golden("fp32").expected).items()}
    int8 = {f"int8_{name}": values for name, values in asdict(golden.expected).items()}
    np.savez(tmp_path / GOLDEN, image=golden.image, **fp32, **int8)
    backend = open_or_skip("onnxruntime", "int8", darkness)
    with pytest.raises(
        BundleError, match=r"onnxruntime/int8 drifts from fp32 on the golden outputs .*anomaly_map 0\.0"
    ):
        prove_golden(Bundle(tmp_path, darkness.manifest), backend)


@pytest.mark.parametrize(
    ("name", "precision", "has"),
    [
        ("onnxruntime", "bf16", "fp32 or int8"),
        ("openvino", "fp16", "fp32 or bf16 or int8"),
        ("torch", "fp16", "fp32"),
        ("torch_tensorrt", "bf16", "fp32 or fp16 or int8"),
        ("tensorrt", "bf16", "fp32 or fp16 or int8"),
    ],
)
def test_a_precision_that_an_engine_has_not_is_refused_with_those_that_it_has(
    darkness: Bundle, name: str, precision: str, has: str
) -> None:
    """On any machine: also where the engine is not installed, and before anything is built."""
    with pytest.raises(ConfigError, match=f"^{name} runs {has}, not {precision}: set precision$"):
        open_backend(darkness, BackendConfig.model_validate({"name": name, "precision": precision}))
