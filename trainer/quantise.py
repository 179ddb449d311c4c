"""From an FP32 graph to an INT8 one, after training: ranges from images, layers that hurt left in FP32.

Everything is chosen on good images that the network was not trained on, and on synthetic defects on them; test images
have no part in it. First the rule for the ranges, with all layers in INT8. If that changes too much, layers go back to
FP32 one after the other, the one that alone changes most first, until it does not; the rule is chosen anew each time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, replace

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import ModelProto

from calibration.int8 import RANGE_RULES, observe
from edge_ad.backends.base import OUTPUTS, one_at_a_time
from edge_ad.backends.onnxruntime import as_written
from edge_ad.console import tracked
from edge_ad.errors import DataError
from edge_ad.records import RawOutput
from trainer.config import SynthesisConfig
from trainer.metrics import image_metrics, pixel_metrics
from trainer.qdq import convolutions, left_in_fp32, quantise_graph, quantised_tensors, side_by_side, with_outputs
from trainer.synthesis.foreground import foreground
from trainer.synthesis.paste import anomalous

RANGE_IMAGES = 128  # or tiles: more do not move the ranges
TUNING_IMAGES = 32  # good ones, and as many with a defect
SHIFT_STRIDE = 4  # of the images that ranges are from every fourth says what INT8 takes from a layer in the mean
SMALLEST_SPREAD = 0.01  # of the logits that an error is measured by: where they say nothing, no rounding is large
CERTAIN = 1e-7  # a map's distance from 0 and 1 below which float32 tells no logit
RANKING_RULE = "percentile"
RANKING_STRIDE = 4  # of the tuning images every fourth ranks the layers: there are many layers
GROUPS = 8  # of tuning images, each left out once to tell how much of a loss is theirs
SURE = 2.0  # standard errors by which a loss must pass its bound to be one

Run = Callable[[NDArray[np.uint8]], list[NDArray[np.float32]]]


@dataclass(frozen=True, slots=True)
class Tuning:
    """What INT8 is compared with FP32 on.

    Attributes:
        images: (M, H, W, 3) uint8 RGB, good ones and the same with synthetic defects.
        masks: (M, H, W), true on a defect.
    """

    images: NDArray[np.uint8]
    masks: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Scheme:
    """How layers are put into INT8: tensor -> range, and layer -> (C_out,), what is added to its bias."""

    ranges: Mapping[str, float]
    shifts: Mapping[str, NDArray[np.float32]]

    def graph(self, model: ModelProto, layers: Sequence[str]) -> ModelProto:
        """An FP32 graph with these layers in INT8."""
        return quantise_graph(model, self.ranges, layers, self.shifts)


@dataclass(frozen=True, slots=True)
class Change:
    """What INT8 changes.

    Attributes:
        map_error: mean absolute difference of the anomaly maps' logits, in standard deviations of those of FP32.
        score_correlation: Pearson's, between the scores.
        image_auroc, pixel_ap, aupro: INT8 minus FP32, fractions. AUPRO is of the pixels that are nearly certain to be
            good, whose small values INT8 rounds first.
    """

    map_error: float
    score_correlation: float
    image_auroc: float
    pixel_ap: float
    aupro: float

    @property
    def gains(self) -> tuple[float, float, float]:
        """Of image AUROC, pixel AP and AUPRO; below 0 it is a loss."""
        return self.image_auroc, self.pixel_ap, self.aupro


@dataclass(frozen=True, slots=True)
class Quantised:
    """An INT8 graph, how it was made and what it changes.

    Attributes:
        model: the graph.
        range_rule: of calibration.int8.RANGE_RULES.
        int8_layers, fp32_layers: the latter has the most sensitive first, then those that cannot be quantised.
        change: against FP32, on the tuning images.
    """

    model: ModelProto
    range_rule: str
    int8_layers: tuple[str, ...]
    fp32_layers: tuple[str, ...]
    change: Change


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much INT8 may change: half of what is promised, as these images are not those of the promise.

    The maps may change little by themselves: defects that the trainer drew are so plain that a coarse map ranks them as
    well, and others are not (docs/results-before.md has what that costs). Of 32 good images and as many defects a few
    pairs that change places are 0.005 of AUROC: a loss counts where other such images would have shown it too.
    """

    map_error: float = 0.06
    score_correlation: float = 0.995
    loss: float = 0.0025  # of image AUROC, pixel AP and AUPRO


def make_tuning(good: NDArray[np.uint8], config: SynthesisConfig, seed: int) -> Tuning:
    """Good images, (N, H, W, 3) uint8 RGB, and each once more with a synthetic defect; the same for the same seed."""
    good = good[:TUNING_IMAGES]
    grey = bool((good == good[..., :1]).all())
    parts = [foreground(image) if config.foreground else None for image in good]
    drawn = [
        anomalous(list(good), image, [], grey, config, np.random.default_rng([seed, 4, index]), part)
        for index, (image, part) in enumerate(zip(good, parts, strict=True))
    ]
    images, masks = zip(*drawn, strict=True)
    return Tuning(np.concatenate([good, images]), np.concatenate([np.zeros(good.shape[:3], bool), masks]))


def quantise(model: ModelProto, good: NDArray[np.uint8], tuning: Tuning, bounds: Bounds) -> Quantised:
    """Make the INT8 graph.

    Args:
        model: the FP32 graph of docs/bundle.md.
        good: (N, H, W, 3) uint8 RGB, what the ranges are from, with the synthetic defects of `tuning`.
        tuning: what the choices are made on.
        bounds: what the INT8 graph keeps to.

    Raises:
        DataError: no layer can be in INT8 within the bounds.
    """
    layers = list(convolutions(model))
    # A defect drives activations further than any good part does: ranges of good images alone would clip what tells it.
    shown = [*good[:RANGE_IMAGES], *tuning.images[tuning.masks.any(axis=(1, 2))]]
    seen = observe(_probe(model, layers), [image[None] for image in shown])
    schemes = {
        name: make_scheme(model, layers, {tensor: rule(magnitudes) for tensor, magnitudes in seen.items()}, shown)
        for name, rule in RANGE_RULES.items()
    }
    reference = run_all(model, tuning.images)
    ranking: list[str] = []
    for count in range(len(layers)):
        kept = tuple(ranking[:count])
        best = _best_scheme(model, schemes, kept, tuning, reference)
        if _bears(best, tuning, reference, bounds):
            return replace(best, fp32_layers=(*kept, *left_in_fp32(model)))
        ranking = ranking or rank_by_sensitivity(model, schemes[RANKING_RULE], layers, tuning, reference)
    raise DataError("no layer of this network bears INT8: export it with --precision fp32")


def _probe(
    model: ModelProto, layers: Sequence[str]
) -> Callable[[NDArray[np.uint8]], Mapping[str, NDArray[np.float32]]]:
    """A function that shows all tensors that could be quantised."""
    tensors = quantised_tensors(model, layers)
    session = open_session(with_outputs(model, tensors))
    return lambda image: dict(zip(tensors, session.run(tensors, {"image": image}), strict=True))


def make_scheme(
    model: ModelProto, layers: Sequence[str], ranges: Mapping[str, float], images: Sequence[NDArray[np.uint8]]
) -> Scheme:
    """Ranges, and the shift of each layer that goes with them: empirical bias correction (Nagel et al. 2019, 4.2).

    Rounding weights and clipping activations moves a channel's mean, everywhere alike, which the layers behind it take
    for a difference. Each layer is measured on its FP32 input, so no shift counts what another one mends.

    Args:
        model, layers, ranges: as for `quantise_graph`, all layers.
        images: (H, W, 3) uint8 RGB each; every `SHIFT_STRIDE`-th is used.
    """
    session = open_session(side_by_side(model, ranges, layers))
    some = images[::SHIFT_STRIDE]
    lost = [session.run(None, {"image": image[None]}) for image in tracked(some, "shifts")]
    shifts: list[NDArray[np.float32]] = [np.stack(found).mean(axis=0) for found in zip(*lost, strict=True)]
    return Scheme(ranges, dict(zip(layers, shifts, strict=True)))


def _best_scheme(
    model: ModelProto, schemes: Mapping[str, Scheme], fp32: tuple[str, ...], tuning: Tuning, reference: RawOutput
) -> Quantised:
    """All layers but `fp32` in INT8, by the rule for ranges that changes the maps least."""
    int8 = tuple(name for name in convolutions(model) if name not in fp32)
    tried = []
    for rule, scheme in tracked(list(schemes.items()), f"{len(int8)} layers in INT8"):
        graph = scheme.graph(model, int8)
        change = compare(run_all(graph, tuning.images), reference, tuning.masks)
        tried.append(Quantised(graph, rule, int8, fp32, change))
    return min(tried, key=lambda quantised: quantised.change.map_error)


def rank_by_sensitivity(
    model: ModelProto, scheme: Scheme, layers: Sequence[str], tuning: Tuning, reference: RawOutput
) -> list[str]:
    """The layers, the one that alone in INT8 changes the maps most first."""
    images = tuning.images[::RANKING_STRIDE]
    some = RawOutput(*(values[::RANKING_STRIDE] for values in astuple(reference)))
    errors = {
        name: map_error(run_all(scheme.graph(model, [name]), images), some) for name in tracked(layers, "sensitivity")
    }
    return sorted(layers, key=errors.__getitem__, reverse=True)


def open_session(model: ModelProto) -> ort.InferenceSession:
    """A graph in ONNX Runtime on the CPU; INT8 as it is written, so that every machine makes the same of it."""
    return ort.InferenceSession(model.SerializeToString(), as_written(), providers=["CPUExecutionProvider"])


def run_all(model: ModelProto, images: NDArray[np.uint8]) -> RawOutput:
    """The outputs for (M, H, W, 3) images, one at a time, as a station does."""
    session = open_session(model)
    return one_at_a_time(lambda image: RawOutput(*session.run(OUTPUTS, {"image": image})), images)


def map_error(found: RawOutput, reference: RawOutput) -> float:
    """Mean absolute difference of the maps' logits, in standard deviations of the reference's over all its pixels.

    Of logits, since a sigmoid hides what rounding does to values near 0 and 1, and what lies there is no more than a
    matter of scale (docs/decisions/0017): ranks, which all figures are made of, are lost there as well.
    """
    one, other = _logits(found), _logits(reference)
    return float(np.mean(np.abs(one - other))) / max(float(other.std()), SMALLEST_SPREAD)


def _logits(output: RawOutput) -> NDArray[np.float64]:
    likely = output.anomaly_map.astype(np.float64).clip(CERTAIN, 1 - CERTAIN)
    return np.asarray(np.log(likely) - np.log1p(-likely))


def compare(found: RawOutput, reference: RawOutput, masks: NDArray[np.bool_]) -> Change:
    """What differs between the outputs of INT8 and those of FP32; an image with an empty mask is a good one."""
    defect = np.asarray(masks.any(axis=(1, 2)))
    auroc = [image_metrics(defect, output.score).auroc or 0.0 for output in (found, reference)]
    pixel, as_fp32 = (pixel_metrics(masks, output.anomaly_map) for output in (found, reference))
    correlation = score_correlation(found.score, reference.score)
    lost = ((pixel.ap or 0.0) - (as_fp32.ap or 0.0), (pixel.aupro or 0.0) - (as_fp32.aupro or 0.0))
    return Change(map_error(found, reference), correlation, auroc[0] - auroc[1], *lost)


def score_correlation(found: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    """Pearson's correlation; 1 where the scores are equal, 0 where one side does not vary."""
    if np.array_equal(found, reference):
        return 1.0
    if np.ptp(found) == 0 or np.ptp(reference) == 0:
        return 0.0
    return float(np.corrcoef(found, reference)[0, 1])


def _bears(quantised: Quantised, tuning: Tuning, reference: RawOutput, bounds: Bounds) -> bool:
    """Whether an INT8 graph keeps to the bounds; the errors of its losses take long, and are asked for where needed."""
    change, known, unknown = quantised.change, (0.0,) * 3, (float("inf"),) * 3
    if within(change, known, bounds) or not within(change, unknown, bounds):  # whatever the errors are
        return within(change, known, bounds)
    return within(change, gain_errors(run_all(quantised.model, tuning.images), reference, tuning.masks), bounds)


def within(change: Change, errors: Sequence[float], bounds: Bounds) -> bool:
    """Whether a change can be borne; `errors` are the standard errors of its gains."""
    if change.map_error > bounds.map_error or change.score_correlation < bounds.score_correlation:
        return False
    return all(gain + SURE * error >= -bounds.loss for gain, error in zip(change.gains, errors, strict=True))


def gain_errors(found: RawOutput, reference: RawOutput, masks: NDArray[np.bool_]) -> tuple[float, ...]:
    """Standard errors of `Change.gains`: the jackknife over groups of tuning images.

    Args:
        found, reference: the outputs for a `Tuning`: the first half are good images, the others the same with a defect.
        masks: of the same.
    """
    place = np.arange(len(masks)) % (len(masks) // 2)  # an image and its defect go together
    if len(masks) // 2 < GROUPS:  # too few to tell what chance does: each loss counts
        return 0.0, 0.0, 0.0
    left = []
    for group in tracked(range(GROUPS), "errors of the losses"):
        kept = place % GROUPS != group
        one, other = (RawOutput(*(values[kept] for values in astuple(output))) for output in (found, reference))
        left.append(compare(one, other, masks[kept]).gains)
    return tuple((np.std(left, axis=0) * np.sqrt(GROUPS - 1)).tolist())
