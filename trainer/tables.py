"""Tables in Markdown from results: what was measured, with the spread over seeds, and the log of every evaluation."""

from __future__ import annotations

import hashlib
import json
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import ValidationError

from trainer.config import TrainConfig
from trainer.methods.diffusionad.variants import KINDS, AutoEncoder, NormGuided, OneStep, Variant, in_one_step
from trainer.results import Result

Key = TypeVar("Key")

FIGURES = {"image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC", "aupro": "AUPRO 0.3", "pixel_ap": "pixel AP"}
MORE = {
    "image_ap": "image AP",
    "image_f1_max": "image F1-max",
    "pixel_f1_max": "pixel F1-max",
    "aupro_005": "AUPRO 0.05",
}


def grouped(results: Iterable[Result], key: Callable[[Result], Key]) -> dict[Key, list[Result]]:
    """Results by a key, in the order in which the keys come."""
    groups: dict[Key, list[Result]] = {}
    for result in results:
        groups.setdefault(key(result), []).append(result)
    return groups


def resolved(result: Result) -> Mapping[str, Any]:
    """The configuration as today's code reads it, so that seeds of different days stay together.

    A key that has come since has its default, which is what was done before. What today's code does not read (another
    method's, a key that has gone) stays as it is.
    """
    try:
        return TrainConfig.model_validate(result.config).model_dump(mode="json")
    except ValidationError:
        return result.config


def digest(config: Mapping[str, Any]) -> str:
    """A short name for a configuration: the same for the same values."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:6]


def figure(result: Result, name: str) -> float | None:
    """A figure of a result; None where it has none."""
    value: float | None = getattr(result.figures, name)
    return value


def spread(values: Sequence[float | None]) -> str:
    """Mean and sample standard deviation over seeds, as text; the value alone where there is one, - where none."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    mean = f"{statistics.fmean(known):.3f}"
    return mean if len(known) == 1 else f"{mean} ± {statistics.stdev(known):.3f}"


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def own_scales(result: Result) -> Mapping[str, Any]:
    """t_s, t_b and w of the configuration that was trained; empty for methods that have none."""
    told: Mapping[str, Any] = result.config.get("diffusion", {})
    return {name: told[name] for name in ("t_s", "t_b", "w") if name in told}


def as_trained(result: Result) -> bool:
    """Whether it was measured in the way that it was trained for, or has no other."""
    variant = result.variant
    if isinstance(variant, NormGuided | OneStep):
        return variant == in_one_step(**own_scales(result))
    return variant is None or isinstance(variant, AutoEncoder)


def summary(results: Sequence[Result]) -> str:
    """One row for each thing compared on a set: the mean and the spread over its seeds; `results` oldest first."""
    costs = ["minutes", "waited", "ms", "MB"]
    header = ["method", "config", "engine", "seeds", *costs, *FIGURES.values(), *MORE.values()]
    rows = []
    for (method, config, engine, _), group in by_seed(results).items():
        figures = [spread([figure(r, name) for r in group]) for name in (*FIGURES, *MORE)]
        rows.append([method, config, engine, str(len(group)), *_costs(group), *figures])
    return markdown(header, rows)


def by_seed(results: Iterable[Result]) -> dict[tuple[str, str, str, str], list[Result]]:
    """For each thing compared on each engine, by what its training had, one result a seed, the last."""
    return {what: last_of_each_seed(group) for what, group in grouped(results, _compared).items()}


def last_of_each_seed(results: Iterable[Result]) -> list[Result]:
    """Of each configuration one result a seed, the last: a spread is over seeds, the log has them all."""
    return list({(digest(resolved(r)), r.seed): r for r in results}.values())


def _costs(results: Sequence[Result]) -> list[str]:
    """Minutes of training, share of them that the cores waited, milliseconds an image, MB of memory: means."""
    return [
        _mean([r.training.minutes for r in results], "{:.3g}"),
        _mean([r.training.waited for r in results], "{:.1%}"),
        _mean([r.figures.latency_ms["p50"] for r in results], "{:.3g}"),
        _mean([r.figures.memory_mb for r in results], "{:.0f}"),
    ]


def _mean(values: Sequence[float | None], form: str) -> str:
    known = [value for value in values if value is not None]
    return form.format(statistics.fmean(known)) if known else "-"


def _compared(result: Result) -> tuple[str, str, str, str]:
    method = f"{result.method} `{result.profile}`"
    if result.variant is not None and result.variant.kind == "auto_encoder":
        method += ", auto-encoder"
    return method, digest(resolved(result)), f"{result.backend} {result.precision}", budget(result)


def budget(result: Result) -> str:
    """What a training had, its minutes to ten: one that had less, or went on, is no seed of the others.

    A training ends within a step after its minutes, so what lies halfway goes up: never apart from its like.
    """
    if result.training.steps == 0:  # fitted, in the time that it takes
        return "-"
    return f"{result.training.images} images, {max(10, 10 * math.floor(result.training.minutes / 10 + 0.5))} min"


def per_defect(results: Sequence[Result], name: str) -> str:
    """One figure of each class of defect."""
    classes = sorted({kind for result in results for kind in result.figures.per_defect})
    rows = []
    for (method, config, engine, training), group in by_seed(results).items():
        cells = [spread([r.figures.per_defect.get(kind, {}).get(name) for r in group]) for kind in classes]
        rows.append([method, config, engine, training, *cells])
    return markdown(["method", "config", "engine", "training", *classes], rows)


def log(results: Sequence[Result]) -> str:
    """Every evaluation on test images, in order."""
    header = ["evaluated", "commit", "method", "config", "way", "seed", "minutes", "steps", *FIGURES.values(), "note"]
    rows = []
    for result in results:
        method, config, engine, _ = _compared(result)
        way = "-" if result.variant is None else str(result.variant)
        figures = [spread([figure(result, name)]) for name in FIGURES]
        training = result.training
        facts = [result.made_at, result.commit or "-", f"{method}, {engine}", config, way, str(result.seed)]
        rows.append([*facts, f"{training.minutes:.0f}", f"{training.steps:,}", *figures, result.note])
    return markdown(header, rows)


def differences(results: Sequence[Result]) -> str:
    """What the configurations of a set differ in, key by key; empty where there is one."""
    configs = {digest(resolved(r)): _flat(resolved(r)) for r in results}
    keys = sorted({key for config in configs.values() for key in config})
    rows = []
    for key in keys:
        cells = [json.dumps(config[key]) if key in config else "-" for config in configs.values()]
        if len(set(cells)) > 1:
            rows.append([key, *cells])
    return markdown(["key", *configs], rows) if rows else ""


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat


def ways(results: Sequence[Result], cost: bool) -> str:
    """One row for each way to reconstruct; with `cost`, its passes and its speed; `results` oldest first."""
    header = ["way", "seeds", *FIGURES.values(), *(["passes", "images/s"] if cost else [])]
    rows = []
    for variant, group in by_variant(results):
        figures = [spread([figure(r, name) for r in group]) for name in FIGURES]
        paid = [str(variant.passes()), f"{images_per_second(group):.3g}"] if cost else []
        rows.append([str(variant), str(len(group)), *figures, *paid])
    return markdown(header, rows)


def by_variant(results: Iterable[Result]) -> list[tuple[Variant, list[Result]]]:
    """Results by their way to reconstruct, of each seed the last; ways in the order of `KINDS` and of their numbers."""
    found = [
        (variant, last_of_each_seed(group))
        for variant, group in grouped(results, lambda r: r.variant).items()
        if variant is not None
    ]
    return sorted(found, key=lambda item: (KINDS.index(item[0].kind), *item[0].model_dump(exclude={"kind"}).values()))


def images_per_second(results: Sequence[Result]) -> float:
    """Of the engine, one image at a time: from the mean of the medians."""
    return 1e3 / statistics.fmean(r.figures.latency_ms["p50"] for r in results)
