"""Rules of scoring: the daemon's own path, each content once, never an image the network knows."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from calibration.scores import GoodImage, distinct, held_out, refuse_training_images, score_images
from edge_ad.backends.base import Backend, open_backend
from edge_ad.bundle import Bundle, open_bundle
from edge_ad.config import BackendConfig, RegionConfig
from edge_ad.core.layout import Fit, Layout
from edge_ad.core.preprocess import preprocess
from edge_ad.core.stitch import FrameOutput
from edge_ad.errors import BackendError, CalibrationError, DataError
from edge_ad.frames import frame_graph
from edge_ad.images import read_image, write_png
from edge_ad.pipeline import Pipeline
from edge_ad.records import Frame, RawOutput, Roi
from tests.bundles import make_bundle
from tests.calibration.site import make_good, set_training


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return open_bundle(make_bundle(tmp_path / "bundle"))


@pytest.fixture
def backend(bundle: Bundle) -> Backend:
    return open_backend(bundle, BackendConfig())


@pytest.mark.parametrize("roi", [None, Roi(4, 2, 30, 33)])
def test_the_scores_are_those_of_the_daemons_path(
    tmp_path: Path, bundle: Bundle, backend: Backend, roi: Roi | None
) -> None:
    images = distinct(make_good(tmp_path / "good", 5))
    found = score_images(images, backend, bundle.manifest, roi)
    for i, image in enumerate(images):
        output = backend.run(preprocess(read_image(image.path), roi, Layout(32, 32)))
        assert found.scores[i] == output.score[0]
        assert found.kth_largest[i] == np.sort(output.anomaly_map, axis=None)[-bundle.manifest.top_k]


@pytest.mark.parametrize("fit", ["stretch", "letterbox"])
def test_with_tiles_they_are_those_of_the_daemons_path_too_and_the_kth_pixel_is_of_one_tile(
    tmp_path: Path, fit: Fit
) -> None:
    layout = Layout(32, 32, fit, 2, 3, 8)
    bundle = open_bundle(make_bundle(tmp_path / "tiled", layout=layout))
    backend = open_backend(bundle, BackendConfig())
    images = distinct(make_good(tmp_path / "good", 4))
    found = score_images(images, backend, bundle.manifest, None)
    pipeline = Pipeline(frame_graph(backend, bundle.manifest), None, RegionConfig())
    for score, kth, image in zip(found.scores, found.kth_largest, images, strict=True):
        event = pipeline.step(Frame("top", 1, read_image(image.path), 0, 0))
        assert event.decision.score == score
        assert kth <= score


@given(
    anomaly_map=hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2), elements=st.integers(0, 5).map(float)),
    data=st.data(),
)
def test_k_or_more_pixels_are_marked_just_below_the_kth_largest(
    anomaly_map: NDArray[np.float32], data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, anomaly_map.size))
    layout = Layout(*anomaly_map.shape)
    output = RawOutput(anomaly_map[None], np.zeros(1, np.float32), np.zeros((1, *anomaly_map.shape, 3), np.float32))
    kth = FrameOutput(output, layout, layout.content(*anomaly_map.shape), k).kth_largest()
    assert (anomaly_map > kth).sum() < k <= (anomaly_map >= kth).sum()


def test_a_content_counts_once_whatever_its_name(tmp_path: Path) -> None:
    paths = make_good(tmp_path / "good", 3)
    copy = Path(shutil.copy(paths[0], tmp_path / "good" / "zzz.png"))
    assert [image.path for image in distinct([*paths, copy, paths[1]])] == paths


def test_images_of_the_training_are_refused_with_their_number_and_one_name(tmp_path: Path, bundle: Bundle) -> None:
    paths = make_good(tmp_path / "good", 5)
    set_training(bundle.path, trained_on=paths[1:4], held_out=paths[4:])
    manifest = open_bundle(bundle.path).manifest
    with pytest.raises(CalibrationError, match=rf"trained on 3 of 5 images, {paths[1]} among them"):
        refuse_training_images(distinct(paths), manifest)
    refuse_training_images(distinct([paths[0], paths[4]]), manifest)  # never seen, and held out: both allowed


def test_the_held_out_split_is_picked_by_content(tmp_path: Path, bundle: Bundle) -> None:
    paths = make_good(tmp_path / "good", 5)
    set_training(bundle.path, trained_on=paths[:3], held_out=paths[3:])
    manifest = open_bundle(bundle.path).manifest
    assert [image.path for image in held_out(distinct(paths), manifest)] == paths[3:]
    with pytest.raises(CalibrationError, match=r"none of the 3 images is in the calibration split of the bundle \(2 "):
        held_out(distinct(paths[:3]), manifest)


def test_an_unreadable_image_is_named(tmp_path: Path, bundle: Bundle, backend: Backend) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"not an image")
    with pytest.raises(DataError, match=f"cannot decode {broken}"):
        score_images([GoodImage(broken, "")], backend, bundle.manifest, None)


def test_an_image_that_the_roi_leaves_is_named(tmp_path: Path, bundle: Bundle, backend: Backend) -> None:
    images = distinct(make_good(tmp_path / "good", 1))
    with pytest.raises(DataError, match=rf"{images[0].path}: ROI 30x30\+20\+0 leaves the 40x40 image"):
        score_images(images, backend, bundle.manifest, Roi(20, 0, 30, 30))


class Broken:
    """A back-end that overflows."""

    name, precision = "onnxruntime", "int8"

    def run(self, image: NDArray[np.uint8]) -> RawOutput:
        one = np.ones((1, 32, 32), np.float32)
        return RawOutput(one, np.array([np.nan], np.float32), np.repeat(one[..., None], 3, axis=3))

    def close(self) -> None: ...


def test_a_score_that_is_no_number_is_refused_with_the_image(tmp_path: Path, bundle: Bundle) -> None:
    write_png(tmp_path / "a.png", np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(BackendError, match=r"onnxruntime/int8 gave the score nan for .*a\.png"):
        score_images([GoodImage(tmp_path / "a.png", "")], Broken(), bundle.manifest, None)  # type: ignore[arg-type]
