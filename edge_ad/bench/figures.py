"""From measured times to figures. Pure: no clock, no process."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

STAGES = ("pre", "engine", "post", "step")


@dataclass(frozen=True, slots=True)
class Workload:
    """What an engine is given in each round.

    Attributes:
        frames: so many.
        width, height: pixels of a frame; of the first image where `images` is set.
        images: the folder whose images are shown, in turn and at their own size; None for one of the bundle's own.
    """

    frames: int
    width: int
    height: int
    images: str | None = None

    @property
    def size(self) -> str:
        """Of a frame: "1920x1080"."""
        return f"{self.width}x{self.height}"


@dataclass(frozen=True, slots=True)
class Sample:
    """What one process measured.

    Attributes:
        cold_start_s: from the start of the process to its first decision.
        ms: stage -> milliseconds of each frame; "step" is the whole path of a frame.
        resident_bytes: memory in use at the end.
        peak_bytes: the most it ever was.
    """

    cold_start_s: float
    ms: dict[str, list[float]]
    resident_bytes: int
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Times of a stage, ms."""

    p50: float
    p95: float
    p99: float


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times faster than the reference engine: the median over the rounds, and what it varies between."""

    median: float
    lowest: float
    highest: float


@dataclass(frozen=True, slots=True)
class Ceiling:
    """The best that a CPU reached on bare convolutions in a precision.

    Attributes:
        by: library and chain.
        gmacs_per_s: 1e9 multiply-accumulates a second, median over the rounds.
    """

    by: str
    gmacs_per_s: float


@dataclass(frozen=True, slots=True)
class Figures:
    """One engine, over all rounds.

    Attributes:
        ms: stage -> quantiles over the frames of all rounds.
        frames_per_s: one frame after the other, whole step.
        gmacs_per_s: multiply-accumulates of the graph per second of the median engine time, 1e9.
        ceiling_share: of the machine's ceiling for this precision that is; None where that is not known.
        cold_start_s: of each round.
        resident_mb, peak_mb: median over the rounds, 1e6 bytes.
        speed: of the engine alone.
    """

    ms: dict[str, Quantiles]
    frames_per_s: float
    gmacs_per_s: float
    ceiling_share: float | None
    cold_start_s: list[float]
    resident_mb: float
    peak_mb: float
    speed: Ratio


def quantiles(values: Sequence[float]) -> Quantiles:
    """Each is a time that was measured: the smallest that so large a share does not exceed.

    Raises:
        ValueError: there is no value.
    """
    if not values:
        raise ValueError("no times, no quantiles")
    p50, p95, p99 = np.quantile(values, (0.5, 0.95, 0.99), method="inverted_cdf")
    return Quantiles(float(p50), float(p95), float(p99))


def find_ceiling(rates: Mapping[str, Sequence[float]]) -> Ceiling | None:
    """The best of the medians; `rates` maps library and chain to one rate a round. None where nothing was measured."""
    medians = {by: statistics.median(values) for by, values in rates.items() if values}
    if not medians:
        return None
    best = max(medians, key=medians.__getitem__)
    return Ceiling(best, medians[best])


def summarise(
    samples: Sequence[Sample], reference: Sequence[Sample], macs: int, ceiling: Ceiling | None = None
) -> Figures:
    """The figures of one engine.

    Args:
        samples: one a round.
        reference: of the engine to compare with, from the same rounds.
        macs: multiply-accumulates of one image.
        ceiling: of this engine's device and precision.

    Raises:
        ValueError: there is no sample, or not as many of the reference.
    """
    together = {stage: [ms for sample in samples for ms in sample.ms[stage]] for stage in STAGES}
    ms = {stage: quantiles(values) for stage, values in together.items()}
    gmacs_per_s = macs / (ms["engine"].p50 * 1e6)
    return Figures(
        ms=ms,
        frames_per_s=1e3 / statistics.fmean(together["step"]),
        gmacs_per_s=gmacs_per_s,
        ceiling_share=gmacs_per_s / ceiling.gmacs_per_s if ceiling is not None else None,
        cold_start_s=[sample.cold_start_s for sample in samples],
        resident_mb=statistics.median(sample.resident_bytes for sample in samples) / 1e6,
        peak_mb=statistics.median(sample.peak_bytes for sample in samples) / 1e6,
        speed=speed(samples, reference),
    )


def speed(samples: Sequence[Sample], reference: Sequence[Sample]) -> Ratio:
    """Compare within each round, so that what slows the machine for a while slows both sides.

    Raises:
        ValueError: the rounds do not match.
    """
    pairs = zip(samples, reference, strict=True)
    ratios = [quantiles(theirs.ms["engine"]).p50 / quantiles(ours.ms["engine"]).p50 for ours, theirs in pairs]
    return Ratio(statistics.median(ratios), min(ratios), max(ratios))
