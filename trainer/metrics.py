"""Figures of merit, exact: every distinct score is a threshold, and ties are never broken by chance.

The image and the pixel figures use one ranking: sort once, then count positives and negatives at or above each
distinct score. AUROC is the trapezoid over these counts (Mann-Whitney, ties half), AP the step sum of
scikit-learn's `average_precision_score`, F1-max the best F1 over the thresholds. AUPRO is the mean over defects of
the share of the defect that is marked, integrated over the false-positive rate of all normal pixels (P. Bergmann
et al., "The MVTec Anomaly Detection Dataset", IJCV 129, 2021, section 5.2).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_ad.errors import DataError

POINTING_TOLERANCE = 15  # pixels, as in the paper


@dataclass(frozen=True, slots=True)
class ImageMetrics:
    """Fractions in 0..1; None where there are only good or only defective images."""

    auroc: float | None
    ap: float | None
    f1_max: float | None


@dataclass(frozen=True, slots=True)
class PixelMetrics:
    """Fractions in 0..1; None where no pixel is a defect or all are. `aupro` to FPR 0.3, `aupro_005` to 0.05."""

    auroc: float | None
    ap: float | None
    f1_max: float | None
    aupro: float | None
    aupro_005: float | None


@dataclass(frozen=True, slots=True)
class Ranking:
    """Counts at each distinct score, highest first.

    Attributes:
        order: (M,) indices of all items by descending score.
        ends: (T,) position in `order` of the last item of each distinct score.
        tp: (T,) positives with a score at or above the threshold.
        fp: (T,) negatives likewise.
    """

    order: NDArray[np.intp]
    ends: NDArray[np.intp]
    tp: NDArray[np.int64]
    fp: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Region:
    """One 8-connected defect.

    Attributes:
        image: index of its image.
        x, y, w, h: its bounding box, pixels of the mask.
        area: its pixels.
        overlap: share of it that is marked, averaged over the false-positive rates up to a limit, 0..1. AUPRO to that
            limit is the mean of it over all defects.
    """

    image: int
    x: int
    y: int
    w: int
    h: int
    area: int
    overlap: float


def image_metrics(labels: NDArray[np.bool_], scores: NDArray[np.floating]) -> ImageMetrics:
    """The image-level figures.

    Args:
        labels: (N,) True for a defect.
        scores: (N,) higher is more anomalous.

    Raises:
        DataError: a score is not finite.
    """
    if labels.ndim != 1 or labels.shape != scores.shape:
        raise ValueError(f"labels {labels.shape} and scores {scores.shape} must be (N,) both")
    if not _has_both(labels):
        return ImageMetrics(None, None, None)
    ranking = rank(labels, scores)
    return ImageMetrics(auroc(ranking), average_precision(ranking), f1_max(ranking))


def pixel_metrics(masks: Iterable[NDArray[np.bool_]], maps: Iterable[NDArray[np.float32]]) -> PixelMetrics:
    """The pixel-level figures over all pixels of all images; good images have an empty mask.

    Args:
        masks: (H, W) of each image, True on a defect; sizes may differ.
        maps: (H, W) of each image, its anomaly map.

    Raises:
        DataError: a map holds a value that is not finite.
    """
    masks, maps = list(masks), list(maps)
    shapes = [[image.shape for image in images] for images in (masks, maps)]
    if shapes[0] != shapes[1] or any(len(shape) != 2 for shape in shapes[0]):
        raise ValueError(f"masks {shapes[0][:1]} ... and maps {shapes[1][:1]} ... must be (H, W) both, for each image")
    labels = np.concatenate([mask.ravel() for mask in masks])
    if not _has_both(labels):
        return PixelMetrics(None, None, None, None, None)
    ranking = rank(labels, np.concatenate([anomaly_map.ravel() for anomaly_map in maps]))
    overlap = region_overlap(masks, ranking)
    return PixelMetrics(
        auroc(ranking),
        average_precision(ranking),
        f1_max(ranking),
        aupro(ranking, overlap, 0.3),
        aupro(ranking, overlap, 0.05),
    )


def rank(labels: NDArray[np.bool_], scores: NDArray[np.floating]) -> Ranking:
    """Sort (M,) items by score and count at each distinct score.

    Raises:
        DataError: a score is not finite.
    """
    if not np.isfinite(scores).all():
        raise DataError("a score or an anomaly map holds a value that is not finite: the model is broken, train again")
    order = np.argsort(scores)[::-1]
    sorted_scores = scores[order]
    ends = np.append(np.flatnonzero(sorted_scores[1:] != sorted_scores[:-1]), scores.size - 1)
    tp = np.cumsum(labels[order], dtype=np.int64)[ends]
    return Ranking(order, ends, tp, ends + 1 - tp)


def auroc(ranking: Ranking) -> float:
    """Area under the ROC curve: the chance that a positive outranks a negative, ties half. Exact in integers."""
    tp, fp = ranking.tp, ranking.fp
    doubled = int(tp[0] * fp[0]) + int(np.sum((fp[1:] - fp[:-1]) * (tp[1:] + tp[:-1])))
    return doubled / (2 * int(tp[-1]) * int(fp[-1]))


def average_precision(ranking: Ranking) -> float:
    """Sum over the thresholds of (recall step) x precision."""
    steps = np.diff(ranking.tp, prepend=0)
    return float(np.sum(steps * (ranking.tp / (ranking.tp + ranking.fp))) / ranking.tp[-1])


def f1_max(ranking: Ranking) -> float:
    """The largest F1 = 2 TP / (2 TP + FP + FN) over the thresholds."""
    return float(np.max(2 * ranking.tp / (ranking.tp + ranking.fp + ranking.tp[-1])))


def region_overlap(masks: Iterable[NDArray[np.bool_]], ranking: Ranking) -> NDArray[np.float64]:
    """Per-region overlap: the marked share of each 8-connected defect, averaged over defects, at each threshold.

    Args:
        masks: (H, W) of each image, with at least one defect pixel in all.
        ranking: of the pixels of all images, in their order.

    Returns:
        (T,) in 0..1, ascending. Each defect pixel adds 1 / (pixels of its defect x number of defects).
    """
    weights = np.concatenate([_weights(mask).ravel() for mask in masks])
    overlap: NDArray[np.float64] = np.cumsum(weights[ranking.order])[ranking.ends]
    overlap /= overlap[-1]  # the last is the number of defects, with the same rounding as the others
    return overlap


def _weights(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """1 / (pixels of the defect) at each pixel of one, 0 elsewhere; (H, W)."""
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    areas = np.bincount(labels.ravel(), minlength=count)
    weight = np.zeros(mask.shape, np.float64)
    weight[mask] = 1 / areas[labels[mask]]
    return weight


def aupro(ranking: Ranking, overlap: NDArray[np.float64], fpr_limit: float) -> float:
    """Area under (FPR, per-region overlap) from FPR 0 to `fpr_limit`, divided by the limit.

    The last segment is cut at the limit by linear interpolation.

    Args:
        ranking: of all pixels.
        overlap: (T,) from `region_overlap`.
        fpr_limit: above 0, at most 1.
    """
    inside = int(np.searchsorted(ranking.fp, fpr_limit * ranking.fp[-1], side="right"))
    stop = inside + 1  # one point beyond the limit, which the interpolation needs
    fpr = np.concatenate([[0.0], ranking.fp[:stop] / ranking.fp[-1]])
    pro = np.concatenate([[0.0], overlap[:stop]])
    if fpr[-1] > fpr_limit:
        pro[-1] = pro[-2] + (pro[-1] - pro[-2]) * (fpr_limit - fpr[-2]) / (fpr[-1] - fpr[-2])
        fpr[-1] = fpr_limit
    return float(np.sum(np.diff(fpr) * (pro[1:] + pro[:-1]) / 2) / fpr_limit)


def regions(masks: Sequence[NDArray[np.bool_]], ranking: Ranking, fpr_limit: float = 0.3) -> list[Region]:
    """What each defect has of the area that `aupro` measures, the least found first.

    Args:
        masks: (H, W) of each image, with at least one defect pixel and one normal pixel in all.
        ranking: of the pixels of all images, in their order.
        fpr_limit: above 0, at most 1.
    """
    fpr = np.concatenate([[0.0], ranking.fp / ranking.fp[-1]])
    # A pixel is marked from its threshold on; the trapezoid lets it in evenly since the threshold before.
    opens, shuts = fpr[:-1], fpr[1:]
    within = np.clip(fpr_limit - opens, 0, shuts - opens)
    step = np.maximum(shuts - opens, np.finfo(np.float64).tiny)
    marked = (within * within / (2 * step) + np.maximum(fpr_limit - shuts, 0)) / fpr_limit

    defect = np.concatenate([mask.ravel() for mask in masks])
    at = np.flatnonzero(defect[ranking.order])
    share = np.zeros(defect.size)
    share[ranking.order[at]] = marked[np.searchsorted(ranking.ends, at)]
    found, start = [], 0
    for image, mask in enumerate(masks):
        count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
        total = np.bincount(labels.ravel(), share[start : start + mask.size], minlength=count)
        start += mask.size
        for label in range(1, count):
            x, y, w, h, area = (int(value) for value in stats[label])
            found.append(Region(image, x, y, w, h, area, float(total[label]) / area))
    return sorted(found, key=lambda region: region.overlap)


def pointing(anomaly_map: NDArray[np.float32], mask: NDArray[np.bool_]) -> float:
    """Whether the highest pixel lies on a defect or at most POINTING_TOLERANCE away: the pointing game.

    (J. Zhang et al., "Top-Down Neural Attention by Excitation Backprop", IJCV 126, 2018, section 4.2.) An image may
    rank high for something else than its defect; this tells.

    Args:
        anomaly_map: (H, W).
        mask: (H, W), True on a defect; of some pixels at least.

    Returns:
        1 or 0; of pixels that share the maximum, the share that do.
    """
    away = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return float((away[anomaly_map == anomaly_map.max()] <= POINTING_TOLERANCE).mean())


def area_mask(mask: NDArray[np.uint8] | NDArray[np.bool_], height: int, width: int) -> NDArray[np.bool_]:
    """Resize a mask so that a pixel is defect where at least half of its area is; no defect vanishes.

    A defect (8-connected in the original) that touches no pixel of the result keeps the pixel it covers most, the
    first in reading order on a tie.

    Args:
        mask: (H, W); above 0 is defect.
        height, width: of the result, pixels.

    Returns:
        (height, width) bool.
    """
    defect = (mask > 0).astype(np.uint8)
    rows, cols = _overlaps(defect.shape[0], height), _overlaps(defect.shape[1], width)
    result: NDArray[np.bool_] = 2 * (rows @ defect @ cols.T) >= defect.size  # coverage in units of 1 / (H x W), exact
    count, labels, stats, _ = cv2.connectedComponentsWithStats(defect, connectivity=8)
    for region in range(1, count):
        x, y, w, h = stats[region, :4]
        own = labels[y : y + h, x : x + w] == region
        coverage = rows[:, y : y + h] @ own @ cols[:, x : x + w].T
        if not result[coverage > 0].any():
            result[np.unravel_index(np.argmax(coverage), coverage.shape)] = True
    return result


def _overlaps(source: int, target: int) -> NDArray[np.float64]:
    """(target, source) overlaps of two rows of pixels over the same length; whole numbers, each row sums to source.

    A source pixel is `target` units long and a target pixel `source` units, so nothing is rounded.
    """
    t, s = np.arange(target)[:, None], np.arange(source)[None, :]
    shared = np.minimum((t + 1) * source, (s + 1) * target) - np.maximum(t * source, s * target)
    return np.asarray(np.maximum(shared, 0), dtype=np.float64)


def _has_both(labels: NDArray[np.bool_]) -> bool:
    return bool(labels.any()) and not bool(labels.all())
