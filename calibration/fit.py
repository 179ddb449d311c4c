"""One calibration on site, from folders of good images to a stored record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from calibration import histogram
from calibration.scores import GoodImage, GoodScores, distinct, held_out, refuse_training_images, score_images
from calibration.threshold import Fit, check_wish, guarantee, percent
from calibration.threshold import fit as fit_thresholds
from edge_ad import calibration_store as store
from edge_ad.backends.base import open_backend
from edge_ad.bundle import Bundle
from edge_ad.calibration_store import Change
from edge_ad.config import BackendConfig, RoiConfig
from edge_ad.errors import CalibrationError
from edge_ad.images import list_images, refuse_mixed
from edge_ad.thresholds import CalibrationRecord

HIGHEST = 5  # images that a person is to look at


@dataclass(frozen=True, slots=True)
class Request:
    """What to calibrate, on what, and how sure to be.

    Attributes:
        bundle: the verified bundle.
        store: the calibration store to write to.
        good: folders of images of known-good parts.
        only_held_out: use of these only what training held out for calibration.
        false_alarm_rate, confidence: the wish, fractions.
        backend: the engine, as the daemon will run it.
        camera: the camera's name, for the record.
        roi: in pixels of the images, as the daemon will apply it.
        why_not: why the daemon would not apply a record, or None if it would.
        by: who asks.
    """

    bundle: Bundle
    store: Path
    good: tuple[Path, ...]
    only_held_out: bool
    false_alarm_rate: float
    confidence: float
    backend: BackendConfig
    camera: str | None
    roi: RoiConfig | None
    why_not: Callable[[CalibrationRecord], str | None]
    by: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a calibration led to.

    Attributes:
        record: as stored, in force.
        fit: behind it.
        scores: of the good images.
        highest: the images with the highest scores and these, the highest first; at most HIGHEST.
        copies: how many files were copies of others.
        meanwhile: what somebody else has put in force while the images were scored, and this has replaced.
    """

    record: CalibrationRecord
    fit: Fit
    scores: GoodScores
    highest: tuple[tuple[Path, float], ...]
    copies: int
    meanwhile: Change | None


def calibrate(request: Request) -> Outcome:
    """Score the good images, choose the thresholds, store them and put them in force.

    Everything that can be refused is refused before the long work, and nothing is stored before it is done.

    Raises:
        UsageError: the images, the wish or the store cannot be used, or the daemon would not apply the result; the
            message says which and why.
        BackendError: the engine cannot run the bundle.
    """
    check_wish(request.false_alarm_rate, request.confidence)
    paths = [path for folder in request.good for path in list_images(folder)]
    refuse_mixed(paths)
    different = distinct(paths)
    images = _usable(different, request)
    promise = guarantee(len(images), request.false_alarm_rate, request.confidence)
    draft = _draft(request, images, promise.rank)
    _refuse_idle(draft, request)
    with store.prepared(request.store, draft) as seen:
        scores = _scores(images, request)
        fit = fit_thresholds(scores.scores, scores.kth_largest, request.false_alarm_rate, request.confidence)
        title = f"{len(images)} good images, at most {percent(request.false_alarm_rate)} false alarms"
        picture = histogram.picture(scores.scores, fit.image_threshold, title)
        fitted = {"image_threshold": fit.image_threshold, "pixel_threshold": fit.pixel_threshold}
        record = store.add(request.store, draft.model_copy(update=fitted), picture)
    replaced = store.change_before(request.store, record.number)
    meanwhile = replaced if replaced != seen else None
    return Outcome(record, fit, scores, _highest(images, scores), len(paths) - len(different), meanwhile)


def _usable(images: list[GoodImage], request: Request) -> list[GoodImage]:
    if request.only_held_out:
        return held_out(images, request.bundle.manifest)
    refuse_training_images(images, request.bundle.manifest)
    return images


def _scores(images: list[GoodImage], request: Request) -> GoodScores:
    roi = request.roi.record() if request.roi is not None else None
    backend = open_backend(request.bundle, request.backend)
    try:
        return score_images(images, backend, request.bundle.manifest, roi)
    finally:
        backend.close()


def _highest(images: list[GoodImage], scores: GoodScores) -> tuple[tuple[Path, float], ...]:
    order = np.argsort(-scores.scores, kind="stable")[:HIGHEST]
    return tuple((images[i].path, float(scores.scores[i])) for i in order)


def _refuse_idle(draft: CalibrationRecord, request: Request) -> None:
    """A record in force that the daemon does not apply would leave the station uncalibrated."""
    reason = request.why_not(draft)
    if reason is not None:
        raise CalibrationError(
            f"the station would not apply this calibration: {reason}; leave the option out, or change the station"
        )


def _draft(request: Request, images: list[GoodImage], rank: int) -> CalibrationRecord:
    """All of the record that is known before the scores."""
    return CalibrationRecord(
        schema="edge-ad/calibration",
        number=1,  # the store gives the real one and the time, and the scores give the thresholds
        image_threshold=0.0,
        pixel_threshold=0.0,
        false_alarm_rate=request.false_alarm_rate,
        confidence=request.confidence,
        rank=rank,
        n_images=len(images),
        images_sha256=tuple(image.sha256 for image in images),
        bundle=request.bundle.digest,
        backend=request.backend.name,
        precision=request.backend.precision,
        camera=request.camera,
        roi=request.roi,
        created_at="",
        created_by=request.by,
    )
