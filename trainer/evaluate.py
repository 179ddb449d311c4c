"""Measure a run or a bundle on test images, as docs/contracts fix it: figures, and a CSV of scores."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edge_ad.backends.base import OPENERS, open_backend
from edge_ad.bundle import MANIFEST, open_bundle
from edge_ad.config import BackendConfig, Precision, default_store
from edge_ad.console import complain, say, tracked
from edge_ad.core.decision import decide
from edge_ad.errors import ConfigError, DataError
from edge_ad.frames import FrameGraph, frame_graph
from edge_ad.images import is_grey, list_images, read_image, refuse_mixed
from edge_ad.names import printable
from edge_ad.records import RawOutput, Roi, Thresholds
from edge_ad.thresholds import CalibrationRecord, Service, in_force, why_not
from trainer.data.folder import TestImage, list_test, load_mask
from trainer.data.look_over import look_over
from trainer.export import load_method, run_torch
from trainer.metrics import area_mask, image_metrics, pixel_metrics, pointing
from trainer.precision import keep_fp32
from trainer.run import Run, listed_paths, open_run

UNLABELLED = "unlabelled"  # an image of a plain folder: it gets a score, but no metric counts it


@dataclass(frozen=True, slots=True)
class Subject:
    """What is measured.

    Attributes:
        graph: runs on whole images.
        facts: method, profile, backend, precision, seed, macs, params of the evaluation JSON.
        roi: region of the images that the graph sees.
        thresholds: the calibration in force, where there is one that applies.
        trained_on_grey: whether the training images were grey; None where that is not known.
    """

    graph: FrameGraph
    facts: dict[str, Any]
    roi: Roi | None
    thresholds: Thresholds | None
    trained_on_grey: bool | None = None


@dataclass(frozen=True, slots=True)
class Scored:
    """One image and what the graph said about it; its reconstruction is not kept: it is three times as large.

    Attributes:
        image: the image.
        anomaly_map: (h, w) in 0..1, padding left out.
        score: raw units.
        seconds: the engine's time.
        mask: (h, w), in the pixels of the map, of a good image all false; None where a defect has none.
    """

    image: TestImage
    anomaly_map: NDArray[np.float32]
    score: float
    seconds: float
    mask: NDArray[np.bool_] | None


class TorchBackend:
    """A run's graph in torch, in FP32 (implements `Backend`)."""

    name = "torch"
    precision: Precision = "fp32"

    def __init__(self, graph: torch.nn.Module, device: torch.device) -> None:
        keep_fp32()
        self._graph = graph.eval().to(device)
        self._device = device

    def run(self, image: NDArray[np.uint8]) -> RawOutput:
        """See `Backend.run`."""
        return run_torch(self._graph, torch.from_numpy(image).to(self._device))

    def close(self) -> None:
        """See `Backend.close`."""


def open_subject(path: Path, backend: str | None, precision: str, store: Path | None) -> Subject:
    """Open a bundle, or a run, which has FP32 only and no calibration.

    Raises:
        EdgeAdError: neither; or it cannot be used; or the store that is given has no record in force.
    """
    if (path / MANIFEST).exists():
        return _open_bundle(path, backend or "onnxruntime", precision, store)
    if backend not in (None, "torch"):
        raise ConfigError(f"{path} is a run, which is measured in torch: export it, evaluate the bundle on {backend}")
    if store is not None:
        raise ConfigError(f"--store is for bundles, {path} is none: export the run, calibrate and evaluate its bundle")
    subject = _open_run(path)
    if precision != subject.graph.backend.precision:
        raise DataError(
            f"{path} is a run, which has {subject.graph.backend.precision} only: export it, evaluate the bundle"
        )
    return subject


def _open_run(path: Path) -> Subject:
    run = open_run(path)
    subject = run_subject(run, load_method(run).graph(), torch.device("cpu"))
    return dataclasses.replace(subject, trained_on_grey=_trained_on_grey(run))


def _trained_on_grey(run: Run) -> bool | None:
    """As one of the training images says, for all are of a kind; None where all have gone."""
    for path in listed_paths(run):
        with contextlib.suppress(DataError):  # gone or damaged since: what is measured does not need it
            return is_grey(path)
    return None


def run_subject(run: Run, graph: torch.nn.Module, device: torch.device) -> Subject:
    """A graph on the weights of a run."""
    config = run.config
    facts = {
        "method": config.method,
        "profile": config.profile,
        "backend": "torch",
        "precision": "fp32",
        "seed": run.seed,
        "macs": None,  # counted from the exported graph
        "params": sum(parameter.numel() for parameter in graph.parameters()),
    }
    roi = config.data.roi_record()
    frames = FrameGraph(TorchBackend(graph, device), config.input.frame_layout(), config.top_k)
    return Subject(frames, facts, roi, None)


def _open_bundle(path: Path, backend: str, precision: str, store: Path | None) -> Subject:
    if backend not in OPENERS:
        raise ConfigError(f"no backend {backend!r}: choose one of {', '.join(OPENERS)}")
    bundle = open_bundle(path)
    config = BackendConfig.model_validate({"name": backend, "precision": precision})
    manifest = bundle.manifest
    facts = {
        "method": manifest.method,
        "profile": manifest.profile,
        "backend": backend,
        "precision": config.precision,
        "seed": manifest.training.seed,
        "macs": manifest.frame_macs,
        "params": manifest.params,
    }
    record = _record(path, store, bundle.digest, config.precision)
    trained_roi = manifest.training.roi.record() if manifest.training.roi else None
    roi = record.roi_record() if record else trained_roi
    thresholds = record.thresholds() if record else None
    return Subject(frame_graph(open_backend(bundle, config), manifest), facts, roi, thresholds)


def _record(bundle: Path, store: Path | None, digest: str, precision: str) -> CalibrationRecord | None:
    """The calibration in force; None where there is none beside the bundle, or where it does not apply, which is noted.

    Raises:
        ConfigError: the store that is given has none.
        CalibrationError: it cannot be read.
    """
    record = in_force(store or default_store(bundle))
    if record is None:
        if store is not None:
            raise ConfigError(f"--store {store} holds no calibration in force: edge-ad-calibrate fit makes one")
        return None
    reason = why_not(record, Service(digest, precision, record.roi_record(), camera=None))
    if reason is not None:
        complain(f"note: calibration {record.number} in {store or default_store(bundle)} does not apply: {reason}")
        return None
    return record


def list_any(data: Path) -> list[TestImage]:
    """The test images of an MVTec layout, or the images of a plain folder as unlabelled ones.

    Raises:
        DataError: no images, an unreadable one, grey mixed with colour, or a mask that cannot be used.
    """
    if not (data / "test").is_dir():
        paths = list_images(data)
        refuse_mixed(paths)
        return [TestImage(path, UNLABELLED, None) for path in paths]
    images = list_test(data)
    look_over(data, images)
    return images


def score_images(subject: Subject, images: Sequence[TestImage]) -> list[Scored]:
    """Run every image through the daemon's own path.

    Raises:
        DataError: an unreadable image or mask, a mask of another size than its image, or a ROI that leaves one.
    """
    _note_other_kind(subject, images)
    scored = []
    for image in tracked(images, "evaluate"):
        frame = read_image(image.path)
        drawn = load_mask(image, frame.shape[:2], subject.roi) if image.mask else None
        subject.graph.load(frame, subject.roi)
        started = time.perf_counter()
        output = subject.graph.run_loaded()
        seconds = time.perf_counter() - started
        anomaly_map = output.anomaly_map().copy()
        mask = _mask(image, drawn, anomaly_map.shape)
        scored.append(Scored(image, anomaly_map, output.score(), seconds, mask))
    return scored


def _note_other_kind(subject: Subject, images: Sequence[TestImage]) -> None:
    kinds = {True: "grey", False: "colour"}
    trained, first = subject.trained_on_grey, images[0].path
    if trained is not None and is_grey(first) is not trained:
        complain(
            f"note: the training images are {kinds[trained]}, {first} is {kinds[not trained]}: scores may come of that "
            "alone; convert one kind"
        )


def _mask(image: TestImage, drawn: NDArray[np.bool_] | None, shape: tuple[int, ...]) -> NDArray[np.bool_] | None:
    """The mask in the pixels of the map."""
    if drawn is not None:
        return area_mask(drawn, *shape)
    return None if image.defect else np.zeros(shape, bool)


def is_labelled(scored: Scored) -> bool:
    """Whether it is known if the image is good."""
    return scored.image.label != UNLABELLED


def metrics(scored: Sequence[Scored]) -> dict[str, Any]:
    """The figures of the evaluation JSON: fractions in 0..1, None where the images cannot give them."""
    labelled = [s for s in scored if is_labelled(s)]
    labels = np.array([s.image.defect for s in labelled], bool)
    overall = image_metrics(labels, np.array([s.score for s in labelled]))
    figures: dict[str, Any] = {"n_good": int((~labels).sum()), "n_defect": int(labels.sum())}
    figures |= {f"image_{name}": value for name, value in dataclasses.asdict(overall).items()}
    pixel = _pixel_figures(labelled)
    figures |= {name: pixel.get(name) for name in PIXEL_NAMES}
    good = [s for s in labelled if not s.image.defect]
    figures["per_defect"] = {
        name: _class_figures(good, [s for s in labelled if s.image.label == name])
        for name in sorted({s.image.label for s in labelled if s.image.defect})
    }
    return figures


PIXEL_NAMES = ("pixel_auroc", "pixel_ap", "pixel_f1_max", "aupro", "aupro_005")


def _class_figures(good: list[Scored], defects: list[Scored]) -> dict[str, Any]:
    """Figures of one defect class against all good images."""
    subset = [*good, *defects]
    found = image_metrics(np.array([s.image.defect for s in subset], bool), np.array([s.score for s in subset]))
    pixel = _pixel_figures(subset)
    return {"n": len(defects), "image_auroc": found.auroc, "image_ap": found.ap} | {
        **{name: pixel.get(name) for name in ("pixel_auroc", "pixel_ap", "aupro")},
        "pointing": _pointing(defects),
    }


def _pointing(defects: Sequence[Scored]) -> float | None:
    """The mean over images of one class; None where one has no mask, or none a pixel of a defect."""
    masks = masks_of(defects) or []
    hits = [pointing(s.anomaly_map, mask) for s, mask in zip(defects, masks, strict=False) if mask.any()]
    return float(np.mean(hits)) if hits else None


def _pixel_figures(scored: Sequence[Scored]) -> dict[str, float | None]:
    """Figures over all pixels; empty where a defect image has no mask."""
    masks = masks_of(scored)
    if masks is None or not any(s.image.defect for s in scored):
        return {}
    found = pixel_metrics(masks, [s.anomaly_map for s in scored])
    return {
        "pixel_auroc": found.auroc,
        "pixel_ap": found.ap,
        "pixel_f1_max": found.f1_max,
        "aupro": found.aupro,
        "aupro_005": found.aupro_005,
    }


def masks_of(scored: Sequence[Scored]) -> list[NDArray[np.bool_]] | None:
    """The masks of all these images; None where one has none."""
    masks = [s.mask for s in scored if s.mask is not None]
    return masks if len(masks) == len(scored) else None


def latency(scored: Sequence[Scored]) -> dict[str, float]:
    """Median and 95th percentile of the engine's time, N = 1, milliseconds; the first run is warm-up."""
    times = np.array([s.seconds for s in scored[1:] or scored]) * 1e3
    return {"p50": round(float(np.percentile(times, 50)), 3), "p95": round(float(np.percentile(times, 95)), 3)}


def verdict(scored: Scored, thresholds: Thresholds | None) -> str:
    """What the station would say; empty where it is uncalibrated."""
    if thresholds is None:
        return ""
    height, width = scored.anomaly_map.shape
    found = decide(scored.score, scored.anomaly_map, thresholds, Roi(0, 0, width, height), 1, 1)
    return found.verdict


def write_scores(path: Path, scored: Sequence[Scored], thresholds: Thresholds | None) -> None:
    """One CSV row an image: file, label, score, verdict."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file", "label", "score", "verdict"])
        for s in scored:
            writer.writerow([printable(s.image.path), s.image.label, repr(s.score), verdict(s, thresholds)])


def evaluate(subject: Subject, scored: Sequence[Scored]) -> dict[str, Any]:
    """The evaluation JSON."""
    facts = dict(subject.facts)
    size = {name: facts.pop(name) for name in ("macs", "params")}
    return facts | metrics(scored) | size | {"latency_ms": latency(scored)}


def say_figures(result: Mapping[str, Any]) -> None:
    """Say the main figures of an evaluation JSON."""
    if not result["n_good"] + result["n_defect"]:
        say("no figures: the images have no labels; --scores FILE writes the score of each")
        return
    for name in ("image_auroc", "image_ap", *PIXEL_NAMES):
        value = result[name]
        say(f"{name:13} {'-' if value is None else f'{value:.4f}'}")
    say(f"{'images':13} {result['n_good']} good, {result['n_defect']} defect")
