"""From the graph's output to a verdict and the regions behind it."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_ad.records import Decision, Region, Roi, Thresholds

UNCALIBRATED = "uncalibrated"
MODEL_FAULT = "model_fault"


def not_inspected(reason: str, score: float | None = None) -> Decision:
    """The decision on a part that nobody may take for good."""
    return Decision("not_inspected", reason, score, threshold=None)


def decide(
    score: float,
    anomaly_map: NDArray[np.float32],
    thresholds: Thresholds | None,
    roi: Roi,
    max_regions: int,
    min_area_px: int,
) -> Decision:
    """Judge one image: a defect if and only if its score is above the image threshold.

    Args:
        score: raw units.
        anomaly_map: (H, W), 0..1, in pixels of the graph.
        thresholds: the calibration in force, or None.
        roi: the part of the full frame that the map shows, in full-frame pixels.
        max_regions: largest number of regions reported.
        min_area_px: smaller regions are left out, in full-frame pixels; a defect keeps at least its largest.

    Returns:
        "ok" or "defect"; "not_inspected" without thresholds, or where the model gave no finite number.
    """
    if not (np.isfinite(score) and np.isfinite(anomaly_map).all()):
        return not_inspected(MODEL_FAULT)
    if thresholds is None:
        return not_inspected(UNCALIBRATED, score)
    if score <= thresholds.image:
        return Decision("ok", None, score, thresholds.image, calibration=thresholds.record)
    regions = find_regions(anomaly_map, thresholds.pixel, roi, max_regions, min_area_px)
    return Decision("defect", None, score, thresholds.image, regions, thresholds.record)


def find_regions(
    anomaly_map: NDArray[np.float32], threshold: float, roi: Roi, max_regions: int, min_area_px: int
) -> tuple[Region, ...]:
    """The 8-connected sets of pixels above a threshold, largest first; never empty.

    The score is a mean of map pixels and the pixel threshold is at most the image threshold, so a defect has a pixel
    above it. The mean is rounded in float32, however, and can exceed the largest pixel by a unit in the last place:
    then the largest pixels themselves are the region.
    """
    marked = anomaly_map > threshold
    if not marked.any():
        marked = anomaly_map == anomaly_map.max()
    left, top, width, height = cv2.boundingRect(marked.view(np.uint8))  # most defects are small, and so is what is left
    box = np.s_[top : top + height, left : left + width]
    # 8-connected sets lie two pixels apart; with 16 bits for a label OpenCV takes less than half the time.
    most = -(-height // 2) * -(-width // 2)
    ltype = cv2.CV_16U if most < 1 << 16 else cv2.CV_32S
    _, labels, stats, _ = cv2.connectedComponentsWithStats(marked[box].view(np.uint8), connectivity=8, ltype=ltype)
    areas = stats[:, cv2.CC_STAT_AREA] * _pixel_area(anomaly_map, roi)  # full-frame pixels; label 0 is the background
    largest_first = 1 + np.argsort(-areas[1:], kind="stable")
    kept = [label for label in largest_first[:max_regions] if areas[label] >= min_area_px] or largest_first[:1]
    peaks = [_peak(anomaly_map[box], labels, int(label), stats[label]) for label in kept]
    placed = np.add(stats, (left, top, 0, 0, 0))
    return tuple(_region(anomaly_map, placed[label], peak, roi) for label, peak in zip(kept, peaks, strict=True))


def _pixel_area(anomaly_map: NDArray[np.float32], roi: Roi) -> float:
    return roi.w * roi.h / anomaly_map.size


def _peak(anomaly_map: NDArray[np.float32], labels: cv2.typing.MatLike, label: int, stats: cv2.typing.MatLike) -> float:
    left, top, width, height, _ = (int(value) for value in stats)
    box = np.s_[top : top + height, left : left + width]
    return float(anomaly_map[box][labels[box] == label].max())


def _region(anomaly_map: NDArray[np.float32], stats: cv2.typing.MatLike, peak: float, roi: Roi) -> Region:
    left, top, width, height, area = (int(value) for value in stats)
    x, w = _to_frame(left, width, anomaly_map.shape[1], roi.x, roi.w)
    y, h = _to_frame(top, height, anomaly_map.shape[0], roi.y, roi.h)
    covered = max(1, round(area * _pixel_area(anomaly_map, roi)))
    return Region(x, y, w, h, covered, peak)


def _to_frame(start: int, length: int, size: int, roi_start: int, roi_length: int) -> tuple[int, int]:
    """Scale an interval of graph pixels to whole full-frame pixels, outwards: (start, length)."""
    first = start * roi_length // size
    last = -(-(start + length) * roi_length // size)
    return roi_start + first, last - first
