"""The ways to reconstruct that the paper compares (its Tables VII and VIII, Figures 8 to 10).

All but the auto-encoder run on the weights of one training; an auto-encoder is trained as such (`diffusion.diffuse`).
The segmentation network of a run has learned beside its own way, which gives that one a head start. So has the
denoiser: where it was trained without guidance (`diffusion.w: 0`), it has not seen the larger noise scale.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from edge_ad.config import Strict
from trainer.config import DiffusionConfig

Timestep = Annotated[int, Field(ge=0)]


class NormGuided(Strict):
    """One step at two scales, the smaller one guided by the larger: DiffusionAD."""

    kind: Literal["norm_guided"] = "norm_guided"
    t_s: Timestep
    t_b: Timestep
    w: float = Field(ge=0)

    def passes(self) -> int:
        """Passes through the denoiser for one image."""
        return 2

    def __str__(self) -> str:
        return f"norm-guided, t_s {self.t_s}, t_b {self.t_b}, w {self.w:g}"


class OneStep(Strict):
    """One step at one scale, without guidance."""

    kind: Literal["one_step"] = "one_step"
    t: Timestep

    def passes(self) -> int:
        """See `NormGuided.passes`."""
        return 1

    def __str__(self) -> str:
        return f"one step from {self.t}"


class Iterative(Strict):
    """The ancestral sampler of DDPM from timestep t down, every timestep."""

    kind: Literal["iterative"] = "iterative"
    t: Timestep
    eta: ClassVar[float] = 1.0

    def passes(self) -> int:
        """See `NormGuided.passes`."""
        return self.t + 1

    def __str__(self) -> str:
        return f"iterative from {self.t}"


class Ddim(Strict):
    """DDIM from timestep t down in k steps, no noise between them."""

    kind: Literal["ddim"] = "ddim"
    t: Timestep
    k: int = Field(ge=1)
    eta: ClassVar[float] = 0.0

    def passes(self) -> int:
        """See `NormGuided.passes`."""
        return self.k

    def __str__(self) -> str:
        return f"DDIM from {self.t}, {self.k} steps"


class AutoEncoder(Strict):
    """The denoiser's network without any noise."""

    kind: Literal["auto_encoder"] = "auto_encoder"

    def passes(self) -> int:
        """See `NormGuided.passes`."""
        return 1

    def __str__(self) -> str:
        return "auto-encoder"


Variant = Annotated[NormGuided | OneStep | Iterative | Ddim | AutoEncoder, Field(discriminator="kind")]
KINDS = ("auto_encoder", "one_step", "norm_guided", "ddim", "iterative")

DDIM_STEPS, PAPER_W = 30, 1.0  # as in the paper
ONE_STEP = (50, 100, 200, 300, 400, 500, 600, 800)
SMALL = (50, 100, 150, 200, 250)
BIG = (300, 400, 500, 600, 800)
WEIGHTS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)


def own_variant(d: DiffusionConfig) -> NormGuided | OneStep | AutoEncoder:
    """What a configuration trains and deploys."""
    return in_one_step(d.t_s, d.t_b, d.w) if d.diffuse else AutoEncoder()


def in_one_step(t_s: int, t_b: int, w: float) -> NormGuided | OneStep:
    """One step from t_s, guided from t_b where the weight w is above 0."""
    return NormGuided(t_s=t_s, t_b=t_b, w=w) if w > 0 else OneStep(t=t_s)


def guided(t_s: int, t_b: int, w: float) -> NormGuided:
    """Norm guidance to compare a configuration with: with the paper's weight where it has none of its own."""
    return NormGuided(t_s=t_s, t_b=t_b, w=w or PAPER_W)


def methods(d: DiffusionConfig) -> list[Variant]:
    """The ways that are compared at a configuration's own scales: the paper's Table VII.

    Many steps begin at the largest scale that was trained: t_b where there is guidance, else t_s.
    """
    if not d.diffuse:
        return [AutoEncoder()]
    begin = d.t_b if d.w > 0 else d.t_s
    many: list[Variant] = [Ddim(t=begin, k=min(DDIM_STEPS, begin + 1)), Iterative(t=begin)]
    return [OneStep(t=d.t_s), OneStep(t=d.t_b), guided(d.t_s, d.t_b, d.w), *many]


def scales(d: DiffusionConfig) -> list[Variant]:
    """One step at many noise scales, and norm guidance with one of its two scales moved."""
    if not d.diffuse:
        return []
    single: list[Variant] = [OneStep(t=t) for t in ONE_STEP if t < d.timesteps]
    own = guided(d.t_s, d.t_b, d.w)
    small = [own.model_copy(update={"t_s": t}) for t in SMALL if t < d.t_b]
    big = [own.model_copy(update={"t_b": t}) for t in BIG if d.t_s < t < d.timesteps]
    return [*single, *small, *big]


def weights(d: DiffusionConfig) -> list[Variant]:
    """Norm guidance with many weights."""
    return [NormGuided(t_s=d.t_s, t_b=d.t_b, w=w) for w in WEIGHTS] if d.diffuse else []


def compared(d: DiffusionConfig) -> list[Variant]:
    """All of them, each once."""
    found = [*methods(d), *scales(d), *weights(d)]
    return [variant for place, variant in enumerate(found) if variant not in found[:place]]
