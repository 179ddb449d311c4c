"""Read and verify a bundle: the boundary between the trainer, which writes it, and the device, which runs it.

A bundle is a directory, immutable once written (docs/bundle.md). `digest` in its manifest is the SHA-256 of the
manifest without that field; every other file is listed with its own SHA-256. So one short string names the whole.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from edge_ad.config import Precision, RoiConfig
from edge_ad.core.layout import Fit, Layout
from edge_ad.errors import BundleError
from edge_ad.images import sha256_file
from edge_ad.records import RawOutput

SCHEMA: Literal["edge-ad/bundle"] = "edge-ad/bundle"
SCHEMA_VERSION: Literal[1] = 1
MANIFEST = "manifest.json"
GOLDEN = "golden.npz"
PROGRAM = "model.pt2"
# FP16 and BF16 are FP32 that an engine rounds, so they have the file and the golden outputs of FP32.
MODEL_FILE: dict[Precision, str] = {
    "fp32": "model.onnx",
    "fp16": "model.onnx",
    "bf16": "model.onnx",
    "int8": "model.int8.onnx",
}
GOLDEN_PREFIX: dict[Precision, str] = {"fp32": "", "fp16": "", "bf16": "", "int8": "int8_"}  # of arrays in golden.npz


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TileGrid(_Strict):
    """A frame's tiles: a fixed grid on its canvas (core/layout.py); one tile is the whole canvas."""

    rows: int = Field(1, ge=1)
    columns: int = Field(1, ge=1)
    overlap: int = Field(32, ge=0, multiple_of=2, description="pixels that neighbours share, of the graph's")
    turns: bool = Field(False, description="rows and columns change places for a frame that is taller than wide")

    def layout(self, height: int, width: int, fit: Fit) -> Layout:
        """With tiles of this size: where they lie on a frame."""
        return Layout(height, width, fit, self.rows, self.columns, self.overlap, self.turns)


class InputSpec(_Strict):
    """The graph's input: uint8 (N, height, width, 3) RGB; `fit` and `tiles` say how a frame gets there."""

    height: int = Field(gt=0)
    width: int = Field(gt=0)
    dtype: Literal["uint8"] = "uint8"
    layout: Literal["NHWC"] = "NHWC"
    colour: Literal["RGB"] = "RGB"
    fit: Fit = "stretch"
    tiles: TileGrid = TileGrid()

    @model_validator(mode="after")
    def _possible(self) -> InputSpec:
        self.frame_layout()
        return self

    def frame_layout(self) -> Layout:
        """The same for those who prepare frames."""
        return self.tiles.layout(self.height, self.width, self.fit)


class DiffusionSpec(_Strict):
    """The constants inside the graph, for the record: timesteps, guidance weight, schedule and noise seed.

    Where the weight `w` is 0 nothing is guided, and `t_b` is not in the graph.
    """

    t_s: int
    t_b: int
    w: float
    beta_start: float
    beta_end: float
    timesteps: int
    noise_seed: int


class Tolerance(_Strict):
    """Largest difference from the golden outputs: absolute for the maps, relative for the score."""

    anomaly_map: float
    reconstruction: float
    score_relative: float


class TrainingSummary(_Strict):
    """Where the weights come from; the hashes let calibration refuse images that the network has seen."""

    seed: int
    steps: int
    minutes: float
    images_sha256: tuple[str, ...]
    calibration_sha256: tuple[str, ...]
    roi: RoiConfig | None = Field(None, description="what of the training images was used; None: all of each")
    data_licence: str | None = None
    config_sha256: str | None = Field(None, description="of the training's configuration, resolved")
    max_steps: int | None = Field(None, description="asked for")
    max_minutes: float | None = Field(None, description="asked for, where a time was")
    commits: tuple[str, ...] = Field((), description="of the code that trained, in order; of old, it is not told")


class Drift(_Strict):
    """Mean absolute difference of INT8 from FP32 over the golden outputs."""

    anomaly_map: float
    reconstruction: float
    score: float


class QuantisationSummary(_Strict):
    """How the INT8 graph was made, and what it changes: measured on good images and synthetic defects on them."""

    range_rule: str = Field(description="how the range of a tensor follows from its magnitudes")
    images_sha256: tuple[str, ...] = Field(description="good images that the ranges are from")
    int8_layers: int = Field(gt=0, description="convolutions that run in INT8")
    fp32_layers: tuple[str, ...] = Field(description="convolutions that stay in FP32, the most sensitive first")
    score_correlation: float = Field(description="Pearson, between the scores of INT8 and FP32")
    image_auroc_change: float = Field(description="INT8 minus FP32, fractions")
    pixel_ap_change: float = Field(description="INT8 minus FP32, fractions")
    aupro_change: float | None = Field(
        None, description="the same, to FPR 0.3; None in manifests of before it was told"
    )
    golden_drift: Drift = Field(description="the most that INT8 may differ from FP32 on the golden images")


class FileEntry(_Strict):
    """One file of the bundle."""

    sha256: str
    bytes: int


class Manifest(_Strict):
    """`manifest.json`: all that the device needs to know about a model."""

    schema_: Literal["edge-ad/bundle"] = Field(SCHEMA, alias="schema")
    schema_version: Literal[1] = SCHEMA_VERSION
    method: str
    profile: str
    created_at: str
    edge_ad_version: str
    input: InputSpec
    diffusion: DiffusionSpec
    top_k: int = Field(gt=0, description="pixels whose mean is the score")
    macs: int = Field(gt=0, description="multiply-accumulates of one image, N = 1")
    params: int = Field(gt=0)
    pretrained: str | None = Field(
        None, description="weights in the graph that come from elsewhere, with their licence"
    )
    program_torch: str | None = Field(None, description="torch version that wrote model.pt2, where there is one")
    tolerances: dict[str, Tolerance] = Field(description='"<backend>/<precision>" -> tolerance')
    training: TrainingSummary
    int8: QuantisationSummary | None = Field(None, description="where there is an INT8 graph")
    files: dict[str, FileEntry]
    digest: str

    @property
    def frame_macs(self) -> int:
        """Multiply-accumulates of one frame: of all its tiles."""
        return self.macs * self.input.frame_layout().tiles


@dataclass(frozen=True, slots=True)
class Golden:
    """The bundle's own test: `image` (N, H, W, 3) uint8 RGB and what the graph must say about it."""

    image: NDArray[np.uint8]
    expected: RawOutput


@dataclass(frozen=True, slots=True)
class Bundle:
    """A verified bundle on disk."""

    path: Path
    manifest: Manifest

    @property
    def digest(self) -> str:
        """Hex SHA-256 that names the bundle."""
        return self.manifest.digest

    def model_path(self, precision: Precision) -> Path:
        """The ONNX file of a precision.

        Raises:
            BundleError: the bundle was not exported in that precision.
        """
        name = MODEL_FILE[precision]
        if name not in self.manifest.files:
            raise BundleError(
                f"{self.path} holds no {precision} model ({name}): export it with --precision {precision}"
            )
        return self.path / name

    def golden(self, precision: Precision = "fp32") -> Golden:
        """The golden inputs, and the outputs of a precision that `model_path` has a file for."""
        prefix = GOLDEN_PREFIX[precision]
        with np.load(self.path / GOLDEN, allow_pickle=False) as arrays:
            expected = RawOutput(*(arrays[f"{prefix}{name}"] for name in ("anomaly_map", "score", "reconstruction")))
            return Golden(arrays["image"], expected)


def manifest_digest(fields: dict[str, object]) -> str:
    """SHA-256 of the canonical JSON of a manifest, its `digest` left out."""
    body = {key: value for key, value in fields.items() if key != "digest"}
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def open_bundle(path: Path) -> Bundle:
    """Read a bundle and verify every file in it.

    Raises:
        BundleError: something is missing, truncated, altered, or of an unknown schema; the message names the file.
    """
    manifest = _read_manifest(path / MANIFEST)
    for name, entry in manifest.files.items():
        _verify_file(path / name, entry)
    for name in (MODEL_FILE["fp32"], GOLDEN):
        if name not in manifest.files:
            raise BundleError(f"{path / MANIFEST} lists no {name}: export the bundle again")
    if (MODEL_FILE["int8"] in manifest.files) != (manifest.int8 is not None):
        raise BundleError(f"{path / MANIFEST} is of two minds about {MODEL_FILE['int8']}: export the bundle again")
    return Bundle(path, manifest)


def _read_manifest(path: Path) -> Manifest:
    again = "export the bundle again or copy it anew"
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BundleError(f"{path} is missing: {path.parent} is not a bundle, or not all of it") from error
    except (OSError, ValueError) as error:
        raise BundleError(f"{path} cannot be read ({error}): {again}") from error
    if not isinstance(fields, dict) or (fields.get("schema"), fields.get("schema_version")) != (SCHEMA, SCHEMA_VERSION):
        found = (fields.get("schema"), fields.get("schema_version")) if isinstance(fields, dict) else type(fields)
        raise BundleError(f"{path} has schema {found}, this edge-ad reads {(SCHEMA, SCHEMA_VERSION)}: update one")
    if fields.get("digest") != manifest_digest(fields):
        raise BundleError(f"{path} was altered: its digest does not match; {again}")
    try:
        return Manifest.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        raise BundleError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}; {again}") from error


def _verify_file(path: Path, entry: FileEntry) -> None:
    if not path.is_file():
        raise BundleError(f"{path} is missing: copy the bundle anew")
    if path.stat().st_size != entry.bytes:
        raise BundleError(f"{path} has {path.stat().st_size} bytes, the manifest says {entry.bytes}: copy it anew")
    if sha256_file(path) != entry.sha256:
        raise BundleError(f"{path} was altered: its SHA-256 is not the manifest's; copy the bundle anew")
