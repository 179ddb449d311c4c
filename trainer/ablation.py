"""The paper's comparisons on trained runs: every way to reconstruct, measured without training anew."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

from edge_ad.console import say
from edge_ad.core.preprocess import shown
from edge_ad.errors import DataError
from edge_ad.images import read_image, sha256_file, write_png
from edge_ad.pictures import Picture, captioned, sheet
from trainer.data.folder import TestImage, list_test
from trainer.data.look_over import look_over
from trainer.evaluate import Subject, evaluate, run_subject, score_images
from trainer.export import load_method
from trainer.methods.diffusionad.model import DiffusionAD
from trainer.methods.diffusionad.variants import Variant, compared, methods, scales, weights
from trainer.results import result_of_run, write_result
from trainer.run import CHECKPOINT, Run
from trainer.tables import measured_before

SHEETS = {"ways": methods, "scales": scales, "weights": weights}
SHOWN = 3  # images in a sheet


def measure(run: Run, data: Path, results: Path, kinds: Sequence[str], device: torch.device) -> None:
    """Measure what is compared on a run; what is among the results already is not measured again.

    Each result is written as soon as it is there: what is interrupted goes on where it was.

    Raises:
        DataError: the run has no checkpoint, or there are no test images, or none with a defect.
    """
    method, images, digest = _method(run), _images(data), sha256_file(run.path / CHECKPOINT)
    known = {r.variant for r in measured_before(results, data, run.config) if r.weights == digest}
    look_over(data, images)
    for variant in _wanted(compared(run.config.diffusion), kinds):
        if variant in known:
            continue
        say(f"{run.path}: {variant}")
        subject = run_subject(run, method.variant_graph(variant), device)
        evaluation = evaluate(subject, score_images(subject, images))
        write_result(results, result_of_run(run, data, evaluation, variant))


def draw(run: Run, data: Path, out: Path, kinds: Sequence[str], device: torch.device) -> None:
    """Draw what each way makes of one image of every class of defect: the pictures are of the data set, as it is.

    Pictures are named by the run's folder and its weights: runs of several seeds may have folders of the same name.

    Raises:
        DataError: as `measure`.
    """
    method, images = _method(run), _one_of_each(_images(data))
    own = f"{run.path.name}-{sha256_file(run.path / CHECKPOINT)[:8]}"
    out.mkdir(parents=True, exist_ok=True)
    for name, suite in SHEETS.items():
        variants = _wanted(suite(run.config.diffusion), kinds)
        if variants:
            subjects = {str(v): run_subject(run, method.variant_graph(v), device) for v in variants}
            rows = [picture for image in images for picture in _row(image, subjects)]
            write_png(out / f"reconstructions-{name}-{own}.png", sheet(rows, len(variants) + 1))


def _wanted(variants: Iterable[Variant], kinds: Sequence[str]) -> list[Variant]:
    return [variant for variant in variants if variant.kind in kinds]


def _method(run: Run) -> DiffusionAD:
    method = load_method(run)
    if not isinstance(method, DiffusionAD):
        raise DataError(f"{run.path}: the ablation is one of diffusionad, not of {run.config.method}")
    return method


def _images(data: Path) -> list[TestImage]:
    """The test images; refused before hours go into them where they can tell no way from another."""
    images = list_test(data)
    if not any(image.defect for image in images):
        raise DataError(f"no defects below {data / 'test'}: the ways are compared by what they find; add test/<defect>")
    return images


def _one_of_each(images: Sequence[TestImage]) -> list[TestImage]:
    """The first image of each class of defect, as many as a sheet shows."""
    first: dict[str, TestImage] = {}
    for image in images:
        if image.defect:
            first.setdefault(image.label, image)
    return list(first.values())[:SHOWN]


def _row(image: TestImage, subjects: dict[str, Subject]) -> list[Picture]:
    """An image and its reconstructions."""
    first, frame = next(iter(subjects.values())), read_image(image.path)
    seen = shown(frame, first.roi, first.graph.layout)[0, :, :, ::-1]
    pictures = [captioned(np.ascontiguousarray(seen), f"{image.label}/{image.path.name}")]
    for name, subject in subjects.items():
        reconstruction = subject.graph.run(frame, subject.roi).reconstruction()[:, :, ::-1]
        pictures.append(captioned(np.rint(reconstruction * 255).astype(np.uint8), name))
    return pictures
