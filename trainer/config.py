"""The trainer's configuration: one YAML profile, checked as a whole; the resolved form is kept in every run."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import ConfigDict, Field, ValidationError, model_validator

from edge_ad.bundle import TileGrid
from edge_ad.config import RoiConfig, Strict, first_problem, load_yaml
from edge_ad.core.layout import Fit, Layout
from edge_ad.errors import ConfigError
from edge_ad.records import Roi

MethodName = Literal["diffusionad"]
METHOD_NAMES = get_args(MethodName)
FEATURE_CHANNELS = {4: 24, 8: 40, 16: 112}  # of the pretrained features: stride, pixels -> channels
SEEDS = range(2**63 // 1_000_003)  # each step draws from seed x 1_000_003 + step, of 64 bits
Fraction = Annotated[float, Field(ge=0, le=1)]
Widths = Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=2, max_length=8)]


class Finite(Strict):
    """No number is infinite or none at all: such a loss or rate would train to weights that are not numbers."""

    model_config = ConfigDict(allow_inf_nan=False)


class InputConfig(Finite):
    """Size of the graph's input, pixels, and how an image gets there (docs/images.md)."""

    height: int = Field(256, ge=32, le=1024, multiple_of=32)
    width: int = Field(256, ge=32, le=1024, multiple_of=32)
    fit: Fit = Field("stretch", description="letterbox keeps the aspect ratio")
    tiles: TileGrid = TileGrid()
    grid: Literal["given", "found"] = Field(
        "given",
        description="found: a single square tile becomes several along the longer side where the good images are "
        "elongated (data/grid.py); a run's own configuration has what was found, as given",
    )

    @model_validator(mode="after")
    def _possible(self) -> InputConfig:
        self.frame_layout()
        return self

    def frame_layout(self) -> Layout:
        """The same for those who prepare images."""
        return self.tiles.layout(self.height, self.width, self.fit)


class DataConfig(Finite):
    """Which images are trained on, and how a good image may vary."""

    hold_out: Fraction = Field(0.2, description="share of the good images kept for calibration, never trained on")
    roi: RoiConfig | None = None
    rotate_deg: float = Field(1.0, ge=0, le=180)
    shift: Fraction = Field(0.01, description="of the image's size, each axis")
    zoom: Fraction = Field(0.01, description="relative change of scale")
    brightness: Fraction = Field(0.03, description="offset, of full scale")
    contrast: Fraction = Field(0.05, description="relative change around mid grey")
    flip: bool = Field(False, description="mirror in both axes; only for parts whose mirror image is as good")
    symmetry: Literal["given", "found"] = Field(
        "given", description="found: also mirror and turn as the good images show to be as good (data/symmetry.py)"
    )

    def roi_record(self) -> Roi | None:
        """The ROI as the frame path's record."""
        return self.roi.record() if self.roi is not None else None


LEAST_ABAR = 1e-8  # alpha_bar: less is no number in float32 to divide by
WEIGHTS_LICENCE = "copyright 2020 ML Illustrated, Apache-2.0, http://www.apache.org/licenses/LICENSE-2.0"


class DiffusionConfig(Finite):
    """The forward process, the noise scales and the guidance (DiffusionAD section III)."""

    diffuse: bool = Field(True, description="false: no noise at all, a plain auto-encoder, for comparison")
    timesteps: int = Field(1000, ge=2)
    beta_start: float = Field(1e-4, gt=0, lt=1)
    beta_end: float = Field(2e-2, gt=0, lt=1)
    prediction: Literal["eps", "x0"]
    t_s: int = Field(200, ge=0, description="smaller noise scale at test time, 0-based")
    t_b: int = Field(400, ge=0, description="larger noise scale at test time, 0-based; not used where w is 0")
    tau: int = Field(300, ge=1, description="training draws t_s below tau and t_b from tau on")
    w: float = Field(1.0, ge=0, description="guidance weight; 0: one step from t_s alone, in training too")
    near: Fraction = Field(0.0, description="share of training draws within near_width of the test scales")
    near_width: int = Field(50, ge=1)
    clamp: bool = Field(False, description="clip the guide and the guided image to [-1, 1], as the authors' code does")

    @model_validator(mode="after")
    def _ordered(self) -> DiffusionConfig:
        if not self.t_s < self.tau <= self.t_b < self.timesteps:
            raise ValueError("need t_s < tau <= t_b < timesteps")
        if self.beta_start > self.beta_end:
            raise ValueError("need beta_start <= beta_end")
        return self

    @model_validator(mode="after")
    def _noise_to_predict(self) -> DiffusionConfig:
        if not self.diffuse and self.prediction == "eps":
            raise ValueError("without noise (diffuse: false) there is none to predict: set prediction to x0")
        return self

    @model_validator(mode="after")
    def _something_is_left_of_the_image(self) -> DiffusionConfig:
        step = (self.beta_end - self.beta_start) / (self.timesteps - 1)
        left = math.prod(1 - self.beta_start - t * step for t in range(self.timesteps))
        if self.prediction == "eps" and left < LEAST_ABAR:
            raise ValueError(
                f"nothing is left of the image at the last of these timesteps (alpha_bar {left:.0e}), "
                "and prediction: eps divides by it: lower beta_end or timesteps"
            )
        return self


class UNetConfig(Finite):
    """The published denoiser (nets/unet.py)."""

    kind: Literal["unet"]
    base: int = Field(128, ge=32, multiple_of=32)
    multipliers: Widths = (1, 1, 2, 2, 4, 4)
    blocks: int = Field(2, ge=1)
    attention_factors: tuple[int, ...] = (8, 16, 32)
    heads: int = Field(4, ge=1)

    @model_validator(mode="after")
    def _heads_share_channels(self) -> UNetConfig:
        levels = [m for level, m in enumerate(self.multipliers) if 2**level in self.attention_factors]
        if any(self.base * m % self.heads for m in [*levels, self.multipliers[-1]]):
            raise ValueError("heads must divide the channels, base x multiplier, wherever there is attention")
        return self

    def stride(self, fold: int) -> int:
        """What the image's size must be a multiple of, pixels."""
        return fold << (len(self.multipliers) - 1)


class _Pyramid(Finite):
    """A network of nets/edge.py."""

    kind: Literal["edge"]
    widths: Widths

    def strides(self, fold: int) -> tuple[int, ...]:
        """Of each level, pixels."""
        return tuple(fold << level for level in range(len(self.widths)))

    def stride(self, fold: int) -> int:
        """What the image's size must be a multiple of, pixels."""
        return self.strides(fold)[-1]

    def feature_levels(self, fold: int) -> dict[int, int]:
        """Level -> channels of the pretrained features that have its resolution."""
        return {level: FEATURE_CHANNELS[s] for level, s in enumerate(self.strides(fold)) if s in FEATURE_CHANNELS}


class EdgeDenoiserConfig(_Pyramid):
    """The small denoiser (nets/edge.py)."""


class PublishedSegmenterConfig(Finite):
    """The published segmentation network (nets/segmenter.py)."""

    kind: Literal["draem"]
    base: int = Field(64, ge=8)

    def stride(self, fold: int) -> int:
        """What the image's size must be a multiple of, pixels."""
        return fold * 32


class EdgeSegmenterConfig(_Pyramid):
    """The small segmentation network (nets/edge.py)."""


Denoiser = Annotated[UNetConfig | EdgeDenoiserConfig, Field(discriminator="kind")]
SegmenterNet = Annotated[PublishedSegmenterConfig | EdgeSegmenterConfig, Field(discriminator="kind")]


class PrototypesConfig(Finite):
    """What good parts look like anywhere (nets/prototypes.py): a place that is near to it has a lower logit."""

    count: int = Field(0, ge=0, le=4096, description="0: none")
    least: float = Field(-1.0, le=0, description="standard deviations from the usual distance: nearer is as this")
    most: float = Field(
        1.5, ge=0, description="standard deviations: farther is as this and keeps its logit, nearer loses 1 for each"
    )


class LossConfig(Finite):
    """Weights of the terms (DiffusionAD Eq. 9 to 12)."""

    denoise: float = Field(1.0, ge=0, description="on good images, both scales summed")
    restore: float = Field(0.0, ge=0, description="on synthetic anomalies, towards the good image; 0 in the paper")
    features: float = Field(0.0, ge=0, description="on the predicted features of the good image; only with evidence")
    smooth_l1: float = Field(1.0, ge=0)
    focal: float = Field(5.0, ge=0)
    focal_alpha: Fraction = 0.5
    focal_gamma: float = Field(4.0, ge=0)
    size_balance: Fraction = Field(
        0.0, description="0: each defective pixel counts alike, as in the paper; 1: each defective image does"
    )


class OptimConfig(Finite):
    """How long and how fast."""

    batch: int = Field(8, ge=2)
    steps: int = Field(..., ge=1)
    denoiser_lr: float = Field(gt=0)
    segmenter_lr: float = Field(gt=0)
    warmup: Fraction = Field(0.02, description="share of training over which the rate rises")
    lr_least: Fraction = Field(0.0, description="share of its peak at which the falling rate stops; best with `ema`")
    weight_decay: float = Field(0.0, ge=0)
    grad_clip: float = Field(0.0, ge=0, description="largest gradient norm; 0 = off")
    ema: Fraction = Field(0.0, description="decay of the averaged weights that are exported; 0 = the last weights")
    precision: Literal["fp32", "bf16"] = Field("bf16", description="bf16: mixed, where the device computes in it")
    anomalous: Fraction = Field(0.5, description="share of each batch with synthetic anomalies")
    half_size: Fraction = Field(0.0, description="first share of training, on images of half the size: faster")

    @model_validator(mode="after")
    def _both_kinds_in_a_batch(self) -> OptimConfig:
        with_defect = round(self.anomalous * self.batch)
        if 0 < self.anomalous < 1 and with_defect in (0, self.batch):
            raise ValueError(
                f"optim.anomalous x optim.batch rounds to {with_defect}: no batch would have both good images and "
                "synthetic defects; change one of them"
            )
        return self


Octave = Annotated[int, Field(ge=0, le=8)]
Size = Annotated[float, Field(gt=0, le=1)]
Odds = Annotated[float, Field(ge=0)]


class SynthesisConfig(Finite):
    """Synthetic anomalies: where (mask kinds), from what (sources) and how strongly (opacity)."""

    perlin: float = Field(1.0, ge=0, description="odds of a Perlin mask")
    blob: float = Field(0.0, ge=0, description="odds of an elliptic blob")
    scratch: float = Field(0.0, ge=0, description="odds of a thin scratch")
    perlin_combined: Fraction = Field(0.0, description="share of Perlin masks that unite or intersect two")
    perlin_union: Fraction = Field(0.5, description="share of these that unite them; the others intersect them")
    perlin_threshold: float = Field(0.5, gt=0, lt=1)
    perlin_scales: tuple[Octave, Octave] = Field((0, 5), description="least and most: 2^scale cells along an axis")
    blobs: int = Field(3, ge=1, le=100, description="the most in one mask")
    blob_sizes: tuple[Size, Size] = Field((0.01, 0.25), description="least and most, of the image's smaller side")
    scratch_widths: tuple[Odds, ...] = Field(
        (0.5, 0.3, 0.2), min_length=1, max_length=64, description="odds of a scratch of 1, 2, 3 ... pixels"
    )
    scratch_lengths: tuple[Size, Size] = Field((0.1, 1.0), description="least and most, of the image's smaller side")
    scratch_wander: float = Field(0.4, ge=0, le=3, description="most radians that a scratch turns by at each joint")
    texture: float = Field(0.5, ge=0, description="odds of a texture as source")
    self_augment: float = Field(0.5, ge=0, description="odds of the image itself, re-coloured and shuffled")
    shuffle: Fraction = Field(1.0, description="share of self-augmented sources that are shuffled; the rest are stains")
    shuffle_cells: Literal[2, 4, 8, 16] = Field(8, description="along each axis, which change places")
    cut_paste: float = Field(0.0, ge=0, description="odds of another place of a good image")
    missing: float = Field(0.0, ge=0, description="odds of a missing piece: its surroundings grow over it")
    foreground: bool = Field(False, description="only onto the part, where an even ground surrounds it")
    textures: Path | None = Field(None, description="folder of texture images; none: procedural textures")
    keep_min: Fraction = Field(
        0.2, description="least weight of the original under the mask; soft_edge_px adds to it where the mask is narrow"
    )
    keep_max: Fraction = Field(0.8, description="largest weight of the original under the mask")
    soft_edge_px: float = Field(0.0, ge=0, description="blur of the mask's border")
    visible: Fraction = Field(0.0, description="a pixel that changed by less is not labelled as defect")

    @model_validator(mode="after")
    def _drawable(self) -> SynthesisConfig:
        if self.perlin + self.blob + self.scratch == 0:
            raise ValueError("one of perlin, blob, scratch must have odds above 0")
        if self.texture + self.self_augment + self.cut_paste + self.missing == 0:
            raise ValueError("one of texture, self_augment, cut_paste, missing must have odds above 0")
        if self.keep_min > self.keep_max:
            raise ValueError("need keep_min <= keep_max")
        for name in ("perlin_scales", "blob_sizes", "scratch_lengths"):
            least, most = getattr(self, name)
            if least > most:
                raise ValueError(f"{name}: need the least first, got [{least:g}, {most:g}]")
        if sum(self.scratch_widths) == 0:
            raise ValueError("scratch_widths: one must have odds above 0")
        return self


class TrainConfig(Finite):
    """One profile of one method."""

    profile: str
    method: MethodName
    top_k: int = Field(50, ge=1, description="pixels whose mean is the score")
    noise_seed: int = Field(0, ge=0, le=2**63 - 1)
    input: InputConfig = InputConfig()
    data: DataConfig = DataConfig()
    diffusion: DiffusionConfig
    fold: int = Field(1, ge=1, le=8, description="pixels along each axis that both networks see as channels; 1: none")
    denoiser: Denoiser
    segmenter: SegmenterNet
    evidence: Literal["none", "efficientnet-lite0"] = Field(
        "none", description="pretrained features: those of the image are compared with those of its normal self"
    )
    prototypes: PrototypesConfig = PrototypesConfig()
    loss: LossConfig = LossConfig()
    optim: OptimConfig
    synthesis: SynthesisConfig = SynthesisConfig()

    @model_validator(mode="after")
    def _published_networks_see_pixels(self) -> TrainConfig:
        if self.fold > 1 and (self.denoiser.kind == "unet" or self.segmenter.kind == "draem"):
            raise ValueError("the published networks (unet, draem) take images as they are: set fold to 1")
        return self

    @model_validator(mode="after")
    def _map_has_pixels(self) -> TrainConfig:
        if self.top_k > self.input.height * self.input.width:
            raise ValueError(f"top_k: a map has {self.input.height} x {self.input.width} pixels, not {self.top_k}")
        return self

    @model_validator(mode="after")
    def _divisible(self) -> TrainConfig:
        """Every level halves the image: its size, and half of it where training uses that, must allow it."""
        step = max(self.denoiser.stride(self.fold), self.segmenter.stride(self.fold))
        if self.optim.half_size > 0:
            step *= 2
        if self.input.height % step or self.input.width % step:
            raise ValueError(f"input must be a multiple of {step} with these networks and this half_size")
        return self

    @model_validator(mode="after")
    def _features_have_levels(self) -> TrainConfig:
        for name, net in (("denoiser", self.denoiser), ("segmenter", self.segmenter)):
            strides = net.strides(self.fold) if isinstance(net, _Pyramid) else ()
            if self.evidence != "none" and not set(FEATURE_CHANNELS) <= set(strides):
                wanted = ", ".join(map(str, FEATURE_CHANNELS))
                raise ValueError(f"evidence needs a {name} of kind edge with levels at strides {wanted}")
        if self.prototypes.count > 0 and self.evidence == "none":
            raise ValueError("prototypes are of pretrained features: set evidence, or prototypes.count to 0")
        return self


def parse(values: dict[str, object], where: str) -> TrainConfig:
    """Check a mapping as a training configuration.

    Raises:
        ConfigError: naming `where`, the key and what is wrong with it.
    """
    try:
        return TrainConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{where}: {first_problem(error)}") from error


def load(path: Path) -> TrainConfig:
    """Read a training configuration file; `textures` is relative to it.

    Raises:
        ConfigError: as `parse`, or the file cannot be read.
    """
    return _textures_from(path.parent.absolute(), parse(load_yaml(path), str(path)))


def _textures_from(folder: Path, config: TrainConfig) -> TrainConfig:
    """The same with its textures, where they are relative, in a folder."""
    textures = config.synthesis.textures
    if textures is None:
        return config
    synthesis = config.synthesis.model_copy(update={"textures": folder / textures})
    return config.model_copy(update={"synthesis": synthesis})


def profile(name: str) -> TrainConfig:
    """A profile that ships with the package (configs/trainer).

    Raises:
        ConfigError: naming the profiles that exist.
    """
    folder = resources.files("trainer").joinpath("profiles")
    names = sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))
    if name not in names:
        raise ConfigError(f"no profile {name!r}: choose from {', '.join(names)}, or give a file with --config")
    return parse(yaml.safe_load(folder.joinpath(f"{name}.yaml").read_text(encoding="utf-8")), f"profile {name}")


def pretrained_weights(config: TrainConfig) -> str | None:
    """Which weights of a network come from elsewhere, with their licence; None if all are trained here."""
    if config.evidence == "none":
        return None
    return f"{config.evidence}, trained on ImageNet ({WEIGHTS_LICENCE})"


def override(config: TrainConfig, changes: Sequence[str]) -> TrainConfig:
    """A configuration with some values replaced, each written KEY.KEY=VALUE, the value as in YAML.

    Textures that are given so are relative to the current directory.

    Raises:
        ConfigError: a change is not of this form, names no key, or does not fit the rest.
    """
    values = config.model_dump()
    for change in changes:
        where, given, text = change.partition("=")
        *sections, key = where.split(".")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {change}: {text} is not YAML") from error
        if not given or not key:
            raise ConfigError(f"--set {change}: write SECTION.KEY=VALUE, for example diffusion.w=0.5")
        _section(values, sections, change)[key] = value
    return _textures_from(Path.cwd(), parse(values, "--set")) if changes else config


def _section(values: dict[str, Any], names: Sequence[str], change: str) -> dict[str, Any]:
    for name in names:
        if not isinstance(values.get(name), dict):
            raise ConfigError(f"--set {change}: there is no section {name}")
        values = values[name]
    return values


def first_difference(one: TrainConfig, other: TrainConfig) -> str | None:
    """The first key, written SECTION.KEY, whose value is not the same in both; None if there is none."""
    return _first_difference(one.model_dump(), other.model_dump())


def _first_difference(one: dict[str, Any], other: dict[str, Any]) -> str | None:
    for key in [*one, *(key for key in other if key not in one)]:
        mine, yours = one.get(key), other.get(key)
        if isinstance(mine, dict) and isinstance(yours, dict):
            below = _first_difference(mine, yours)
            if below is not None:
                return f"{key}.{below}"
        elif mine != yours:
            return key
    return None


def told(config: TrainConfig) -> dict[str, Any]:
    """As results have it: resolved, with the name of a textures folder for its path, which says nothing elsewhere."""
    values = config.model_dump(mode="json")
    textures = config.synthesis.textures
    values["synthesis"]["textures"] = None if textures is None else textures.name
    return values


def digest(values: Mapping[str, Any]) -> str:
    """SHA-256 of a configuration that is told, hex: the same for the same values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def dump(config: TrainConfig) -> str:
    """The resolved configuration as YAML; `load` of it gives the same configuration."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
