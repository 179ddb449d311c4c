"""What the demo showed, in figures."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

_BISECTIONS = 60


@dataclass(frozen=True, slots=True)
class Summary:
    """Counts over all parts that were fed, against the truth.

    Attributes:
        defects, good: parts fed of either kind.
        alarms_on_defects: defects with the verdict `defect`.
        false_alarms: good parts with the verdict `defect`.
        without_result, results_too_many: parts that did not get exactly one result.
        wish: false-alarm rate that the calibration was asked for.
    """

    defects: int
    good: int
    alarms_on_defects: int
    false_alarms: int
    without_result: int
    results_too_many: int
    wish: float

    @property
    def false_alarm_interval(self) -> tuple[float, float]:
        """Clopper-Pearson interval of the false-alarm rate, 95 %."""
        return clopper_pearson(self.false_alarms, self.good, 0.95)

    @property
    def keeps_its_wish(self) -> bool:
        """Whether the false alarms seen agree with the wish: the interval does not lie above it."""
        return self.false_alarm_interval[0] <= self.wish

    @property
    def complete(self) -> bool:
        """Every part has exactly one result."""
        return self.without_result == 0 and self.results_too_many == 0


def clopper_pearson(k: int, n: int, confidence: float) -> tuple[float, float]:
    """Exact confidence interval of a rate from k successes in n trials (Clopper & Pearson 1934).

    Raises:
        ValueError: not 0 <= k <= n, or n is 0.
    """
    if not 0 <= k <= n or n == 0:
        raise ValueError(f"need 0 <= k <= n and n > 0, got {k} of {n}")
    half = (1 - confidence) / 2
    low = 0.0 if k == 0 else _root(lambda p: _at_least(k, n, p) - half)
    high = 1.0 if k == n else _root(lambda p: half - (1 - _at_least(k + 1, n, p)))
    return low, high


def _at_least(k: int, n: int, p: float) -> float:
    """P(Binomial(n, p) >= k)."""
    return math.fsum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k, n + 1))


def _root(rising: Callable[[float], float]) -> float:
    """Where a rising function on [0, 1] crosses 0."""
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return (low + high) / 2
