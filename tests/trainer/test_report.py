"""The report of an evaluation: one page, and every picture that it names beside it."""

import csv
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from edge_ad.core.layout import Layout
from edge_ad.frames import FrameGraph
from edge_ad.records import RawOutput, Thresholds
from tests.trainer.tiny import make_dataset
from trainer.evaluate import Scored, Subject, evaluate, list_any
from trainer.metrics import rank, regions
from trainer.report import POINTS, _draw_scores, _draw_sizes, _thinned, write_report

SIZE = 48


class Blank:
    """A back-end that finds nothing (implements `Backend`)."""

    name, precision = "torch", "fp32"

    def run(self, image: NDArray[np.uint8]) -> RawOutput:
        maps = np.zeros(image.shape[:3], np.float32)
        return RawOutput(maps, np.zeros(len(image), np.float32), image / np.float32(255))

    def close(self) -> None: ...


def _subject(thresholds: Thresholds | None) -> Subject:
    facts = {"method": "diffusionad", "profile": "<tiny>", "backend": "torch", "precision": "fp32", "seed": 0}
    size = {"macs": None, "params": 1_234_567}
    return Subject(FrameGraph(Blank(), Layout(SIZE, SIZE), 1), facts | size, None, thresholds)


def _scored(data: Path) -> list[Scored]:
    """As a perfect model would: the map is the mask."""
    found = []
    for image in list_any(data):
        anomaly_map = np.zeros((SIZE, SIZE), np.float32)
        if image.mask is not None:
            anomaly_map[:] = cv2.imread(str(image.mask), cv2.IMREAD_GRAYSCALE) / np.float32(255)
        mask = None if image.defect and image.mask is None else anomaly_map > 0
        found.append(Scored(image, anomaly_map, float(anomaly_map.max()), 0.01, mask))
    return found


class _Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.images: list[str] = []
        self.cells: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.images.append(dict(attrs)["src"] or "")

    def handle_data(self, data: str) -> None:
        self.cells.append(data)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_dataset(tmp_path / "data")


def _report(data: Path, folder: Path, thresholds: Thresholds | None = None) -> _Page:
    subject, scored = _subject(thresholds), _scored(data)
    page = write_report(folder, subject, scored, evaluate(subject, scored))
    return _Page(page.read_text())


def test_the_page_shows_the_figures_and_pictures_that_can_be_opened(data: Path, tmp_path: Path) -> None:
    page = _report(data, tmp_path / "report", Thresholds(0.5, 0.5, 1))
    assert page.images[:4] == ["roc.png", "precision-recall.png", "scores.png", "sizes.png"]
    assert {re.sub(r"-\d+\.png", "", name) for name in page.images[4:]} == {
        "good-highest",
        "defect-lowest",
        "defect-highest",
    }
    assert all(cv2.imread(str(tmp_path / "report" / name)) is not None for name in page.images)
    assert "hole" in page.cells
    assert page.cells[page.cells.index("image AUROC") + 1] == "1.0000"
    assert "diffusionad, profile <tiny>: evaluation" in page.cells  # escaped: no tag of that name


def test_each_defect_has_a_row_with_what_was_found_of_it(data: Path, tmp_path: Path) -> None:
    _report(data, tmp_path / "report")
    with (tmp_path / "report/regions.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    masks = {str(image.path): image.mask for image in list_any(data) if image.mask}
    assert {row["file"] for row in rows} == set(masks)
    for row in rows:
        mask = cv2.imread(str(masks[row["file"]]), cv2.IMREAD_GRAYSCALE)
        box = tuple(int(row[name]) for name in ("x", "y", "w", "h"))
        assert (row["label"], int(row["area"]), box) == ("hole", np.count_nonzero(mask), cv2.boundingRect(mask))
        assert float(row["overlap"]) == 1.0


def test_without_masks_there_are_curves_of_images_only_and_a_dash_for_pixels(data: Path, tmp_path: Path) -> None:
    for mask in (data / "ground_truth/hole").iterdir():
        mask.unlink()
    page = _report(data, tmp_path / "report")
    assert "roc.png" in page.images
    assert page.cells[page.cells.index("pixel AP") + 1] == "-"


def test_good_images_alone_give_a_page_without_curves(data: Path, tmp_path: Path) -> None:
    shutil.rmtree(data / "test/hole")
    page = _report(data, tmp_path / "report")
    assert page.images[0] == "scores.png"
    assert all(name.startswith("good-highest") for name in page.images[1:])


def test_without_a_pixel_of_a_defect_there_is_no_pixel_curve(
    data: Path, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    for mask in (data / "ground_truth/hole").iterdir():
        cv2.imwrite(str(mask), np.zeros((SIZE, SIZE), np.uint8))
    page = _report(data, tmp_path / "report")
    assert page.images[:3] == ["roc.png", "precision-recall.png", "scores.png"]
    assert not (tmp_path / "report/sizes.png").exists()
    assert not recwarn.list


def test_a_plain_folder_gets_the_images_with_the_highest_scores(data: Path, tmp_path: Path) -> None:
    page = _report(data / "test/hole", tmp_path / "report")
    assert page.images == [f"highest-{place:02d}.png" for place in range(3)]
    assert "Images with the highest scores" in page.cells
    assert all(cv2.imread(str(tmp_path / "report" / name)) is not None for name in page.images)


def _legend(draw: Callable[[Axes], None], path: Path) -> list[str]:
    """The labels of a plot that was drawn; they are as matplotlib takes them."""
    figure = Figure()
    axes = figure.add_subplot()
    draw(axes)
    figure.savefig(path)
    legend = axes.get_legend()
    assert legend is not None
    return [text.get_text() for text in legend.get_texts()]


@pytest.mark.parametrize("thresholds", [None, Thresholds(0.5, 0.5, 1)])
def test_every_class_is_in_the_legends_whatever_it_is_called(
    data: Path, tmp_path: Path, thresholds: Thresholds | None, recwarn: pytest.WarningsRecorder
) -> None:
    for name in ("cost $5^$", "_dirt", "\u5212\u75d5", "Löcher"):
        for folder in ("test", "ground_truth"):
            shutil.copytree(data / folder / "hole", data / folder / name)
    page = _report(data, tmp_path / "report", thresholds)
    assert not recwarn.list
    assert {"scores.png", "sizes.png"} <= set(page.images)
    subject, scored = _subject(thresholds), _scored(data)
    kinds = ["Löcher", "_dirt", r"cost \$5^\$", "hole", r"\u5212\u75d5"]
    found = _legend(lambda axes: _draw_scores(axes, subject, scored), tmp_path / "scores.png")
    assert sorted(found) == sorted([*kinds, "good", *(["threshold"] if thresholds else [])])
    masks = [s.mask for s in scored if s.mask is not None]
    ranking = rank(np.concatenate([m.ravel() for m in masks]), np.concatenate([s.anomaly_map.ravel() for s in scored]))
    sizes = _legend(lambda axes: _draw_sizes(axes, scored, regions(masks, ranking)), tmp_path / "sizes.png")
    assert sorted(sizes) == sorted(kinds)


def test_a_thinned_curve_keeps_its_ends() -> None:
    labels = np.arange(3 * POINTS) % 3 == 0
    ranking = rank(labels, np.arange(3 * POINTS, dtype=np.float64))
    tp, fp = _thinned(ranking)
    assert len(tp) == POINTS
    assert (tp[-1], fp[-1]) == (POINTS, 2 * POINTS)
