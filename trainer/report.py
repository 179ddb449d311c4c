"""The report of an evaluation: one HTML page that a person looks at, with its pictures beside it.

index.html   figures, a row for each kind of defect, the plots, the images that a person should look at
roc.png  precision-recall.png  scores.png  sizes.png
regions.csv  a row for each defect: file, label, bounding box and area in pixels of the map, overlap (AUPRO is its mean)
good-highest-00.png ...  defect-lowest-00.png ...  defect-highest-00.png ...; highest-00.png ... of a plain folder
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.container import Container
from matplotlib.figure import Figure
from numpy.typing import NDArray

from edge_ad.core.preprocess import shown
from edge_ad.images import read_image, write_png
from edge_ad.names import printable
from edge_ad.pictures import panel
from trainer.data.folder import GOOD
from trainer.drawn import drawn
from trainer.evaluate import Scored, Subject, is_labelled, masks_of, verdict
from trainer.metrics import Ranking, Region, rank, regions

EACH = 8  # images of a group
POINTS = 2000  # of a curve: more cannot be seen
GROUPS = {
    "good-highest": "Good images with the highest scores: false alarms to be",
    "defect-lowest": "Defects with the lowest scores: misses to be",
    "defect-highest": "Defects with the highest scores",
    "highest": "Images with the highest scores",
}
FIGURES = {
    "image_auroc": "image AUROC",
    "image_ap": "image AP",
    "image_f1_max": "image F1-max",
    "pixel_auroc": "pixel AUROC",
    "pixel_ap": "pixel AP",
    "pixel_f1_max": "pixel F1-max",
    "aupro": "AUPRO, FPR to 0.3",
    "aupro_005": "AUPRO, FPR to 0.05",
}
CLASS_FIGURES = {name: FIGURES[name] for name in ("image_auroc", "image_ap", "pixel_auroc", "pixel_ap", "aupro")} | {
    "pointing": "pointing game"
}
FACTS = ("method", "profile", "backend", "precision", "seed", "n_good", "n_defect", "params", "macs")
STYLE = """
body { font-family: sans-serif; margin: 2em auto; max-width: 1100px; color: #222 }
table { border-collapse: collapse; margin: 1em 0 } td, th { padding: .25em .8em; border-bottom: 1px solid #ccc }
th { text-align: left } td.n { text-align: right; font-variant-numeric: tabular-nums } img { max-width: 100% }
"""


def write_report(folder: Path, subject: Subject, scored: Sequence[Scored], result: Mapping[str, Any]) -> Path:
    """Write the page and its pictures; `result` is the evaluation JSON. Returns the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    shown = {group: _write_panels(folder, subject, group, images) for group, images in _groups(scored).items()}
    plots = _write_plots(folder, subject, scored)
    page = folder / "index.html"
    page.write_text(_page(result, plots, shown), encoding="utf-8")
    return page


def _groups(scored: Sequence[Scored]) -> dict[str, list[Scored]]:
    ranked = sorted(scored, key=lambda s: s.score)
    unknown, labelled = [s for s in ranked if not is_labelled(s)], [s for s in ranked if is_labelled(s)]
    good, defect = [s for s in labelled if not s.image.defect], [s for s in labelled if s.image.defect]
    return {
        "good-highest": good[::-1][:EACH],
        "defect-lowest": defect[:EACH],
        "defect-highest": defect[::-1][:EACH],
        "highest": unknown[::-1][:EACH],
    }


def _write_panels(folder: Path, subject: Subject, group: str, images: Sequence[Scored]) -> list[str]:
    names = []
    for place, s in enumerate(images):
        frame = read_image(s.image.path)
        seen = shown(frame, subject.roi, subject.graph.layout)
        mask = s.mask if s.image.mask else None
        found = verdict(s, subject.thresholds)
        caption = f"{s.image.label}/{s.image.path.name}  score {s.score:.4f} {found}".rstrip()
        names.append(f"{group}-{place:02d}.png")
        write_png(folder / names[-1], panel(seen, subject.graph.run(frame, subject.roi).joined(), caption, mask))
    return names


def _write_plots(folder: Path, subject: Subject, scored: Sequence[Scored]) -> list[str]:
    """Draw what the images allow: curves need both kinds, pixel curves masks with both kinds of pixels."""
    labelled = [s for s in scored if is_labelled(s)]
    masks = masks_of(labelled)
    rankings = _rankings(labelled, masks)
    names = []
    if rankings:
        _plot(folder / "roc.png", lambda axes: _draw_roc(axes, rankings))
        _plot(folder / "precision-recall.png", lambda axes: _draw_precision_recall(axes, rankings))
        names += ["roc.png", "precision-recall.png"]
    if labelled:
        _plot(folder / "scores.png", lambda axes: _draw_scores(axes, subject, labelled))
        names.append("scores.png")
    if masks is not None and "pixels" in rankings:
        found = regions(masks, rankings["pixels"])
        _write_regions(folder / "regions.csv", labelled, found)
        _plot(folder / "sizes.png", lambda axes: _draw_sizes(axes, labelled, found))
        names.append("sizes.png")
    return names


def _rankings(labelled: Sequence[Scored], masks: Sequence[NDArray[np.bool_]] | None) -> dict[str, Ranking]:
    defect = np.array([s.image.defect for s in labelled], bool)
    if defect.all() or not defect.any():
        return {}
    rankings = {"images": rank(defect, np.array([s.score for s in labelled]))}
    if masks is not None:
        pixels = np.concatenate([mask.ravel() for mask in masks])
        if pixels.any() and not pixels.all():
            rankings["pixels"] = rank(pixels, np.concatenate([s.anomaly_map.ravel() for s in labelled]))
    return rankings


def _write_regions(path: Path, labelled: Sequence[Scored], found: Sequence[Region]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file", "label", "x", "y", "w", "h", "area", "overlap"])
        for r in found:
            image = labelled[r.image].image
            writer.writerow([printable(image.path), image.label, r.x, r.y, r.w, r.h, r.area, f"{r.overlap:.6f}"])


def _plot(path: Path, draw: Callable[[Axes], None]) -> None:
    figure = Figure(figsize=(5.4, 4.2), layout="constrained")
    draw(figure.add_subplot())
    figure.savefig(path, dpi=110)


def _thinned(ranking: Ranking) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """True and false positives at no more than POINTS thresholds, the last one among them."""
    places = np.unique(np.linspace(0, len(ranking.tp) - 1, POINTS).astype(int))
    return ranking.tp[places].astype(np.float64), ranking.fp[places].astype(np.float64)


def _draw_roc(axes: Axes, rankings: Mapping[str, Ranking]) -> None:
    for name, ranking in rankings.items():
        tp, fp = _thinned(ranking)
        axes.plot([0, *(fp / fp[-1])], [0, *(tp / tp[-1])], label=name)
    axes.set(xlabel="false-positive rate", ylabel="true-positive rate", title="ROC")
    axes.legend(loc="lower right")
    axes.grid(alpha=0.3)


def _draw_precision_recall(axes: Axes, rankings: Mapping[str, Ranking]) -> None:
    for name, ranking in rankings.items():
        tp, fp = _thinned(ranking)
        axes.plot(tp / tp[-1], tp / (tp + fp), label=name)
    axes.set(xlabel="recall", ylabel="precision", title="Precision and recall", ylim=(0, 1.02))
    axes.legend(loc="lower left")
    axes.grid(alpha=0.3)


def _draw_scores(axes: Axes, subject: Subject, labelled: Sequence[Scored]) -> None:
    kinds = sorted({s.image.label for s in labelled}, key=lambda label: (label != GOOD, label))
    scores = [[s.score for s in labelled if s.image.label == kind] for kind in kinds]
    axes.hist(scores, bins=30, stacked=True)
    handles: list[Artist | Container] = [*axes.containers]
    labels = [drawn(kind) for kind in kinds]
    if subject.thresholds is not None:
        handles.append(axes.axvline(subject.thresholds.image, color="black", linestyle="--"))
        labels.append("threshold")
    axes.set(xlabel="score", ylabel="images", title="Scores")
    axes.legend(handles, labels)


def _draw_sizes(axes: Axes, labelled: Sequence[Scored], found: Sequence[Region]) -> None:
    """Each defect: how large it is, and how much of it is found."""
    kinds = sorted({labelled[r.image].image.label for r in found})
    for kind in kinds:
        own = [r for r in found if labelled[r.image].image.label == kind]
        axes.plot([r.area for r in own], [r.overlap for r in own], "o", alpha=0.6, markersize=4)
    axes.set(xlabel="size, pixels of the map", ylabel="overlap, FPR to 0.3", title="Defects", xscale="log")
    axes.set_ylim(-0.02, 1.02)
    axes.legend(axes.lines, [drawn(kind) for kind in kinds])
    axes.grid(alpha=0.3)


def _page(result: Mapping[str, Any], plots: Sequence[str], shown: Mapping[str, Sequence[str]]) -> str:
    sections = [
        _table([[name, _text(result[name])] for name in FACTS]),
        "<h2>Figures</h2>",
        _table([[title, _text(result[name])] for name, title in FIGURES.items()]),
        "<h2>Kinds of defect</h2>" + _classes(result["per_defect"]) if result["per_defect"] else "",
        *(f'<img src="{name}" alt="{name}">' for name in plots),
    ]
    for group, names in shown.items():
        if names:
            sections.append(f"<h2>{GROUPS[group]}</h2>")
            sections += [f'<p><img src="{name}" alt="{name}"></p>' for name in names]
    title = escape(f"{result['method']}, profile {result['profile']}: evaluation")
    body = "\n".join(section for section in sections if section)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>\n'
        f"<style>{STYLE}</style></head><body>\n<h1>{title}</h1>\n{body}\n</body></html>\n"
    )


def _classes(per_defect: Mapping[str, Mapping[str, Any]]) -> str:
    """A row for each kind of defect, each against all good images."""
    header = ["defect", "images", *CLASS_FIGURES.values()]
    rows = [[kind, str(f["n"]), *(_text(f[name]) for name in CLASS_FIGURES)] for kind, f in per_defect.items()]
    return _table(rows, header)


def _table(rows: Sequence[Sequence[str]], header: Sequence[str] = ()) -> str:
    head = "<tr>" + "".join(f"<th>{escape(cell)}</th>" for cell in header) + "</tr>" if header else ""
    lines = [
        f"<tr><th>{escape(row[0])}</th>" + "".join(f'<td class="n">{escape(cell)}</td>' for cell in row[1:]) + "</tr>"
        for row in rows
    ]
    return f"<table>{head}{''.join(lines)}</table>"


def _text(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
