"""Rules of the graph on whole frames: any file, any size, any layout, from the file to regions of the full frame."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edge_ad.backends.base import Backend, open_backend
from edge_ad.bundle import MANIFEST, Bundle, manifest_digest, open_bundle
from edge_ad.config import BackendConfig, RegionConfig
from edge_ad.core.layout import Layout
from edge_ad.core.preprocess import preprocess
from edge_ad.errors import BundleError
from edge_ad.frames import FrameGraph, frame_graph
from edge_ad.images import read_image
from edge_ad.pipeline import Pipeline
from edge_ad.records import Frame, Roi, Thresholds
from tests.bundles import make_bundle

SIZE = 32
LAYOUTS = {
    "stretched": Layout(SIZE, SIZE),
    "letterbox": Layout(SIZE, SIZE, "letterbox"),
    "tiles": Layout(SIZE, SIZE, "stretch", 3, 4, 8),
    "letterbox tiles": Layout(SIZE, SIZE, "letterbox", 2, 5, 16),
    "tiles that turn": Layout(SIZE, SIZE, "stretch", 1, 3, 8, turns=True),
    "letterbox tiles that turn": Layout(SIZE, SIZE, "letterbox", 1, 3, 8, turns=True),
}
BRIGHT, DARK = 200, 20  # of 255; the test bundle sees darkness

Save = Callable[[NDArray[np.uint8]], NDArray[np.generic]]
KINDS: dict[str, Save] = {
    "8-bit colour": lambda image: image,
    "8-bit grey": lambda image: image[:, :, 0],
    "8-bit with alpha": lambda image: np.dstack([image, np.full(image.shape[:2], 77, np.uint8)]),
    "16-bit colour": lambda image: image.astype(np.uint16) * 257,
    "16-bit grey": lambda image: image[:, :, 0].astype(np.uint16) * 257,
    "16-bit with alpha": lambda image: np.dstack([image, image[:, :, :1]]).astype(np.uint16) * 257,
}


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Layout], tuple[Bundle, Backend]]:
    """The test bundle of a layout, and ONNX Runtime on it."""

    @cache
    def open_layout(layout: Layout) -> tuple[Bundle, Backend]:
        bundle = open_bundle(make_bundle(tmp_path_factory.mktemp("frames") / "bundle", SIZE, layout=layout))
        return bundle, open_backend(bundle, BackendConfig(threads=1))

    return open_layout


@pytest.fixture
def graph(opened: Callable[[Layout], tuple[Bundle, Backend]]) -> Callable[[Layout], FrameGraph]:
    def graph_of(layout: Layout) -> FrameGraph:
        bundle, backend = opened(layout)
        return frame_graph(backend, bundle.manifest)

    return graph_of


def spotted(height: int, width: int, spot: Roi) -> NDArray[np.uint8]:
    image = np.full((height, width, 3), BRIGHT, np.uint8)
    image[spot.y : spot.y + spot.h, spot.x : spot.x + spot.w] = DARK
    return image


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("height", "width"), [(64, 64), (100, 900), (900, 100)])
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_spot_is_found_where_it_is_whatever_the_file_and_its_shape(
    graph: Callable[[Layout], FrameGraph], tmp_path: Path, name: str, height: int, width: int, kind: str
) -> None:
    spot = Roi(width * 3 // 8, height // 4, width // 2, height // 2)
    cv2.imwrite(str(tmp_path / "part.png"), KINDS[kind](spotted(height, width, spot)))
    _spot_is_found(graph(LAYOUTS[name]), read_image(tmp_path / "part.png"), spot)


def test_so_it_is_in_a_large_frame(graph: Callable[[Layout], FrameGraph], tmp_path: Path) -> None:
    spot = Roi(2000, 700, 800, 900)
    image = KINDS["16-bit grey"](spotted(3000, 4096, spot))
    cv2.imwrite(str(tmp_path / "part.png"), image, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    frame = read_image(tmp_path / "part.png")
    for layout in LAYOUTS.values():
        _spot_is_found(graph(layout), frame, spot)


def _spot_is_found(graph: FrameGraph, frame: NDArray[np.uint8], spot: Roi) -> None:
    pipeline = Pipeline(graph, None, RegionConfig())
    middle = 1 - (BRIGHT + DARK) / 2 / 255
    pipeline.thresholds = Thresholds(middle, middle, 1)
    decision = pipeline.step(Frame("top", 1, frame, 0, 0)).decision
    assert decision.verdict == "defect"
    (region,) = decision.regions
    height, width = frame.shape[:2]
    content = graph.layout.content(height, width)
    down, across = 1.6 * height / content.height + 1, 1.6 * width / content.width + 1  # the graph blurs by a pixel
    assert abs(region.x - spot.x) <= across
    assert abs(region.y - spot.y) <= down
    assert abs(region.x + region.w - spot.x - spot.w) <= across
    assert abs(region.y + region.h - spot.y - spot.h) <= down


def test_the_score_of_a_frame_is_the_largest_of_its_tiles_run_one_by_one(
    graph: Callable[[Layout], FrameGraph],
) -> None:
    frame = np.random.default_rng(2).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    tiled = graph(LAYOUTS["tiles"])
    tiles = preprocess(frame, None, tiled.layout)
    scores = [float(tiled.backend.run(tile[None]).score[0]) for tile in tiles]
    assert tiled.run(frame, None).score() == pytest.approx(max(scores), rel=1e-6)


def test_a_defect_too_small_for_one_tile_is_found_with_more(graph: Callable[[Layout], FrameGraph]) -> None:
    frame = spotted(256, 256, Roi(130, 90, 3, 3))
    clean = np.full_like(frame, BRIGHT)
    gain = {
        name: graph(layout).run(frame, None).score() - graph(layout).run(clean, None).score()
        for name, layout in {**LAYOUTS, "fine": Layout(SIZE, SIZE, "stretch", 8, 8, 2)}.items()
    }
    assert gain["stretched"] < 0.05 < 0.2 < gain["fine"]
    assert gain["stretched"] < gain["tiles"] < gain["fine"]


@pytest.mark.parametrize("name", ["letterbox", "letterbox tiles"])
def test_a_dark_border_is_not_counted_again_for_the_padding_that_repeats_it(
    graph: Callable[[Layout], FrameGraph], name: str
) -> None:
    """A row of the border that the padding repeats would fill the top_k pixels; on the frame it fills one row."""
    frame = np.full((20, 160, 3), BRIGHT, np.uint8)
    frame[0, 70:75] = DARK
    found = graph(replace(LAYOUTS[name])).run(frame, None)
    assert found.tiles.score.max() > found.score()  # the graph's own, padding and all
    assert found.anomaly_map().shape == (found.content.height, found.content.width)
    assert found.score() == pytest.approx(float(np.sort(found.anomaly_map(), axis=None)[-4:].mean()), rel=1e-6)


def test_the_longer_side_of_the_grid_lies_along_that_of_the_frame(graph: Callable[[Layout], FrameGraph]) -> None:
    turning = graph(LAYOUTS["tiles that turn"])
    sizes = ((64, 65), (65, 64), (64, 64))
    found = [turning.run(np.zeros((*size, 3), np.uint8), None) for size in sizes]
    assert [one.anomaly_map().shape for one in found] == [(32, 80), (80, 32), (32, 80)]
    assert [one.reconstruction().shape for one in found] == [(32, 80, 3), (80, 32, 3), (32, 80, 3)]
    cut = np.zeros((100, 64, 3), np.uint8)  # the ROI is what counts
    assert turning.run(cut, Roi(0, 0, 64, 32)).anomaly_map().shape == (32, 80)


def test_a_frame_of_another_shape_is_fitted_anew(graph: Callable[[Layout], FrameGraph]) -> None:
    letterbox = graph(LAYOUTS["letterbox"])
    shapes = [letterbox.run(np.zeros((h, w, 3), np.uint8), None).anomaly_map().shape for h, w in ((64, 32), (32, 64))]
    assert shapes == [(32, 16), (16, 32)]


def test_a_bundle_from_before_there_were_tiles_is_one_stretched_tile(tmp_path: Path) -> None:
    manifest = open_bundle(make_bundle(tmp_path / "bundle", SIZE)).manifest
    assert manifest.input.frame_layout() == Layout(SIZE, SIZE, overlap=manifest.input.tiles.overlap)
    assert manifest.frame_macs == manifest.macs


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"fit": "crop"}, "input.fit"),
        ({"tiles": {"rows": 2, "columns": 2, "overlap": 8, "order": "snake"}}, "input.tiles.order"),
        ({"tiles": {"rows": 0, "columns": 2, "overlap": 8}}, "input.tiles.rows"),
        ({"tiles": {"rows": 9, "columns": 9, "overlap": 8}}, "9 x 9 are more than 64"),
        ({"tiles": {"rows": 2, "columns": 1, "overlap": 18}}, "an overlap of 18 is more than half"),
        ({"tiles": {"rows": 2, "columns": 1, "overlap": 8, "turns": True}}, "columns no fewer than rows"),
    ],
)
def test_a_layout_that_is_not_known_is_refused_on_one_line(
    tmp_path: Path, changes: dict[str, object], reason: str
) -> None:
    path = make_bundle(tmp_path / "bundle", SIZE)
    fields = json.loads((path / MANIFEST).read_text())
    fields["input"] |= changes
    fields["digest"] = manifest_digest(fields)
    (path / MANIFEST).write_text(json.dumps(fields))
    with pytest.raises(BundleError, match=reason) as refused:
        open_bundle(path)
    assert "\n" not in str(refused.value)
