"""The good scores as a histogram, for a terminal and as a picture. Pure."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

BINS = 15
BAR_CELLS = 40

WIDTH, HEIGHT = 720, 400  # pixels of the picture
LEFT, TOP, RIGHT, BOTTOM = 40, 50, 680, 350  # the axes inside it
FONT = cv2.FONT_HERSHEY_SIMPLEX
BLACK, BAR, RED = (0, 0, 0), (190, 150, 90), (40, 40, 210)  # BGR


def text(scores: NDArray[np.floating], threshold: float) -> list[str]:
    """One line a bin: its lower edge, a bar, the number of images; the threshold marked in its bin.

    Args:
        scores: (n,), n >= 1.
        threshold: one of the scores.
    """
    counts, edges = _bins(scores)
    lines = [_line(float(edges[i]), int(counts[i]), int(counts.max())) for i in range(BINS)]
    row = _bin_of(threshold, edges)
    lines[row] += f"  <- threshold {threshold:.6g}"
    return lines


def picture(scores: NDArray[np.floating], threshold: float, title: str) -> NDArray[np.uint8]:
    """Draw the histogram with the threshold as a line.

    Args:
        scores: (n,), n >= 1.
        threshold: one of the scores.
        title: one line of ASCII, the only alphabet of OpenCV's fonts.

    Returns:
        (HEIGHT, WIDTH, 3) uint8, BGR.
    """
    counts, edges = _bins(scores)
    canvas = np.full((HEIGHT, WIDTH, 3), 255, dtype=np.uint8)
    for i, count in enumerate(counts):
        top = BOTTOM - round((BOTTOM - TOP) * int(count) / int(counts.max()))
        cv2.rectangle(canvas, (_x(edges[i], edges) + 1, top), (_x(edges[i + 1], edges) - 1, BOTTOM), BAR, cv2.FILLED)
    cv2.line(canvas, (LEFT, BOTTOM), (RIGHT, BOTTOM), BLACK, 1)
    cv2.line(canvas, (_x(threshold, edges), TOP), (_x(threshold, edges), BOTTOM), RED, 2)
    for label, at, colour in (
        (title, (LEFT, 22), BLACK),
        (f"threshold {threshold:.6g}", (LEFT, 42), RED),
        (f"{edges[0]:.4g}", (LEFT, BOTTOM + 20), BLACK),
        (f"{edges[-1]:.4g}", (RIGHT - 60, BOTTOM + 20), BLACK),
        ("score of good images", (WIDTH // 2 - 70, BOTTOM + 38), BLACK),
        (f"{counts.max()}", (6, TOP + 6), BLACK),
    ):
        cv2.putText(canvas, label, at, FONT, 0.45, colour, 1, cv2.LINE_AA)
    return canvas


def _bins(scores: NDArray[np.floating]) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    return np.histogram(scores.astype(np.float64), bins=BINS)


def _bin_of(value: float, edges: NDArray[np.float64]) -> int:
    return int(np.clip(np.searchsorted(edges, value, side="right") - 1, 0, BINS - 1))


def _line(edge: float, count: int, largest: int) -> str:
    cells = -(-BAR_CELLS * count // largest)  # rounded up: one image is one cell, never nothing
    return f"{edge:>12.6g} |{'#' * cells:<{BAR_CELLS}} {count}"


def _x(value: float, edges: NDArray[np.float64]) -> int:
    return LEFT + round((RIGHT - LEFT) * float((value - edges[0]) / (edges[-1] - edges[0])))
