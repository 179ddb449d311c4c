"""Tables in Markdown from results: what was measured, with the spread over seeds, and the log of every evaluation."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from trainer import config as configs
from trainer.config import TrainConfig
from trainer.methods.diffusionad.variants import KINDS, AutoEncoder, NormGuided, OneStep, Variant, in_one_step
from trainer.results import BUNDLED, Result, on_set, read_results

Key = TypeVar("Key")

FIGURES = {"image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC", "aupro": "AUPRO 0.3", "pixel_ap": "pixel AP"}
MORE = {
    "image_ap": "image AP",
    "image_f1_max": "image F1-max",
    "pixel_f1_max": "pixel F1-max",
    "aupro_005": "AUPRO 0.05",
}
NEAR = 0.1  # trainings whose minutes differ by less, of the longer one's, had the same


def grouped(results: Iterable[Result], key: Callable[[Result], Key]) -> dict[Key, list[Result]]:
    """Results by a key, in the order in which the keys come."""
    groups: dict[Key, list[Result]] = {}
    for result in results:
        groups.setdefault(key(result), []).append(result)
    return groups


def resolved(result: Result) -> Mapping[str, Any]:
    """The configuration as today's code reads it, so that seeds of different days stay together.

    A key that has come since has its default, which is what was done before. What today's code does not read (another
    method's, a key that has gone) stays as it is. A bundle does not tell all: the size of its networks is added, which
    only results of bundles have.
    """
    try:
        return TrainConfig.model_validate(result.config).model_dump(mode="json")
    except ValidationError:
        size = {"macs": result.figures.macs, "params": result.figures.params}
        return result.config if result.figures.macs is None else {**result.config, **size}


def measured_before(folder: Path, data: Path, config: TrainConfig) -> list[Result]:
    """The results of a configuration on a data set, oldest first.

    Raises:
        DataError: there are no images, or a file is not a result.
    """
    told = configs.told(config)
    return [result for result in on_set(read_results(folder), data) if resolved(result) == told]


def config_name(result: Result) -> str:
    """A short name for the configuration: the same for the same values, of a run and of its bundle."""
    return str(result.config.get(BUNDLED) or configs.digest(resolved(result)))[:6]


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
    lines = [[_cell(text) for text in line] for line in (header, *rows)]
    lines.insert(1, ["---"] * len(header))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    """Text that ends neither its cell nor its row."""
    return " ".join(text.splitlines()).replace("\\", "\\\\").replace("|", "\\|")


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


def trained(results: Iterable[Result]) -> list[Result]:
    """What trainings ended with, measured as they were trained: what is compared."""
    return [result for result in results if not result.state and as_trained(result)]


def summary(results: Sequence[Result]) -> str:
    """One row for each thing compared on a set: the mean and the spread over its seeds; `results` oldest first."""
    costs = ["minutes", "waited", "ms", "MB"]
    header = ["method", "config", "engine", "seeds", *costs, *FIGURES.values(), *MORE.values()]
    rows = []
    for ((method, config, engine), _), group in by_seed(results).items():
        figures = [spread([figure(r, name) for r in group]) for name in (*FIGURES, *MORE)]
        rows.append([method, config, engine, str(len(group)), *_costs(group), *figures])
    return markdown(header, rows)


def by_seed(results: Iterable[Result]) -> dict[tuple[tuple[str, str, str], str], list[Result]]:
    """For each thing compared on each engine, by what its training had, one result a seed, the last.

    A spread is over seeds, the log has them all.
    """
    return {what: list({r.seed: r for r in group}.values()) for what, group in by_budget(results, _compared).items()}


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


def _compared(result: Result) -> tuple[str, str, str]:
    method = f"{result.method} `{result.profile}`"
    if result.variant is not None and result.variant.kind == "auto_encoder":
        method += ", auto-encoder"
    return method, config_name(result), f"{result.backend} {result.precision}"


def by_budget(results: Iterable[Result], key: Callable[[Result], Key]) -> dict[tuple[Key, str], list[Result]]:
    """Results by a key and by what their trainings had, in words: one that had less, or went on, is apart."""
    listed = list(results)
    ends = {what: _ends(group) for what, group in grouped(listed, key).items()}
    return grouped(listed, lambda r: (key(r), _budget(r, ends[key(r)])))


def _budget(result: Result, ends: Sequence[float]) -> str:
    """The images of a training and its steps, if it did all that were asked for, else its minutes, one of `ends`."""
    training = result.training
    if training.steps == 0:  # fitted, in the time that it takes
        return "-"
    if _did_all_steps(result):
        return f"{training.images} images, {training.steps:,} steps"
    minutes = _asked(result) or min(ends, key=lambda end: abs(end - training.minutes))
    return f"{training.images} images, {minutes:g} min"


def _ends(results: Iterable[Result]) -> list[float]:
    """Minutes after which trainings ended: those asked for; where nobody noted them, the most of those near."""
    listed = [result for result in results if not _did_all_steps(result)]
    ends = list({minutes for result in listed if (minutes := _asked(result)) is not None})
    for minutes in sorted((result.training.minutes for result in listed), reverse=True):
        if all(abs(end - minutes) > NEAR * end for end in ends):
            ends.append(round(minutes, 0 if minutes >= 10 else 2))
    return ends


def _did_all_steps(result: Result) -> bool:
    return bool(result.training.steps >= result.config.get("optim", {}).get("steps", math.inf))


def _asked(result: Result) -> float | None:
    """The minutes that a training was given, and has used up; a peer that has any has them in its configuration."""
    asked: float | None = result.training.max_minutes or result.config.get("minutes")
    return asked if asked is not None and result.training.minutes >= round(asked, 2) else None


def per_defect(results: Sequence[Result], name: str) -> str:
    """One figure of each class of defect."""
    classes = sorted({kind for result in results for kind in result.figures.per_defect})
    rows = []
    for ((method, config, engine), training), group in by_seed(results).items():
        cells = [spread([r.figures.per_defect.get(kind, {}).get(name) for r in group]) for kind in classes]
        rows.append([method, config, engine, training, *cells])
    return markdown(["method", "config", "engine", "training", *classes], rows)


def log(results: Sequence[Result]) -> str:
    """Every evaluation on test images, in order."""
    header = ["evaluated", "commit", "method", "config", "way", "seed", "minutes", "steps", *FIGURES.values(), "note"]
    rows = []
    for result in results:
        method, config, engine = _compared(result)
        way = "-" if result.variant is None else str(result.variant)
        figures = [spread([figure(result, name)]) for name in FIGURES]
        training = result.training
        code = ", ".join(training.commits) or result.commit or "-"
        facts = [result.made_at, code, f"{method}, {engine}", config, way, str(result.seed)]
        rows.append([*facts, f"{training.minutes:.0f}", f"{training.steps:,}", *figures, result.note])
    return markdown(header, rows)


def differences(results: Sequence[Result]) -> str:
    """What the configurations of a set differ in, key by key; empty where there is one."""
    told: dict[str, dict[str, Any]] = {}
    for result in results:  # a run tells more than its bundle
        told[config_name(result)] = max(told.get(config_name(result), {}), _flat(resolved(result)), key=len)
    keys = sorted({key for config in told.values() for key in config} - {BUNDLED})
    rows = []
    for key in keys:
        cells = [json.dumps(config[key]) if key in config else "-" for config in told.values()]
        if len(set(cells)) > 1:
            rows.append([key, *cells])
    return markdown(["key", *told], rows) if rows else ""


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
    """Results by their way to reconstruct, on the same trainings; ways in the order of `KINDS` and of their numbers."""
    found = [(v, group) for v, group in grouped(comparable(results), lambda r: r.variant).items() if v is not None]
    return sorted(found, key=lambda item: (KINDS.index(item[0].kind), *item[0].model_dump(exclude={"kind"}).values()))


def comparable(results: Iterable[Result]) -> list[Result]:
    """Of each seed that was measured in every way the last result of each, all but the auto-encoder's on one training.

    Every way is what the seed that was measured in most ways has, so that an ablation under way shows what it can.
    """
    seeds = [_in_most_ways(group) for group in grouped(results, lambda r: r.seed).values()]
    shown = max(seeds, key=len, default={})
    return [seed[variant] for seed in seeds if shown.keys() <= seed.keys() for variant in shown]


def _in_most_ways(results: Sequence[Result]) -> dict[Variant | None, Result]:
    """Way -> the last result of one seed, on the weights that were measured in most ways, the last of these."""
    trainings = grouped(reversed(results), lambda r: (isinstance(r.variant, AutoEncoder), r.weights))
    found: dict[Variant | None, Result] = {}
    for auto_encoder in (True, False):
        own = [group for (is_one, _), group in trainings.items() if is_one is auto_encoder]
        most: list[Result] = max(own, key=lambda group: len({r.variant for r in group}), default=[])
        found |= {r.variant: r for r in reversed(most)}
    return found


def images_per_second(results: Sequence[Result]) -> float:
    """Of the engine, one image at a time: from the mean of the medians."""
    return 1e3 / statistics.fmean(r.figures.latency_ms["p50"] for r in results)
