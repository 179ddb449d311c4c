"""Tables and plots from a folder of results: a page in Markdown, with its pictures beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from edge_ad.names import printable
from trainer import config as configs
from trainer import tables
from trainer.curve import end_spread, last_states, state_of
from trainer.methods.diffusionad.variants import AutoEncoder, NormGuided, OneStep, guided
from trainer.plots import draw_curves, draw_passes, draw_scales, draw_seeds, draw_weights
from trainer.results import Result

NOTE = (
    "Mean and sample standard deviation over seeds, where there are several. Figures are fractions; AUPRO to FPR 0.3;\n"
    "waited: share of the training that the cores waited for samples; ms: median of the engine's time, one image; MB:\n"
    "memory that the model takes with one image (benchmarks.peers), without libraries. Rows may be of different hours\n"
    "of a machine: compare times that were measured in turn."
)


def write_page(results: Sequence[Result], out: Path) -> Path:
    """Write results.md and its plots; returns the page's path."""
    out.mkdir(parents=True, exist_ok=True)
    sections = ["# Results", NOTE]
    for name, group in _sets(results).items():
        sections += _set(name, group, out)
    page = out / "results.md"
    page.write_text(printable("\n\n".join(sections)) + "\n", encoding="utf-8")
    return page


def _sets(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Results by their data set; of one name, the set that came first has it alone, the others their digest besides.

    Results that do not say which images they were measured on are of the one that came first.
    """
    found: dict[str, list[Result]] = {}
    first: dict[str, str] = {}
    for result in results:
        name = " ".join(result.set.splitlines())
        digest = result.images_sha256
        if digest is not None and first.setdefault(name, digest) != digest:
            name = f"{name}-{digest[:6]}"
        found.setdefault(name, []).append(result)
    return found


def _picture(title: str, name: str) -> str:
    """A picture that lies beside the page, shown in it."""
    return f"![{title}]({quote(name)})"


def _set(name: str, results: Sequence[Result], out: Path) -> list[str]:
    """The sections of one data set."""
    trained, ends = tables.trained(results), [result for result in results if not result.state]
    sections = [f"## {name}"]
    if trained:
        draw_seeds(out / f"{name}.png", trained)
        sections += [tables.summary(trained), _picture(name, f"{name}.png")]
        sections += [f"Image AUROC of each class of defect:\n\n{tables.per_defect(trained, 'image_auroc')}"]
        sections += [f"Pixel AP of each class of defect:\n\n{tables.per_defect(trained, 'pixel_ap')}"]
    predictions = _predictions(ends)
    for (_, training), group in tables.by_budget(ends, lambda r: configs.digest(_family(r, predictions))).items():
        if len({result.variant for result in group}) > 1:
            family = configs.digest({**_family(group[0], predictions), "training": training})[:6]
            sections += _ablation(f"{name}-{family}", group, out)
    for family, group in tables.grouped((r for r in results if r.state), tables.config_name).items():
        sections += _curves(f"{name}-{family}", group, out)
    differences = tables.differences(results)
    if differences:
        sections += [f"### {name}: what the configurations differ in", differences]
    return [*sections, f"### {name}: every evaluation on test images, in order", tables.log(results)]


def _curves(name: str, results: Sequence[Result], out: Path) -> list[str]:
    """The states of trainings of one configuration, a line for each seed, and how far the last fifth of each swings."""
    trainings = {
        f"seed {seed}": sorted((state_of(result) for result in group), key=lambda state: state.step)
        for seed, group in sorted(tables.grouped(results, lambda r: r.seed).items())
    }
    lines = {label: [(state.minutes, state.figures) for state in states] for label, states in trainings.items()}
    draw_curves(out / f"{name}-curves.png", lines)
    rows = []
    for label, states in trainings.items():
        spreads = end_spread(states)
        told = [label, str(len(states)), str(len(last_states(states)))]
        rows.append([*told, *(f"{spreads[key]:.3f}" if key in spreads else "-" for key in tables.FIGURES)])
    header = ["training", "states", "in its last fifth", *tables.FIGURES.values()]
    return [
        f"### {name}: figures over the training",
        _picture("figures over the training", f"{name}-curves.png"),
        f"Highest less lowest over the last fifth:\n\n{tables.markdown(header, rows)}",
    ]


def _without(result: Result, *keys: str) -> dict[str, Any]:
    """A configuration without some keys of its diffusion."""
    config = tables.resolved(result)
    diffusion = {key: value for key, value in config.get("diffusion", {}).items() if key not in keys}
    return {**config, "diffusion": diffusion}


def _predictions(results: Sequence[Result]) -> dict[str, str]:
    """Configuration without prediction and `diffuse` -> what its diffusion models predict, x0 where some do."""
    found: dict[str, str] = {}
    for result in results:
        predicted = tables.resolved(result).get("diffusion", {}).get("prediction")
        if predicted is not None and not isinstance(result.variant, AutoEncoder):
            key = configs.digest(_without(result, "diffuse", "prediction"))
            found[key] = predicted if predicted == "x0" else found.get(key, predicted)
    return found


def _family(result: Result, predictions: Mapping[str, str]) -> dict[str, Any]:
    """What was trained as long, and differs only in being an auto-encoder, belongs to one ablation.

    An auto-encoder predicts the image, whatever the diffusion models predict that it is compared with.
    """
    family = _without(result, "diffuse")
    if isinstance(result.variant, AutoEncoder):
        other = predictions.get(configs.digest(_without(result, "diffuse", "prediction")))
        if other is not None:
            family["diffusion"]["prediction"] = other
    return family


def _ablation(name: str, results: Sequence[Result], out: Path) -> list[str]:
    """Ways to reconstruct, noise scales, guidance weights: the paper's Tables VII and VIII, Figures 8 to 10."""
    own = [result for result in results if _at_own_scales(result)]
    scales = [result for result in results if isinstance(result.variant, OneStep | NormGuided)]
    draw_passes(out / f"{name}-ways.png", own)
    sections = [f"### {name}: ways to reconstruct", tables.ways(own, cost=True), _picture("ways", f"{name}-ways.png")]
    if scales:
        draw_scales(out / f"{name}-scales.png", scales)
        sections += [f"### {name}: noise scales and guidance weights", tables.ways(scales, cost=False)]
        sections += [_picture("scales", f"{name}-scales.png")]
    if any(isinstance(result.variant, NormGuided) for result in scales):
        draw_weights(out / f"{name}-weights.png", scales)
        sections += [_picture("weights", f"{name}-weights.png")]
    return sections


def _at_own_scales(result: Result) -> bool:
    variant, own = result.variant, tables.own_scales(result)
    if isinstance(variant, OneStep):
        return variant.t in (own["t_s"], own["t_b"])
    return not isinstance(variant, NormGuided) or variant == guided(**own)
