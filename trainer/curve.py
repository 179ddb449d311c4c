"""Figures over a training, from the states that it kept: does it settle, or swing from one evaluation to the next?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from edge_ad.console import say, write_json
from edge_ad.errors import DataError
from edge_ad.images import sha256_file
from trainer.data.folder import TestImage, list_test
from trainer.data.look_over import look_over
from trainer.evaluate import evaluate, run_subject, score_images
from trainer.export import load_method
from trainer.plots import draw_curves
from trainer.results import Result, result_of_run, write_result
from trainer.run import Run, load_weights, put_weights, snapshots
from trainer.tables import FIGURES, figure, measured_before

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


def state_of(result: Result) -> State:
    """What a result says of one."""
    training = result.training
    return State(training.steps, training.minutes, {name: figure(result, name) for name in FIGURES})


def curve(run: Run, data: Path, out: Path, results: Path | None = None) -> Path:
    """Measure every state that a run kept, and draw it.

    Args:
        run: trained with snapshots.
        data: MVTec layout. Whatever is decided by the curve must not be decided by test images.
        out: folder for curve.json and curve.png; made if missing.
        results: a folder of results, which keeps each state as soon as it is measured; none in it is measured again.

    Returns:
        The picture.

    Raises:
        DataError: the run kept no states, or there are no images, or not of both kinds.
    """
    images, method, states = _images(data), load_method(run), []
    known = _kept(run, data, results)
    for path in snapshots(run.path):
        result = known.get(sha256_file(path))
        if result is None:
            put_weights(method, load_weights(path)["average"], run)
            subject = run_subject(run, method.graph(), torch.device("cpu"))
            measured = evaluate(subject, score_images(subject, images))
            result = result_of_run(run, data, measured, snapshot=path)
            if results is not None:
                write_result(results, result)
        states.append(state_of(result))
        told = " ".join(f"{name} {value:.4f}" for name, value in states[-1].figures.items() if value is not None)
        say(f"{states[-1].minutes:6.1f} min, step {states[-1].step}: {told}")
    end, spreads = last_states(states), end_spread(states)
    share = 1 - end[0].minutes / max(end[-1].minutes, math.ulp(1.0))  # a training of no time at all
    over = f"{len(end)} states, the last {share:.0%} of the training"
    for name, spread in spreads.items():
        say(f"{name}: {spread:.4f} between the highest and the lowest of {over}")
    out.mkdir(parents=True, exist_ok=True)
    listed = [asdict(state) for state in states]
    body = {"schema": SCHEMA, "set": data.resolve().name, "seed": run.seed, "states": listed}
    write_json(out / "curve.json", body | {"end_states": len(end), "end_spread": spreads})
    picture = out / "curve.png"
    draw_curves(picture, {f"seed {run.seed}": [(state.minutes, state.figures) for state in states]})
    return picture


def _kept(run: Run, data: Path, results: Path | None) -> dict[str | None, Result]:
    """SHA-256 of a snapshot -> its result, where it was measured on these images before."""
    if results is None:
        return {}
    return {result.weights: result for result in measured_before(results, data, run.config) if result.state}


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
