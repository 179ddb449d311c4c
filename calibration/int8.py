"""Representative frames -> activation ranges for the quantiser.

INT8 here is symmetric: x is stored as round(127 x / range), clipped to -127..127. A range that covers the largest value
ever seen wastes codes on outliers; a smaller one clips them. So what is collected is how often which magnitude occurs,
and a rule makes a range of that. `trainer/quantise.py` tries the rules and takes the one that changes least.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_ad.console import tracked

CODES = 127  # of each sign
BINS = 2048
PERCENTILE = 0.9999
_CANDIDATES = np.linspace(0.1, 1.0, 91)  # shares of the largest magnitude that `least_error` tries

Probe = Callable[[NDArray[np.uint8]], Mapping[str, NDArray[np.float32]]]


@dataclass(frozen=True, slots=True)
class Magnitudes:
    """How often which |x| occurred in a tensor.

    Attributes:
        largest: the largest |x|.
        counts: (BINS,) int64, of equal bins from 0 to `largest`.
    """

    largest: float
    counts: NDArray[np.int64]


def observe(probe: Probe, images: Sequence[NDArray[np.uint8]]) -> dict[str, Magnitudes]:
    """The magnitudes of every tensor that `probe` shows, over all images.

    Args:
        probe: image, as the graph takes it -> name -> tensor.
        images: at least one.
    """
    largest: dict[str, float] = {}
    for image in tracked(images, "ranges, 1 of 2"):
        for name, values in probe(image).items():
            largest[name] = max(largest.get(name, 0.0), float(np.abs(values).max()))
    counts = {name: np.zeros(BINS, np.int64) for name in largest}
    for image in tracked(images, "ranges, 2 of 2"):
        for name, values in probe(image).items():
            counts[name] += histogram(values, largest[name])
    return {name: Magnitudes(largest[name], counts[name]) for name in largest}


def histogram(values: NDArray[np.float32], largest: float) -> NDArray[np.int64]:
    """(BINS,) counts of |x| in equal bins from 0 to `largest`, which no |x| exceeds."""
    if largest == 0:
        return np.bincount([0], weights=[values.size], minlength=BINS).astype(np.int64)
    bins = np.minimum((np.abs(values).ravel() / largest * BINS).astype(np.int64), BINS - 1)
    return np.bincount(bins, minlength=BINS)


def cover_all(seen: Magnitudes) -> float:
    """The largest magnitude: nothing is clipped."""
    return seen.largest


def percentile(seen: Magnitudes) -> float:
    """The magnitude that all but one in 10,000 values keep to."""
    share = np.cumsum(seen.counts) / seen.counts.sum()
    return _edge(seen, int(np.searchsorted(share, PERCENTILE)) + 1)


def least_error(seen: Magnitudes) -> float:
    """The range with the least mean squared error of rounding and clipping together."""
    centres = (np.arange(BINS) + 0.5) * (seen.largest / BINS)
    ranges = seen.largest * _CANDIDATES
    return float(ranges[np.argmin([squared_error(centres, seen.counts, r) for r in ranges])])


def squared_error(values: NDArray[np.floating], weights: NDArray[np.int64], range_: float) -> float:
    """Weighted sum of the squared differences that storing `values` >= 0 as INT8 makes."""
    if range_ == 0:
        return 0.0
    step = range_ / CODES
    stored = np.minimum(np.rint(values / step), CODES) * step
    return float(np.sum(weights * np.square(values - stored)))


def _edge(seen: Magnitudes, bins: int) -> float:
    """The upper edge of the first `bins` bins."""
    return seen.largest * min(bins, BINS) / BINS


RANGE_RULES: dict[str, Callable[[Magnitudes], float]] = {
    "largest": cover_all,
    "percentile": percentile,
    "least error": least_error,
}
