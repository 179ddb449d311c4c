"""From the scores of good images to thresholds with a guarantee. Pure: numpy and math only.

Sort the scores of n independent good images; the threshold is the r-th smallest, X_(r), and a part alarms on
score > X_(r). For continuous scores the true false-alarm rate of that threshold, 1 - F(X_(r)), has the
distribution Beta(n - r + 1, r) whatever the distribution F of the scores is. So for any wish p

    P(true rate <= p) = P(Beta(n - r + 1, r) <= p) = P(Binomial(n, p) >= n - r + 1),

and the rank chosen is the smallest r for which this is at least the wanted confidence. Ties (scores that are not
continuous) only lower the true rate, because an alarm needs a score strictly above the threshold.

S. S. Wilks, "Determination of sample sizes for setting tolerance limits", Ann. Math. Statist. 12 (1941) 91-96;
H. A. David and H. N. Nagaraja, "Order Statistics", 3rd ed., Wiley 2003, sections 2.1 (Eq. 2.1.5) and 7.2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_ad.errors import CalibrationError

MIN_RATE = 1e-9
TIE = 1e-12  # a probability that equals the wish but for this share, by rounding, reaches it


@dataclass(frozen=True, slots=True)
class Guarantee:
    """What n good images can promise about the false-alarm rate.

    Attributes:
        n: independent good images.
        rank: the threshold is the rank-th smallest of the n scores, 1..n.
        false_alarm_rate: the wish: at most this share of good parts alarms.
        confidence: the wanted probability that the wish holds.
        reached_confidence: the probability that it holds with this rank; at least `confidence`.
        expected_rate: the mean of the true false-alarm rate over all samples of n images.
    """

    n: int
    rank: int
    false_alarm_rate: float
    confidence: float
    reached_confidence: float
    expected_rate: float


@dataclass(frozen=True, slots=True)
class Fit:
    """The two thresholds and what they rest on.

    Attributes:
        image_threshold: alarm on score > image_threshold, raw units.
        pixel_threshold: mark pixels where map > pixel_threshold, 0..1; never above `image_threshold`.
        guarantee: the promise that holds for both.
    """

    image_threshold: float
    pixel_threshold: float
    guarantee: Guarantee


def fit(
    scores: NDArray[np.floating], kth_largest: NDArray[np.floating], false_alarm_rate: float, confidence: float
) -> Fit:
    """Choose the image threshold and the pixel threshold.

    The score is the mean of the k largest pixels of the anomaly map, so the k-th largest is at most the score, in
    every image and hence at every rank: pixel threshold <= image threshold. The largest pixel of a defect is at
    least its score, so a defect always has a pixel above the pixel threshold. In at most `false_alarm_rate` of
    the good parts are k or more pixels marked, with the same confidence.

    Args:
        scores: (n,) scores of independent good images, raw units.
        kth_largest: (n,) the k-th largest pixel of each image's anomaly map, k as in the score.
        false_alarm_rate: the wish, MIN_RATE..1.
        confidence: the wanted probability that the wish holds, 0..1.

    Raises:
        CalibrationError: n cannot support the wish, or a value is out of range.
    """
    if scores.ndim != 1 or scores.shape != kth_largest.shape:
        raise ValueError(f"scores {scores.shape} and kth_largest {kth_largest.shape} must be (n,) both")
    if not (np.isfinite(scores).all() and np.isfinite(kth_largest).all()):
        raise ValueError("scores and kth_largest must be finite")
    promise = guarantee(scores.size, false_alarm_rate, confidence)
    image = float(np.sort(scores)[promise.rank - 1])
    pixel = float(np.sort(kth_largest)[promise.rank - 1])
    return Fit(image, min(pixel, image), promise)  # a float32 mean of k equal pixels can round below the pixels


def guarantee(n: int, false_alarm_rate: float, confidence: float) -> Guarantee:
    """Choose the smallest rank that supports the wish.

    Raises:
        CalibrationError: a value is out of range, or not even the largest of n scores reaches the confidence; the
            message names the number of images that does.
    """
    check_wish(false_alarm_rate, confidence)
    cdf = binomial_cdf(n, false_alarm_rate)
    # n - r + 1 = m scores lie at or above the threshold; the largest m with P(Binomial <= m - 1) <= 1 - confidence
    tie = TIE * min(confidence, 1 - confidence)  # not more than a share of the wish, however small that is
    m = min(n, int(np.searchsorted(cdf, 1 - confidence + tie, side="right")))  # cdf ends with 1
    if m == 0:
        raise CalibrationError(_refusal(n, false_alarm_rate, confidence))
    rank = n - m + 1
    reached = 1 - float(cdf[m - 1])
    return Guarantee(n, rank, false_alarm_rate, confidence, reached, expected_rate(n, rank))


def expected_rate(n: int, rank: int) -> float:
    """Mean of Beta(n - rank + 1, rank): the false-alarm rate to expect."""
    return (n - rank + 1) / (n + 1)


def reached_confidence(n: int, rank: int, false_alarm_rate: float) -> float:
    """P(true false-alarm rate <= false_alarm_rate) with the rank-th smallest of n scores as the threshold."""
    return 1 - float(binomial_cdf(n, false_alarm_rate)[n - rank])


def required_images(false_alarm_rate: float, confidence: float) -> int:
    """The smallest n that supports the wish, with the maximum as the threshold: 1 - (1 - rate)^n >= confidence."""
    check_wish(false_alarm_rate, confidence)
    return max(1, math.ceil(math.log1p(-confidence) / math.log1p(-false_alarm_rate) / (1 + TIE)))


def supported_rate(n: int, confidence: float) -> float:
    """The smallest rate that n >= 1 images support, with the maximum as the threshold."""
    return -math.expm1(math.log1p(-confidence) / n)


def check_wish(false_alarm_rate: float, confidence: float) -> None:
    """Refuse a rate or a confidence out of range.

    Raises:
        CalibrationError: naming the value and its range.
    """
    if not MIN_RATE <= false_alarm_rate < 1:
        raise CalibrationError(
            f"false-alarm rate {false_alarm_rate:g} is out of range: a fraction from {MIN_RATE:g} to below 1 "
            "(0.01 is 1 %)"
        )
    if not 0 < confidence < 1:
        raise CalibrationError(f"confidence {confidence:g} is out of range: a fraction above 0 and below 1, like 0.95")


def binomial_cdf(n: int, p: float) -> NDArray[np.float64]:
    """P(Binomial(n, p) <= k) for k = 0..n, as an (n + 1,) array.

    The ratios of neighbouring probabilities are summed as logarithms from the mode outwards and normalised by
    their sum: nothing overflows, what underflows is below 1e-300, and the error stays near 1e-12 for n = 1e6.
    """
    k = np.arange(n)
    log_ratio = np.log((n - k) / (k + 1)) + (math.log(p) - math.log1p(-p))
    mode = min(n, int((n + 1) * p))
    log_weight = np.zeros(n + 1)
    log_weight[mode + 1 :] = np.cumsum(log_ratio[mode:])
    log_weight[:mode] = -np.cumsum(log_ratio[:mode][::-1])[::-1]
    cumulative = np.cumsum(np.exp(log_weight))
    return np.asarray(cumulative / cumulative[-1], dtype=np.float64)


def percent(fraction: float) -> str:
    """A fraction as the messages write it: 0.01 -> "1 %"."""
    return f"{100 * fraction:.4g} %"


def _refusal(n: int, rate: float, confidence: float) -> str:
    needed = required_images(rate, confidence)
    wish = f"a false-alarm rate of {percent(rate)} at {percent(confidence)} confidence"
    possible = _round_up(supported_rate(n, confidence)) if n else 1.0
    instead = f", or ask for --false-alarm-rate {possible:.3g}" if possible < 1 else ""
    return f"{wish} needs {needed:,} independent good images, there are {n:,}: add images{instead}"


def _round_up(rate: float) -> float:
    """To three significant digits, so that what a message offers is really supported."""
    unit = 10.0 ** (math.floor(math.log10(rate)) - 2)
    return math.ceil(rate / unit) * unit
