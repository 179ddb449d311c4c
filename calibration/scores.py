"""Good images through the same path as the daemon's: read, prepare, run, stitch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_ad.backends.base import Backend
from edge_ad.bundle import Manifest
from edge_ad.console import tracked
from edge_ad.errors import BackendError, CalibrationError, DataError
from edge_ad.frames import FrameGraph, frame_graph
from edge_ad.images import read_image, sha256_file
from edge_ad.records import Roi


@dataclass(frozen=True, slots=True)
class GoodImage:
    """A file of a known-good part; `sha256` of its bytes tells copies."""

    path: Path
    sha256: str


@dataclass(frozen=True, slots=True)
class GoodScores:
    """What the graph says about n good images.

    Attributes:
        scores: (n,) float32, raw units.
        kth_largest: (n,) float32, the k-th largest pixel of each anomaly map, k as in the score; with tiles, the
            largest of theirs.
    """

    scores: NDArray[np.float32]
    kth_largest: NDArray[np.float32]


def distinct(paths: Sequence[Path]) -> list[GoodImage]:
    """The images in the given order, each content once: a copy is not an independent sample."""
    first: dict[str, GoodImage] = {}
    for path in paths:
        image = GoodImage(path, sha256_file(path))
        first.setdefault(image.sha256, image)
    return list(first.values())


def refuse_training_images(images: Sequence[GoodImage], manifest: Manifest) -> None:
    """Refuse images that the network was trained on: it knows them, so their scores are too low.

    Raises:
        CalibrationError: saying how many there are and naming the first.
    """
    trained_on = set(manifest.training.images_sha256)
    offending = [image.path for image in images if image.sha256 in trained_on]
    if offending:
        raise CalibrationError(
            f"the bundle was trained on {len(offending)} of {len(images)} images, {offending[0]} among them: "
            "calibrate on images it has never seen (--held-out picks those that training held out)"
        )


def held_out(images: Sequence[GoodImage], manifest: Manifest) -> list[GoodImage]:
    """Those of the images that training held out for calibration.

    Raises:
        CalibrationError: there is none.
    """
    known = set(manifest.training.calibration_sha256)
    kept = [image for image in images if image.sha256 in known]
    if not kept:
        raise CalibrationError(
            f"none of the {len(images)} images is in the calibration split of the bundle ({len(known)} images): "
            "give the folder that it was trained from, or leave out --held-out"
        )
    return kept


def score_images(images: Sequence[GoodImage], backend: Backend, manifest: Manifest, roi: Roi | None) -> GoodScores:
    """Score good images one by one, as the daemon does.

    Raises:
        DataError: an image cannot be read, or the ROI leaves it; the message names the file.
        BackendError: the engine failed, or gave a number that is not finite.
    """
    graph = frame_graph(backend, manifest)
    rows = [score_image(image.path, graph, roi) for image in tracked(images, "scoring")]
    scores, kth_largest = np.asarray(rows, dtype=np.float32).reshape(-1, 2).T
    return GoodScores(scores, kth_largest)


def score_image(path: Path, graph: FrameGraph, roi: Roi | None) -> tuple[float, float]:
    """The score of one image and the k-th largest pixel of its anomaly map."""
    frame = read_image(path)
    try:
        graph.load(frame, roi)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    output, backend = graph.run_loaded(), graph.backend
    score, kth = output.score(), output.kth_largest()
    if not np.isfinite([score, kth]).all():
        raise BackendError(f"{backend.name}/{backend.precision} gave the score {score} for {path}: run `edge-ad check`")
    return score, kth
