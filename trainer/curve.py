"""Figures over a training, from the states that it kept: does it settle, or swing from one evaluation to the next?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from edge_ad.console import say, write_json
from edge_ad.errors import DataError
from trainer.data.folder import TestImage, list_test
from trainer.data.look_over import look_over
from trainer.evaluate import evaluate, run_subject, score_images
from trainer.export import load_method
from trainer.plots import draw_curve
from trainer.run import Run, load_weights, put_weights, snapshots
from trainer.tables import FIGURES

SCHEMA = "edge-ad/curve/1"
END = 0.2  # the last share of a training, over which it should have settled


@dataclass(frozen=True, slots=True)
class State:
    """One state of a training, measured.

    Attributes:
        step, minutes: of training until then.
        figures: name of `trainer.tables.FIGURES` -> fraction; None where the images cannot give it.
    """

    step: int
    minutes: float
    figures: dict[str, float | None]


def curve(run: Run, data: Path, out: Path) -> Path:
    """Measure every state that a run kept, and draw it.

    Args:
        run: trained with snapshots.
        data: MVTec layout. Whatever is decided by the curve must not be decided by test images.
        out: folder for curve.json and curve.png; made if missing.

    Returns:
        The picture.

    Raises:
        DataError: the run kept no states, or there are no images, or not of both kinds.
    """
    images, method, states = _images(data), load_method(run), []
    for path in snapshots(run.path):
        saved = load_weights(path)
        put_weights(method, saved["average"], run)
        subject = run_subject(run, method.graph(), torch.device("cpu"))
        measured = evaluate(subject, score_images(subject, images))
        states.append(State(saved["step"], saved["seconds"] / 60, {name: measured[name] for name in FIGURES}))
        told = " ".join(f"{name} {value:.4f}" for name, value in states[-1].figures.items() if value is not None)
        say(f"{states[-1].minutes:6.1f} min, step {states[-1].step}: {told}")
    end, spreads = last_states(states), end_spread(states)
    over = f"{len(end)} states, the last {1 - end[0].minutes / end[-1].minutes:.0%} of the training"
    for name, spread in spreads.items():
        say(f"{name}: {spread:.4f} between the highest and the lowest of {over}")
    out.mkdir(parents=True, exist_ok=True)
    listed = [asdict(state) for state in states]
    body = {"schema": SCHEMA, "set": data.resolve().name, "seed": run.seed, "states": listed}
    write_json(out / "curve.json", body | {"end_states": len(end), "end_spread": spreads})
    picture = out / "curve.png"
    draw_curve(picture, [(state.minutes, state.figures) for state in states])
    return picture


def _images(data: Path) -> list[TestImage]:
    """The test images; refused before every state is measured on them where no figure can come of it."""
    images = list_test(data)
    if len({image.defect for image in images}) < 2:
        raise DataError(f"no curve from {data}: it needs both test/good and test/<defect> (MVTec layout)")
    look_over(data, images)
    return images


def end_spread(states: Sequence[State]) -> dict[str, float]:
    """Figure -> highest less lowest over the end of the training; nothing where that is one state."""
    last = last_states(states)
    known = {name: [v for state in last if (v := state.figures[name]) is not None] for name in FIGURES}
    return {name: max(values) - min(values) for name, values in known.items() if len(values) > 1}


def last_states(states: Sequence[State]) -> list[State]:
    """The states of the last `END` of the training, by its time; the last two where fewer lie in it."""
    begin = (1 - END) * states[-1].minutes
    last = [state for state in states if state.minutes >= begin or math.isclose(state.minutes, begin)]
    return last if len(last) > 1 else list(states[-2:])
