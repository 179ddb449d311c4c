"""How results are kept: one JSON for each evaluation on test images; tables and plots are built from nothing else.

<folder>/<set>/<profile>-<variant>-seed<seed>-<digest>.json, the digest being of the weights, the configuration and the
test images. What is measured again lies beside it, as ...-<digest>-2.json: no result ever takes another's place.

Seeds may come from different days and machines. A result says what was measured (`figures`), on what (`set`), with
which weights (`config`, `seed`, `training`, `weights`) and by which code (`commit`).
"""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from edge_ad.bundle import Manifest
from edge_ad.config import Strict, first_problem
from edge_ad.console import write_json
from edge_ad.errors import DataError
from edge_ad.images import list_images, sha256_file
from edge_ad.names import printable
from trainer import config as configs
from trainer.data.folder import list_test
from trainer.methods.diffusionad.variants import Variant, in_one_step, own_variant
from trainer.run import CHECKPOINT, Run, commits, load_checkpoint, load_weights, max_minutes

SCHEMA: Literal["edge-ad/benchmark"] = "edge-ad/benchmark"
BUNDLED = "sha256"  # key of a bundle's configuration: the digest of the one that was trained
FACTS = ("method", "profile", "backend", "precision", "seed")  # of the evaluation JSON: no figures


class Training(Strict):
    """What the training took."""

    images: int = Field(description="good images trained on")
    steps: int
    minutes: float = Field(description="all resumptions together")
    max_minutes: float | None = Field(None, description="asked for, where a time was")
    waited: float | None = Field(None, description="share of the time that the cores waited for samples")
    processes: int = 1
    computed: str | None = Field(None, description="processor or GPU, threads and precision, of the last resumption")
    commits: list[str] = Field([], description="of the code of each resumption, each once, in order; of before, none")


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
    set: Annotated[str, AfterValidator(printable)] = Field(description="name of the data set's folder")
    images_sha256: str | None = Field(None, description="of the test images, their classes and masks; None before that")
    method: str
    profile: str
    variant: Variant | None = Field(description="way to reconstruct; None for methods that do not")
    backend: str
    precision: str
    seed: int
    config: dict[str, Any] = Field(description="resolved; of a bundle, what its manifest tells")
    weights: str | None = Field(description="SHA-256 of the checkpoint, or the bundle's digest")
    commit: str | None = Field(description="of the code that trained, of the last that did; None if it is not known")
    made_at: str = Field(description="of the evaluation, ISO 8601, UTC")
    training: Training
    state: bool = Field(False, description="one of those that a training kept on its way, not what it ended with")
    figures: Figures
    note: str = ""

    def file_name(self) -> str:
        """Where it belongs in a folder of results.

        The same weights under the same configuration on the same images, measured again, have the same place, which
        `write_result` numbers; a key of the score that was changed after the training has another.
        """
        engine = "" if (self.backend, self.precision) == ("torch", "fp32") else f"-{self.backend}-{self.precision}"
        variant = "-".join(str(self.variant).replace(",", "").split()) if self.variant is not None else self.method
        measured = [self.weights, self.config, *([self.images_sha256] if self.images_sha256 else [])]
        digest = hashlib.sha256(json.dumps(measured, sort_keys=True).encode()).hexdigest()[:8]
        name = f"{self.profile}-{variant}{engine}-seed{self.seed}"
        if self.state:
            return f"{self.set}/states/{name}-step{self.training.steps}-{digest}.json"
        return f"{self.set}/{name}-{digest}.json"


def result_of_run(
    run: Run,
    data: Path,
    evaluation: Mapping[str, Any],
    variant: Variant | None = None,
    snapshot: Path | None = None,
) -> Result:
    """The result of an evaluation of a run.

    Args:
        run: what was evaluated.
        data: on what.
        evaluation: the evaluation JSON.
        variant: its own way to reconstruct where none is given.
        snapshot: the state of it that was evaluated; None: its checkpoint.

    Raises:
        DataError: the run has no checkpoint, or the snapshot cannot be read.
    """
    state = load_weights(snapshot) if snapshot else load_checkpoint(run.path)
    trained_by = commits(run, state)
    training = Training(
        images=len(run.train_sha256),
        steps=state["step"],
        minutes=round(state["seconds"] / 60, 6 if snapshot else 2),  # states are close to each other
        max_minutes=max_minutes(state),
        waited=round(state["waited_s"] / state["seconds"], 4) if state.get("waited_s") is not None else None,
        processes=state.get("processes", 1),
        computed=state.get("computed"),
        commits=list(trained_by),
    )
    facts = {
        "variant": variant or own_variant(run.config.diffusion),
        "config": configs.told(run.config),
        "weights": sha256_file(snapshot or run.path / CHECKPOINT),
        "commit": trained_by[-1] if trained_by else None,
        "training": training,
        "state": snapshot is not None,
    }
    return _result(data, evaluation, facts)


def result_of_bundle(manifest: Manifest, data: Path, evaluation: Mapping[str, Any]) -> Result:
    """The result of an evaluation of a bundle."""
    told = manifest.training
    training = Training(
        images=len(told.images_sha256),
        steps=told.steps,
        minutes=told.minutes,
        max_minutes=told.max_minutes,
        commits=list(told.commits),
    )
    d = manifest.diffusion
    facts = {
        "variant": in_one_step(d.t_s, d.t_b, d.w),
        "config": _config_of_bundle(manifest),
        "weights": manifest.digest,
        "commit": told.commits[-1] if told.commits else None,
        "training": training,
    }
    return _result(data, evaluation, facts)


def _config_of_bundle(manifest: Manifest) -> dict[str, Any]:
    """What a manifest tells of the configuration; of old, it does not tell its digest."""
    training = manifest.training
    config = manifest.model_dump(mode="json", include={"input", "diffusion", "top_k"})
    if training.config_sha256 is not None:
        asked = {} if training.max_steps is None else {"optim": {"steps": training.max_steps}}
        return {**config, **asked, BUNDLED: training.config_sha256}
    roi = training.roi.model_dump(mode="json") if training.roi else None
    besides = {"roi": roi, "pretrained": manifest.pretrained}
    return config | {name: value for name, value in besides.items() if value is not None}


def _result(data: Path, evaluation: Mapping[str, Any], facts: Mapping[str, Any]) -> Result:
    now = datetime.datetime.now(datetime.timezone.utc)
    figures = {name: value for name, value in evaluation.items() if name not in FACTS}
    return Result.model_validate(
        {
            **{name: evaluation[name] for name in FACTS},
            **facts,
            **set_facts(data),
            "made_at": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "figures": figures,
        }
    )


def set_facts(data: Path) -> dict[str, Any]:
    """What a result says of the data set that it was measured on: `set` and `images_sha256`.

    Raises:
        DataError: there are no images.
    """
    if (data / "test").is_dir():
        listed = [(image.label, image.path, image.mask) for image in list_test(data)]
    else:
        listed = [("", path, None) for path in list_images(data)]
    contents = sorted([label, sha256_file(path), sha256_file(mask) if mask else ""] for label, path, mask in listed)
    digest = hashlib.sha256(json.dumps(contents).encode()).hexdigest()
    return {"set": printable(data.resolve().name), "images_sha256": digest}


def on_set(results: Iterable[Result], data: Path) -> list[Result]:
    """Those measured on a data set; where a result does not say on which images, on one of its name.

    Raises:
        DataError: as `set_facts`.
    """
    facts = set_facts(data)
    return [r for r in results if r.set == facts["set"] and r.images_sha256 in (None, facts["images_sha256"])]


def write_result(folder: Path, result: Result) -> Path:
    """Put a result into a folder of results, beside those that are there; returns its path."""
    first = folder / result.file_name()
    path, number = first, 1
    while path.exists():
        number += 1
        path = first.with_stem(f"{first.stem}-{number}")
    write_json(path, result.model_dump(mode="json", by_alias=True))
    return path


def read_results(folder: Path) -> list[Result]:
    """All results below a folder, oldest first.

    Raises:
        DataError: a file is not a result; it names the file.
    """
    paths = sorted(
        folder.rglob("*.json"), key=lambda path: (len(path.name), path)
    )  # -2 behind the first, -10 behind -9
    return sorted(map(_read, paths), key=lambda result: (result.made_at, result.file_name()))


def _read(path: Path) -> Result:
    try:
        return Result.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        raise DataError(f"{path}: {first_problem(error)}") from error
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}") from error
