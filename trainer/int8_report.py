"""What INT8 changes, in lines for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from edge_ad.bundle import Bundle, QuantisationSummary
from trainer.data.folder import TestImage
from trainer.evaluate import PIXEL_NAMES, Scored, evaluate, open_subject, score_images
from trainer.quantise import score_correlation
from trainer.results import result_of_bundle, write_result

FIGURES = ("image_auroc", "image_ap", *PIXEL_NAMES)


def summary_lines(summary: QuantisationSummary) -> Iterator[str]:
    """How the INT8 graph was made, and what it changes on the images of the choice."""
    total = summary.int8_layers + len(summary.fp32_layers)
    ranges = f"ranges by {summary.range_rule}, of {len(summary.images_sha256)} images"
    yield f"int8: {summary.int8_layers} of {total} convolutions; {ranges}"
    if summary.fp32_layers:
        yield f"stay in fp32: {', '.join(summary.fp32_layers)}"
    aupro = "" if summary.aupro_change is None else f", AUPRO {summary.aupro_change:+.4f}"
    yield (
        f"on good images and synthetic defects: score correlation {summary.score_correlation:.5f}, "
        f"image AUROC {summary.image_auroc_change:+.4f}, pixel AP {summary.pixel_ap_change:+.4f}{aupro}"
    )


def test_lines(bundle: Bundle, data: Path, images: Sequence[TestImage], results: Path | None = None) -> Iterator[str]:
    """The figures of FP32 and INT8 on the images of `data`, through the station's path; scores only without labels.

    Where there is a folder of `results`, it keeps both.
    """
    scored: dict[str, list[Scored]] = {}
    figures = {}
    for precision in ("fp32", "int8"):
        subject = open_subject(bundle.path, "onnxruntime", precision, None)
        scored[precision] = score_images(subject, images)
        figures[precision] = evaluate(subject, scored[precision])
        if results is not None:
            write_result(results, result_of_bundle(bundle.manifest, data, figures[precision]))
    yield f"on {data}: {len(images)} images     fp32    int8  change"
    for name in FIGURES:
        fp32, int8 = figures["fp32"][name], figures["int8"][name]
        if fp32 is not None:
            yield f"  {name:16} {fp32:.4f}  {int8:.4f} {int8 - fp32:+.4f}"
    fp32_scores, int8_scores = (np.array([s.score for s in scored[p]], np.float32) for p in ("fp32", "int8"))
    yield f"  score correlation {score_correlation(int8_scores, fp32_scores):.5f}"
