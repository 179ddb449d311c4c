"""Fit a peer, measure it exactly as ours is measured, keep the result. Each in a process of its own."""

from __future__ import annotations

import datetime
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from benchmarks.peers.memory import grown_mb, start_mb
from benchmarks.peers.methods import PEERS, Settings
from benchmarks.peers.reference import load_anomalib
from edge_ad.backends.openvino import load_vendor
from edge_ad.bundle import MANIFEST, open_bundle
from edge_ad.core.layout import Layout
from edge_ad.errors import ConfigError
from edge_ad.frames import FrameGraph
from edge_ad.records import Roi
from trainer.data.folder import list_test, load_tiles, split_good
from trainer.evaluate import Subject, TorchBackend, evaluate, open_subject, score_images
from trainer.provenance import source_version
from trainer.results import FACTS, Result, result_of_bundle, result_of_run, set_facts
from trainer.run import open_run

T = TypeVar("T")
EDGE = Layout(256, 256)  # pixels: the input of that profile


@dataclass(frozen=True, slots=True)
class View:
    """What of a picture reaches a network, and how: figures are comparable where it is the same for all."""

    layout: Layout = EDGE
    roi: Roi | None = None

    def told(self) -> dict[str, Any]:
        """For a peer's configuration; what is not said is whole frames, stretched to one tile."""
        layout = asdict(self.layout)
        names = ["height", "width"]
        if self.layout.fit != "stretch":
            names += ["fit"]
        if self.layout.tiles > 1:
            names += ["rows", "columns", "overlap", "turns"]
        return {name: layout[name] for name in names} | ({"roi": asdict(self.roi)} if self.roi else {})


@dataclass(frozen=True, slots=True)
class Task:
    """One peer on one set.

    Attributes:
        method: of `PEERS`.
        data: the set, MVTec layout.
        view: of its images.
        hold_out: share of the good images that it does not see, as in our own trainings.
        model: where the fitted graph is kept between the two processes.
    """

    method: str
    data: Path
    view: View
    hold_out: float
    settings: Settings
    model: Path


@dataclass(frozen=True, slots=True)
class Training:
    """What a fit took, and what it was given."""

    images: int
    steps: int
    minutes: float
    config: dict[str, Any]


def apart(function: Callable[..., T], *arguments: object) -> T:
    """The result of a function that ran in a fresh process: what it takes of memory is its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def fit(task: Task) -> Training:
    """Fit a peer to the good images that ours trains on, and keep its graph. The time is the fit's alone."""
    split = split_good(task.data, task.hold_out, task.settings.seed, task.view.roi)
    images = load_tiles(list(split.train), task.view.roi, task.view.layout)
    started = time.monotonic()
    fitted = PEERS[task.method].fit(images, task.settings)
    minutes = (time.monotonic() - started) / 60
    torch.save(fitted.graph, task.model)
    facts = {
        "hold_out": task.hold_out,
        "input": task.view.told(),
        "anomalib": version("anomalib"),
    }
    return Training(len(split.train), fitted.steps, round(minutes, 3), fitted.config | facts)


def measure(task: Task, training: Training, note: str) -> Result:
    """The result of a fitted peer on the test images."""
    load_anomalib("models")  # libraries are not the model's memory
    start = start_mb()
    graph: nn.Module = torch.load(task.model, weights_only=False)  # written by `fit`, a moment ago
    facts = {
        "method": task.method,
        "profile": PEERS[task.method].profile,
        "backend": "torch",
        "precision": "fp32",
        "seed": task.settings.seed,
        "macs": None,
        "params": sum(value.numel() for value in graph.state_dict().values()),
    }
    frames = FrameGraph(TorchBackend(graph, torch.device("cpu")), task.view.layout, top_k=1)  # its own score
    evaluation = measured(Subject(frames, facts, task.view.roi, None), task.data, start)
    now = datetime.datetime.now(datetime.timezone.utc)
    return Result.model_validate(
        {
            **{name: evaluation[name] for name in FACTS},
            **set_facts(task.data),
            "variant": None,
            "config": training.config,
            "weights": digest(graph),
            "commit": source_version(),
            "made_at": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "training": {"images": training.images, "steps": training.steps, "minutes": training.minutes},
            "figures": {name: value for name, value in evaluation.items() if name not in FACTS},
            "note": note,
        }
    )


def measured(subject: Subject, data: Path, start: float | None) -> dict[str, Any]:
    """The evaluation JSON, and the memory that the model has taken since `start` when it has seen one image."""
    subject.graph.warm_up()
    memory = grown_mb(start)
    return evaluate(subject, score_images(subject, list_test(data))) | {"memory_mb": memory}


def view_of(paths: Sequence[Path]) -> View:
    """What runs and bundles of ours see, which peers are to see as well; what `edge` sees where there are none.

    Raises:
        EdgeAdError: one cannot be opened, or sees another picture than the first.
    """
    views = {path: _view(path) for path in paths}
    for path, view in views.items():
        if view != views[paths[0]]:
            raise ConfigError(f"{path} has another size, fit, tiles or ROI than {paths[0]}: compare them one by one")
    return views[paths[0]] if views else View()


def _view(path: Path) -> View:
    if (path / MANIFEST).exists():
        manifest = open_bundle(path).manifest
        roi = manifest.training.roi
        return View(manifest.input.frame_layout(), roi.record() if roi else None)
    config = open_run(path).config
    return View(config.input.frame_layout(), config.data.roi_record())


def measure_ours(path: Path, data: Path, backend: str | None, note: str) -> Result:
    """The result of one of our runs or bundles, measured in the same way."""
    if backend == "openvino":  # libraries are not counted, and this one is not loaded yet
        load_vendor().Core()
    start = start_mb()
    subject = open_subject(path, backend, "fp32", None)
    evaluation = measured(subject, data, start)
    if (path / MANIFEST).exists():
        result = result_of_bundle(open_bundle(path).manifest, data, evaluation)
    else:
        result = result_of_run(open_run(path), data, evaluation)
    return result.model_copy(update={"note": note})


def digest(graph: nn.Module) -> str:
    """SHA-256 of all values of a graph."""
    total = hashlib.sha256()
    values: Mapping[str, torch.Tensor] = graph.state_dict()
    for name, value in values.items():
        total.update(name.encode() + np.ascontiguousarray(value.numpy()).tobytes())
    return total.hexdigest()
