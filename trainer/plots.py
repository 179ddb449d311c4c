"""Plots from results."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from trainer.drawn import drawn
from trainer.methods.diffusionad.variants import NormGuided, OneStep, guided
from trainer.results import Result
from trainer.tables import FIGURES, by_seed, by_variant, figure, own_scales

Point = tuple[float, list[Result]]  # place on the x axis, and what was measured there


def draw_seeds(path: Path, results: Sequence[Result]) -> None:
    """A panel for each figure, a line for each thing compared, a dot for each seed and engine; results oldest first."""
    groups: dict[str, list[Result]] = {}
    for ((_, config, _), training), group in by_seed(results).items():
        groups.setdefault(drawn(f"{group[0].profile} {config}, {training}"), []).extend(group)
    panels = _panels(path, 1.2 + 0.35 * len(groups))
    for axes, name in zip(panels.axes, FIGURES, strict=True):
        for place, group in enumerate(reversed(groups.values())):
            values = [value for r in group if (value := figure(r, name)) is not None]
            axes.plot(values, [place] * len(values), "o", alpha=0.7)
        axes.set(title=FIGURES[name], ylim=(-0.5, len(groups) - 0.5), yticks=range(len(groups)), yticklabels=[])
        axes.grid(alpha=0.3)
    panels.axes[0].set_yticklabels(list(reversed(groups)))
    panels.savefig(path, dpi=110)


def draw_passes(path: Path, results: Sequence[Result]) -> None:
    """Each way to reconstruct: its figures over what it costs, which images/s of different hours do not tell."""
    panels = _panels(path, 3.4)
    for axes, name in zip(panels.axes, FIGURES, strict=True):
        for variant, group in by_variant(results):
            values = [value for r in group if (value := figure(r, name)) is not None]
            if values:
                axes.plot(variant.passes(), statistics.fmean(values), "o", label=str(variant))
        axes.set(title=FIGURES[name], xlabel="passes through the denoiser", xscale="log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.grid(alpha=0.3)
    _save(panels, path)


def draw_scales(path: Path, results: Sequence[Result]) -> None:
    """Figures over the noise scale: one step, and norm guidance with either scale moved."""
    lines: dict[str, list[Point]] = {"one step": [], "guided, t_s moved": [], "guided, t_b moved": []}
    for variant, group in by_variant(results):
        own = own_scales(group[0])
        if isinstance(variant, OneStep):
            lines["one step"].append((variant.t, group))
        elif isinstance(variant, NormGuided) and variant.w == guided(**own).w:
            if variant.t_b == own["t_b"]:
                lines["guided, t_s moved"].append((variant.t_s, group))
            if variant.t_s == own["t_s"]:
                lines["guided, t_b moved"].append((variant.t_b, group))
    _draw_lines(path, lines, "timestep")


def draw_weights(path: Path, results: Sequence[Result]) -> None:
    """Figures over the guidance weight, at the scales that were trained."""
    points: list[Point] = []
    for variant, group in by_variant(results):
        own = own_scales(group[0])
        if isinstance(variant, NormGuided) and (variant.t_s, variant.t_b) == (own["t_s"], own["t_b"]):
            points.append((variant.w, group))
    _draw_lines(path, {"norm-guided": points}, "guidance weight w")


def draw_curves(path: Path, trainings: Mapping[str, Sequence[tuple[float, Mapping[str, float | None]]]]) -> None:
    """Figures over the minutes of trainings, a line each: what it is called -> minutes and figures of its states."""
    panels = _panels(path, 3.4)
    for axes, name in zip(panels.axes, FIGURES, strict=True):
        for label, states in trainings.items():
            known = [(minutes, value) for minutes, figures in states if (value := figures[name]) is not None]
            axes.plot([minutes for minutes, _ in known], [value for _, value in known], "o-", ms=3, label=label)
        axes.set(title=FIGURES[name], xlabel="minutes")
        axes.grid(alpha=0.3)
    _save(panels, path)


def _draw_lines(path: Path, lines: dict[str, list[Point]], xlabel: str) -> None:
    panels = _panels(path, 3.4)
    for axes, name in zip(panels.axes, FIGURES, strict=True):
        for label, points in lines.items():
            _draw_line(axes, name, points, label)
        axes.set(title=FIGURES[name], xlabel=xlabel)
        axes.grid(alpha=0.3)
    _save(panels, path)


def _draw_line(axes: Axes, name: str, points: Sequence[Point], label: str) -> None:
    """Mean over seeds, with the sample standard deviation as bars."""
    known = [(x, [v for r in group if (v := figure(r, name)) is not None]) for x, group in sorted(points, key=_place)]
    known = [(x, values) for x, values in known if values]
    deviations = [statistics.stdev(values) if len(values) > 1 else 0.0 for _, values in known]
    axes.errorbar([x for x, _ in known], [statistics.fmean(v) for _, v in known], deviations, fmt="o-", label=label)


def _place(point: Point) -> float:
    return point[0]


def _panels(path: Path, height: float) -> Figure:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure_ = Figure(figsize=(3.3 * len(FIGURES), height), layout="constrained")
    figure_.subplots(1, len(FIGURES))
    return figure_


def _save(panels: Figure, path: Path) -> None:
    """With one legend, below the panels."""
    handles, labels = panels.axes[0].get_legend_handles_labels()
    panels.legend(handles, labels, loc="outside lower center", ncols=4, fontsize="small")
    panels.savefig(path, dpi=110)
