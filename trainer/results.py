"""How results are kept: one JSON for each evaluation on test images; tables and plots are built from nothing else.

<folder>/<set>/<profile>-<variant>-seed<seed>-<digest>.json, the digest being of the weights and the configuration

Seeds may come from different days and machines. A result says what was measured (`figures`), on what (`set`), with
which weights (`config`, `seed`, `training`, `weights`) and by which code (`commit`).
"""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edge_ad.bundle import Manifest
from edge_ad.config import Strict, first_problem
from edge_ad.console import write_json
from edge_ad.errors import DataError
from edge_ad.images import sha256_file
from trainer.methods.diffusionad.variants import Variant, in_one_step, own_variant
from trainer.run import CHECKPOINT, Run, load_checkpoint

SCHEMA: Literal["edge-ad/benchmark"] = "edge-ad/benchmark"
FACTS = ("method", "profile", "backend", "precision", "seed")  # of the evaluation JSON: no figures


class Training(Strict):
    """What the training took."""

    images: int = Field(description="good images trained on")
    steps: int
    minutes: float = Field(description="all resumptions together")
    waited: float | None = Field(None, description="share of the time that the cores waited for samples")
    processes: int = 1
    computed: str | None = Field(None, description="processor or GPU, threads and precision, of the last resumption")


class Figures(BaseModel):
    """The figures of the evaluation JSON (docs/experiments.md); fractions in 0..1, None where there is none."""

    model_config = ConfigDict(frozen=True, extra="allow")

    n_good: int
    n_defect: int
    image_auroc: float | None
    image_ap: float | None
    image_f1_max: float | None
    pixel_auroc: float | None
    pixel_ap: float | None
    pixel_f1_max: float | None
    aupro: float | None
    aupro_005: float | None
    per_defect: dict[str, dict[str, Any]]
    macs: int | None
    params: int | None
    latency_ms: dict[str, float]
    memory_mb: float | None = Field(None, description="growth of the process from before opening to the first image")


class Result(Strict):
    """One evaluation on test images."""

    schema_: Literal["edge-ad/benchmark"] = Field(SCHEMA, alias="schema")
    schema_version: Literal[1] = 1
    set: str = Field(description="name of the data set's folder")
    method: str
    profile: str
    variant: Variant | None = Field(description="way to reconstruct; None for methods that do not")
    backend: str
    precision: str
    seed: int
    config: dict[str, Any] = Field(description="resolved; of a bundle, what its manifest tells")
    weights: str | None = Field(description="SHA-256 of the checkpoint, or the bundle's digest")
    commit: str | None = Field(description="of the code that trained; None if it is not known")
    made_at: str = Field(description="of the evaluation, ISO 8601, UTC")
    training: Training
    figures: Figures
    note: str = ""

    def file_name(self) -> str:
        """Where it belongs in a folder of results.

        The same weights under the same configuration, measured again, have the same place; a key of the score that was
        changed after the training has another.
        """
        engine = "" if (self.backend, self.precision) == ("torch", "fp32") else f"-{self.backend}-{self.precision}"
        variant = "-".join(str(self.variant).replace(",", "").split()) if self.variant is not None else self.method
        measured = json.dumps([self.weights, self.config], sort_keys=True)
        digest = hashlib.sha256(measured.encode()).hexdigest()[:8]
        return f"{self.set}/{self.profile}-{variant}{engine}-seed{self.seed}-{digest}.json"


def result_of_run(run: Run, data: Path, evaluation: Mapping[str, Any], variant: Variant | None = None) -> Result:
    """The result of an evaluation of a run; `variant` is its own way to reconstruct where none is given.

    Raises:
        DataError: the run has no checkpoint.
    """
    state = load_checkpoint(run.path)
    training = Training(
        images=len(run.train_sha256),
        steps=state["step"],
        minutes=round(state["seconds"] / 60, 2),
        waited=round(state["waited_s"] / state["seconds"], 4) if state.get("waited_s") is not None else None,
        processes=state.get("processes", 1),
        computed=state.get("computed"),
    )
    facts = {
        "variant": variant or own_variant(run.config.diffusion),
        "config": config_of(run),
        "weights": sha256_file(run.path / CHECKPOINT),
        "commit": run.commit,
        "training": training,
    }
    return _result(data, evaluation, facts)


def config_of(run: Run) -> dict[str, Any]:
    """As it was resolved, with the name of a textures folder for its path: where it lies is no part of a result."""
    config = run.config.model_dump(mode="json")
    textures = run.config.synthesis.textures
    config["synthesis"]["textures"] = None if textures is None else textures.name
    return config


def result_of_bundle(manifest: Manifest, data: Path, evaluation: Mapping[str, Any]) -> Result:
    """The result of an evaluation of a bundle."""
    told = manifest.training
    training = Training(images=len(told.images_sha256), steps=told.steps, minutes=told.minutes)
    d = manifest.diffusion
    facts = {
        "variant": in_one_step(d.t_s, d.t_b, d.w),
        "config": manifest.model_dump(mode="json", include={"input", "diffusion", "top_k"}),
        "weights": manifest.digest,
        "commit": None,
        "training": training,
    }
    return _result(data, evaluation, facts)


def _result(data: Path, evaluation: Mapping[str, Any], facts: Mapping[str, Any]) -> Result:
    now = datetime.datetime.now(datetime.timezone.utc)
    figures = {name: value for name, value in evaluation.items() if name not in FACTS}
    return Result.model_validate(
        {
            **{name: evaluation[name] for name in FACTS},
            **facts,
            "set": data.resolve().name,
            "made_at": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "figures": figures,
        }
    )


def write_result(folder: Path, result: Result) -> Path:
    """Put a result into a folder of results; returns its path."""
    path = folder / result.file_name()
    write_json(path, result.model_dump(mode="json", by_alias=True))
    return path


def read_results(folder: Path) -> list[Result]:
    """All results below a folder, oldest first.

    Raises:
        DataError: a file is not a result; it names the file.
    """
    found = [_read(path) for path in sorted(folder.rglob("*.json"))]
    return sorted(found, key=lambda result: (result.made_at, result.file_name()))


def _read(path: Path) -> Result:
    try:
        return Result.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        raise DataError(f"{path}: {first_problem(error)}") from error
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}") from error
