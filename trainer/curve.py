"""Figures over a training, from the states that it kept: does it settle, or swing from one evaluation to the next?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from edge_ad.console import say, write_json
from trainer.evaluate import evaluate, list_any, run_subject, score_images
from trainer.export import load_method
from trainer.plots import draw_curve
from trainer.run import Run, load_weights, snapshots
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
        DataError: the run kept no states, or there are no images.
    """
    images, method, states = list_any(data), load_method(run), []
    for path in snapshots(run.path):
        saved = load_weights(path)
        method.load_state_dict(saved["average"])
        subject = run_subject(run, method.graph(), torch.device("cpu"))
        measured = evaluate(subject, score_images(subject, images))
        states.append(State(saved["step"], saved["seconds"] / 60, {name: measured[name] for name in FIGURES}))
        told = " ".join(f"{name} {value:.4f}" for name, value in states[-1].figures.items() if value is not None)
        say(f"{states[-1].minutes:6.1f} min, step {states[-1].step}: {told}")
    spreads = end_spread(states)
    for name, spread in spreads.items():
        say(f"{name}: {spread:.4f} between the highest and the lowest over the last {END:.0%} of the training")
    out.mkdir(parents=True, exist_ok=True)
    listed = [asdict(state) for state in states]
    body = {"schema": SCHEMA, "set": data.resolve().name, "seed": run.seed, "states": listed, "end_spread": spreads}
    write_json(out / "curve.json", body)
    picture = out / "curve.png"
    draw_curve(picture, [(state.minutes, state.figures) for state in states])
    return picture


def end_spread(states: Sequence[State]) -> dict[str, float]:
    """Figure -> highest less lowest over the last `END` of the training, by its time; of at least two states."""
    begin = (1 - END) * states[-1].minutes
    last = [state for state in states if state.minutes >= begin or math.isclose(state.minutes, begin)]
    last = last if len(last) > 1 else list(states[-2:])
    known = {name: [v for state in last if (v := state.figures[name]) is not None] for name in FIGURES}
    return {name: max(values) - min(values) for name, values in known.items() if values}
