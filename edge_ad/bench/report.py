"""The figures for programs (JSON), for a terminal (table) and for a glance (bars)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_ad.bench.figures import STAGES, Ceiling, Figures, Workload, find_ceiling, summarise
from edge_ad.bench.rounds import Measured, label
from edge_ad.bundle import MODEL_FILE, Bundle
from edge_ad.config import BackendConfig, Precision

SCHEMA = "edge-ad/bench/1"
HEADER = (
    *("back-end", "pre", "engine", "p95", "p99", "post", "step", "p95", "p99"),
    *("frames/s", "GMAC/s", "of ceiling", "MB", "start s", "speed"),
)

COLOURS = {"pre": (80, 175, 76), "engine": (180, 120, 31), "post": (14, 127, 255)}  # BGR
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_WIDTH_PX, _LABEL_PX, _ROW_PX, _BAR_PX, _TOP_PX = 1000, 250, 40, 24, 56
_TEXT_PX = 90  # right of the longest bar
_INK = (40, 40, 40)


@dataclass(frozen=True, slots=True)
class Report:
    """All that is told about one bench.

    Attributes:
        figures: engine -> its figures; the first is the reference.
        refused: engine -> why it was not measured.
        machine: section -> fact -> value.
        ceilings: precision -> the best rate of bare convolutions on this CPU.
        no_ceilings: library and precision -> why its convolutions were not measured.
    """

    bundle: Bundle
    rounds: int
    workload: Workload
    machine: Mapping[str, Mapping[str, str]]
    figures: Mapping[BackendConfig, Figures]
    refused: Mapping[BackendConfig, str]
    ceilings: Mapping[Precision, Ceiling]
    no_ceilings: Mapping[str, str]


def report(
    bundle: Bundle, measured: Measured, rounds: int, workload: Workload, machine: Mapping[str, Mapping[str, str]]
) -> Report:
    """Sum up what was measured."""
    reference = next(iter(measured.samples.values()))
    macs = bundle.manifest.frame_macs
    found = {precision: find_ceiling(rates) for precision, rates in measured.rates.items()}
    ceilings = {precision: ceiling for precision, ceiling in found.items() if ceiling is not None}
    figures = {
        engine: summarise(samples, reference, macs, ceilings.get(engine.precision) if engine.device == "cpu" else None)
        for engine, samples in measured.samples.items()
    }
    return Report(bundle, rounds, workload, machine, figures, measured.refused, ceilings, measured.no_rates)


def as_json(report: Report) -> dict[str, Any]:
    """For programs; docs/bench.md names the fields."""
    manifest = report.bundle.manifest
    return {
        "schema": SCHEMA,
        "bundle": {
            "digest": report.bundle.digest,
            "method": manifest.method,
            "profile": manifest.profile,
            "input": [manifest.input.height, manifest.input.width],
            "tiles": [manifest.input.tiles.rows, manifest.input.tiles.columns],
            "macs": manifest.frame_macs,
            "params": manifest.params,
            "bytes": {name: entry.bytes for name, entry in manifest.files.items() if name in MODEL_FILE.values()},
        },
        "frame": [report.workload.height, report.workload.width],
        "images": report.workload.images,
        "rounds": report.rounds,
        "frames_per_round": report.workload.frames,
        "machine": report.machine,
        "reference": label(next(iter(report.figures))),
        "engines": [{**_identity(engine), **asdict(figures)} for engine, figures in report.figures.items()],
        "ceilings": {precision: asdict(ceiling) for precision, ceiling in report.ceilings.items()},
        "ceilings_not_measured": report.no_ceilings,
        "not_measured": [{**_identity(engine), "reason": reason} for engine, reason in report.refused.items()],
    }


def as_lines(report: Report) -> Iterator[str]:
    """For people."""
    manifest = report.bundle.manifest
    size, tiles = f"{manifest.input.width}x{manifest.input.height}", manifest.input.frame_layout().tiles
    if tiles > 1:
        size = f"{tiles} tiles of {size}"
    name = f"{manifest.method}/{manifest.profile} {report.bundle.digest[:12]}"
    yield f"{name}: {manifest.frame_macs / 1e9:.2f} GMACs at {size}"
    given = report.workload
    shown = given.size if given.images is None else f"{given.size} (the first), images of {given.images}"
    yield f"{report.rounds} rounds of {given.frames} frames, {shown}; ms, medians where not said"
    yield from _table([HEADER, *(_row(engine, figures) for engine, figures in report.figures.items())])
    yield f"speed: of the engine alone, against {label(next(iter(report.figures)))}, median (range) over the rounds"
    for precision, ceiling in report.ceilings.items():
        yield f"ceiling of this CPU in {precision}: {ceiling.gmacs_per_s:.0f} GMAC/s ({ceiling.by})"
    yield from (f"no ceiling by {name}: {reason}" for name, reason in report.no_ceilings.items())
    if report.refused:
        yield "not measured:"
        yield from (f"  {label(engine)}: {reason}" for engine, reason in report.refused.items())


def bars(report: Report) -> NDArray[np.uint8]:
    """The median times of the stages, one stacked bar an engine; (H, W, 3) BGR."""
    rows = report.figures
    canvas = np.full((_TOP_PX + _ROW_PX * len(rows) + 10, _WIDTH_PX, 3), 255, np.uint8)
    longest = max(sum(_medians(figures).values()) for figures in rows.values())
    px_per_ms = (_WIDTH_PX - _LABEL_PX - _TEXT_PX) / longest
    _draw_legend(canvas, report)
    for place, (engine, figures) in enumerate(rows.items()):
        _draw_bar(canvas, _TOP_PX + _ROW_PX * place, label(engine), figures, px_per_ms)
    return canvas


def _identity(engine: BackendConfig) -> dict[str, str]:
    return {"backend": engine.name, "device": engine.device, "precision": engine.precision}


def _row(engine: BackendConfig, figures: Figures) -> tuple[str, ...]:
    pre, inference, post, step = (figures.ms[stage] for stage in STAGES)
    times = (pre.p50, inference.p50, inference.p95, inference.p99, post.p50, step.p50, step.p95, step.p99)
    start = sorted(figures.cold_start_s)[len(figures.cold_start_s) // 2]
    ratio = figures.speed
    return (
        label(engine),
        *(f"{ms:.2f}" for ms in times),
        f"{figures.frames_per_s:.1f}",
        f"{figures.gmacs_per_s:.0f}",
        "-" if figures.ceiling_share is None else f"{figures.ceiling_share:.0%}",
        f"{figures.resident_mb:.0f}",
        f"{start:.2f}",
        f"{ratio.median:.2f} ({ratio.lowest:.2f}-{ratio.highest:.2f})",
    )


def _table(rows: list[tuple[str, ...]]) -> Iterator[str]:
    """Columns as wide as they need: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *others in rows:
        yield "  ".join([first.ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(others, widths[1:], strict=True))])


def _medians(figures: Figures) -> dict[str, float]:
    return {stage: figures.ms[stage].p50 for stage in COLOURS}


def _draw_legend(canvas: NDArray[np.uint8], report: Report) -> None:
    manifest = report.bundle.manifest
    title = f"{manifest.profile}, {manifest.frame_macs / 1e9:.2f} GMACs: median ms a frame"
    _write(canvas, title, 10, 22)
    for place, (stage, colour) in enumerate(COLOURS.items()):
        left = _LABEL_PX + 100 * place
        cv2.rectangle(canvas, (left, 34), (left + 12, 46), colour, cv2.FILLED)
        _write(canvas, stage, left + 18, 46)


def _draw_bar(canvas: NDArray[np.uint8], top: int, name: str, figures: Figures, px_per_ms: float) -> None:
    _write(canvas, name, 10, top + 17)
    end = 0.0
    for stage, ms in _medians(figures).items():
        left, right = (_LABEL_PX + round(edge * px_per_ms) for edge in (end, end + ms))
        cv2.rectangle(canvas, (left, top), (max(left, right - 1), top + _BAR_PX), COLOURS[stage], cv2.FILLED)
        end += ms
    _write(canvas, f"{end:.1f}", _LABEL_PX + round(end * px_per_ms) + 8, top + 17)


def _write(canvas: NDArray[np.uint8], text: str, x: int, y: int) -> None:
    cv2.putText(canvas, text, (x, y), _FONT, 0.5, _INK, 1, cv2.LINE_AA)
