"""Tables and plots from a folder of results: a page in Markdown, with its pictures beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trainer import tables
from trainer.methods.diffusionad.variants import NormGuided, OneStep, guided
from trainer.plots import draw_scales, draw_seeds, draw_speed, draw_weights
from trainer.results import Result

NOTE = (
    "Mean and sample standard deviation over seeds, where there are several. Figures are fractions; AUPRO to FPR 0.3;\n"
    "waited: share of the training that the cores waited for samples; ms: median of the engine's time, one image; MB:\n"
    "memory that the model takes with one image (benchmarks.peers), without libraries."
)


def write_page(results: Sequence[Result], out: Path) -> Path:
    """Write results.md and its plots; returns the page's path."""
    out.mkdir(parents=True, exist_ok=True)
    sections = ["# Results", NOTE]
    for name, group in tables.grouped(results, lambda r: r.set).items():
        sections += _set(name, group, out)
    page = out / "results.md"
    page.write_text("\n\n".join(sections) + "\n", encoding="utf-8")
    return page


def _set(name: str, results: Sequence[Result], out: Path) -> list[str]:
    """The sections of one data set."""
    trained = [result for result in results if tables.as_trained(result)]
    sections = [f"## {name}"]
    if trained:
        draw_seeds(out / f"{name}.png", trained, _label)
        sections += [tables.summary(trained), f"![{name}]({name}.png)"]
        sections += [f"Image AUROC of each class of defect:\n\n{tables.per_defect(trained, 'image_auroc')}"]
        sections += [f"Pixel AP of each class of defect:\n\n{tables.per_defect(trained, 'pixel_ap')}"]
    for family, group in tables.grouped(results, _family).items():
        if len({result.variant for result in group}) > 1:
            sections += _ablation(f"{name}-{family}", group, out)
    differences = tables.differences(results)
    if differences:
        sections += [f"### {name}: what the configurations differ in", differences]
    return [*sections, f"### {name}: every evaluation on test images, in order", tables.log(results)]


def _label(result: Result) -> str:
    return f"{result.profile} {tables.digest(tables.resolved(result))}, {tables.budget(result)}"


def _family(result: Result) -> str:
    """What was trained as long, and differs only in being an auto-encoder, belongs to one ablation."""
    config = tables.resolved(result)
    diffusion = {key: value for key, value in config.get("diffusion", {}).items() if key != "diffuse"}
    return tables.digest({**config, "diffusion": diffusion, "training": tables.budget(result)})


def _ablation(name: str, results: Sequence[Result], out: Path) -> list[str]:
    """Ways to reconstruct, noise scales, guidance weights: the paper's Tables VII and VIII, Figures 8 to 10."""
    own = [result for result in results if _at_own_scales(result)]
    scales = [result for result in results if isinstance(result.variant, OneStep | NormGuided)]
    draw_speed(out / f"{name}-ways.png", own)
    draw_scales(out / f"{name}-scales.png", scales)
    draw_weights(out / f"{name}-weights.png", scales)
    return [
        f"### {name}: ways to reconstruct",
        tables.ways(own, cost=True),
        f"![ways]({name}-ways.png)",
        f"### {name}: noise scales and guidance weights",
        tables.ways(scales, cost=False),
        f"![scales]({name}-scales.png)",
        f"![weights]({name}-weights.png)",
    ]


def _at_own_scales(result: Result) -> bool:
    variant, own = result.variant, tables.own_scales(result)
    if isinstance(variant, OneStep):
        return variant.t in (own["t_s"], own["t_b"])
    return not isinstance(variant, NormGuided) or variant == guided(**own)
