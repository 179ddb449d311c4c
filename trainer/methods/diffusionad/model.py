"""DiffusionAD's two networks, joined: one-step norm-guided reconstruction and segmentation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainer.config import DiffusionConfig, PublishedSegmenterConfig, TrainConfig, UNetConfig
from trainer.data.samples import Batch
from trainer.maths.ddpm import q_sample, x0_from_eps
from trainer.maths.fold import fold, unfold
from trainer.maths.guidance import blend, blend_weight
from trainer.maths.schedule import linear_schedule
from trainer.methods.base import Method
from trainer.methods.diffusionad.graph import Graph, IterativeGraph
from trainer.methods.diffusionad.loss import feature_error, focal, mean_over, over_scales, size_weights, smooth_l1
from trainer.methods.diffusionad.variants import AutoEncoder, NormGuided, OneStep, Variant, own_variant
from trainer.nets.edge import EdgeDenoiser, EdgeSegmenter
from trainer.nets.pretrained import PretrainedFeatures
from trainer.nets.prototypes import STRIDE as PROTOTYPE_STRIDE
from trainer.nets.prototypes import Prototypes, places
from trainer.nets.segmenter import Segmenter
from trainer.nets.unet import UNet

_PLACES = 400  # of each good image that are looked at for prototypes


@dataclass(frozen=True, slots=True)
class Reconstruction:
    """What the denoiser says about N images at S noise scales, t_s before t_b where there are two; images are folded.

    Attributes:
        guided: (N, C, h, w), the norm-guided reconstruction; that of the one scale where there is one.
        x0: for each scale (N, C, h, w), the reconstruction.
        output: for each scale (N, C, h, w), what the network put out: noise or x0.
        guided_features: for each level the prediction of the good image's pretrained features, guided likewise.
        features: for each level and each scale the prediction.
    """

    guided: Tensor
    x0: tuple[Tensor, ...]
    output: tuple[Tensor, ...]
    guided_features: list[Tensor]
    features: list[tuple[Tensor, ...]]


def build_denoiser(config: TrainConfig) -> UNet | EdgeDenoiser:
    """The denoiser of a configuration."""
    net, fold_ = config.denoiser, config.fold
    if isinstance(net, UNetConfig):
        return UNet(net.base, net.multipliers, net.blocks, net.attention_factors, net.heads)
    features = net.feature_levels(fold_) if config.evidence != "none" else None
    return EdgeDenoiser(3 * fold_ * fold_, net.widths, features)


def build_segmenter(config: TrainConfig) -> Segmenter | EdgeSegmenter:
    """The segmentation network of a configuration."""
    net, fold_ = config.segmenter, config.fold
    if isinstance(net, PublishedSegmenterConfig):
        return Segmenter(net.base)
    features = net.feature_levels(fold_) if config.evidence != "none" else None
    return EdgeSegmenter((3 * fold_ * fold_, fold_ * fold_), net.widths, features)


class DiffusionAD(Method):
    """See the package's docstring; `config` decides the sizes, the prediction target and the noise scales.

    Between its entrance and its exit all images are folded (maths/fold.py): (N, C, h, w) with C = 3 fold^2.
    """

    abar: Tensor

    def __init__(self, config: TrainConfig) -> None:
        super().__init__()
        self.config = config
        self.denoiser = build_denoiser(config)
        self.segmenter = build_segmenter(config)
        self.evidence = PretrainedFeatures() if config.evidence != "none" else None
        self.prototypes = Prototypes(config.prototypes.count) if config.prototypes.count > 0 else None
        d = config.diffusion
        abar = torch.tensor(linear_schedule(d.timesteps, d.beta_start, d.beta_end).abar, dtype=torch.float32)
        self.register_buffer("abar", abar if d.diffuse else torch.ones_like(abar), persistent=False)

    def reconstruct(self, x: Tensor, t: Tensor, noise: Tensor, w: float) -> Reconstruction:
        """One-step reconstruction (Eq. 6 to 8), all scales in one pass; norm-guided where there are two.

        Args:
            x: (N, C, h, w), folded, in 0..1.
            t: (N, S) timesteps, t_s before t_b; (1, S) for the same for all.
            noise: (N, S, C, h, w) standard normal, or (1, S, C, h, w).
            w: guidance weight.
        """
        return self.predict(self.diffused(x, t, noise), t, w)

    def diffused(self, x: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """An image (N, C, h, w) at S noise scales (Eq. 2), (N, S, C, h, w); arguments as for `reconstruct`."""
        flat = q_sample(x.flatten(1)[:, None, None], noise.flatten(2)[:, None], self.abar[t][:, None, :, None])
        # (N, 1, S, Chw): were S the second dimension, OpenVINO would lay it out as channels, padded to 16.
        return flat.reshape(-1, *noise.shape[1:])

    def predict(self, x_t: Tensor, t: Tensor, w: float) -> Reconstruction:
        """As `reconstruct`, from what is diffused already, (N, S, C, h, w)."""
        n, scales, abar = x_t.shape[0], x_t.shape[1], self._abar(t)
        rows = x_t.reshape(-1, *x_t.shape[2:])  # (NS, C, h, w): by reshape, so that N stays free in the graph
        found, found_features = self._denoise(rows, t.expand(n, scales).reshape(-1))
        output = _by_scale(found, scales)
        features = [_by_scale(feature, scales) for feature in found_features]
        x0 = output
        if self.config.diffusion.prediction == "eps":
            x0 = tuple(x0_from_eps(x_t[:, scale], output[scale], abar[:, scale]) for scale in range(scales))
        g = blend_weight(abar[:, 0], w)
        return Reconstruction(self._guided(x0, g), x0, output, [_blended(f, g) for f in features], features)

    def _abar(self, t: Tensor) -> Tensor:
        return self.abar[t][:, :, None, None, None]  # (N, S, 1, 1, 1)

    def _denoise(self, rows: Tensor, t: Tensor) -> tuple[Tensor, list[Tensor]]:
        if isinstance(self.denoiser, UNet):
            return self.denoiser(rows, t), []
        found: tuple[Tensor, list[Tensor]] = self.denoiser(rows)
        return found

    def _guided(self, x0: tuple[Tensor, ...], g: Tensor) -> Tensor:
        if not self.config.diffusion.clamp:
            return _blended(x0, g)
        return (x0[0] if len(x0) == 1 else blend(x0[0], x0[1].clamp(-1, 1), g)).clamp(-1, 1)

    def segment(self, x: Tensor, reconstruction: Reconstruction, features: Sequence[Tensor]) -> Tensor:
        """Logits of where a folded image (N, C, h, w) differs from its normal self, folded: (N, fold^2, h, w).

        `features` are the pretrained ones of the same image; none without evidence.
        """
        if not features:
            logits: Tensor = self.segmenter(x, reconstruction.guided)
        else:
            pairs = zip(features, reconstruction.guided_features, strict=True)
            logits = self.segmenter(x, reconstruction.guided, [torch.abs(found - normal) for found, normal in pairs])
        return logits.float()

    @torch.no_grad()
    def observe(self, good: Iterable[Tensor], generator: torch.Generator) -> None:
        """See `Method.observe`: the prototypes, if there are any."""
        if self.evidence is None or self.prototypes is None:
            return
        drawn = []
        for image in good:
            seen = places(self.evidence.raw(image[None].to(self.abar.device))).cpu()
            drawn.append(seen[torch.randperm(len(seen), generator=generator)[:_PLACES]])
        self.prototypes.fit(torch.cat(drawn), generator)

    def suspect(self, logits: Tensor, raw: Sequence[Tensor]) -> Tensor:
        """Logits (N, fold^2, h, w), lowered where a place looks as good parts do somewhere; not in the paper.

        A place that is `most` or more from the nearest prototype keeps the network's logit, others lose what they are
        nearer. Raised instead where it is far, each logit would be as much higher, and the scores of good parts and of
        defects would meet where a sigmoid is flat.

        Args:
            logits: from `segment`.
            raw: `PretrainedFeatures.raw` of the same images.
        """
        if self.prototypes is None:
            return logits
        bounds, fold_ = self.config.prototypes, self.config.fold
        distance = F.interpolate(self.prototypes(raw), scale_factor=PROTOTYPE_STRIDE / fold_, mode="bilinear")
        return logits - (bounds.most - distance.clamp(bounds.least, bounds.most))

    def losses(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """See `Method.losses`: noise loss (Eq. 9) and mask loss (Eq. 10 to 12); not in the paper: restore, features."""
        weights, d = self.config.loss, self.config.diffusion
        n, device = len(batch.image), batch.image.device
        x, clean = fold(batch.image, self.config.fold), fold(batch.clean, self.config.fold)
        t = draw_timesteps(n, d, generator).to(device)
        noise = torch.randn((*t.shape, *x.shape[1:]), generator=generator).to(device)
        found = self.reconstruct(x, t, noise, d.w)
        seen = self.evidence(torch.cat([batch.image, batch.clean])) if self.evidence is not None else []
        logits = unfold(self.segment(x, found, [feature[:n] for feature in seen]), self.config.fold)

        error = over_scales(found.output, noise.unbind(1) if d.prediction == "eps" else [clean] * t.shape[1])
        good = batch.mask.flatten(1).amax(1) == 0
        size = size_weights(batch.mask, weights.size_balance)
        terms = {
            "denoise": weights.denoise * mean_over(error, good),
            "smooth_l1": weights.smooth_l1 * smooth_l1(logits, batch.mask, size),
            "focal": weights.focal * focal(logits, batch.mask, weights.focal_alpha, weights.focal_gamma, size),
        }
        if weights.restore > 0:  # x0, whatever the network predicts: the noise of a defect image is no target
            terms["restore"] = weights.restore * mean_over(over_scales(found.x0, [clean] * t.shape[1]), ~good)
        if seen and weights.features > 0:
            terms["features"] = weights.features * feature_error(found.features, [feature[n:] for feature in seen])
        return terms

    def parameter_groups(self) -> list[dict[str, object]]:
        """See `Method.parameter_groups`."""
        optim = self.config.optim
        return [
            {"params": list(self.denoiser.parameters()), "lr": optim.denoiser_lr},
            {"params": list(self.segmenter.parameters()), "lr": optim.segmenter_lr},
        ]

    def graph(self) -> nn.Module:
        """See `Method.graph`."""
        return self.variant_graph(own_variant(self.config.diffusion))

    def variant_graph(self, variant: Variant) -> Graph:
        """The graph with another way to reconstruct, on the same weights."""
        if isinstance(variant, NormGuided):
            return Graph(self, (variant.t_s, variant.t_b), variant.w)
        if isinstance(variant, OneStep):
            return Graph(self, (variant.t,), 0.0)
        if isinstance(variant, AutoEncoder):
            return Graph(self, (0,), 0.0)
        return IterativeGraph(self, variant.t, variant.passes(), variant.eta)


def _by_scale(rows: Tensor, scales: int) -> tuple[Tensor, ...]:
    """(NS, ...) -> S times (N, ...), in full precision; by slices, which leave engines their layout of memory."""
    if scales == 1:  # a slice of all rows would stay in the program, and not in the ONNX graph
        return (rows.float(),)
    return tuple(rows[scale::scales].float() for scale in range(scales))


def _blended(found: tuple[Tensor, ...], g: Tensor) -> Tensor:
    """The scales t_s and t_b blended, or the only one."""
    return found[0] if len(found) == 1 else blend(found[0], found[1], g)


def draw_timesteps(n: int, config: DiffusionConfig, generator: torch.Generator) -> Tensor:
    """(n, 2) training timesteps: t_s uniform below tau, t_b from tau on; a share `near` close to the test scales.

    Without guidance (w 0) there is t_s alone, (n, 1). An auto-encoder has one scale, which means nothing: (n, 1) zeros.
    """
    d = config
    if not d.diffuse:
        return torch.zeros((n, 1), dtype=torch.long)
    bounds = [(0, d.tau, d.t_s), (d.tau, d.timesteps, d.t_b)]
    rows = []
    for low, high, centre in bounds if d.w > 0 else bounds[:1]:
        near_low, near_high = max(low, centre - d.near_width), min(high, centre + d.near_width + 1)
        wide = torch.randint(low, high, (n,), generator=generator)
        near = torch.randint(near_low, near_high, (n,), generator=generator)
        rows.append(torch.where(torch.rand(n, generator=generator) < d.near, near, wide))
    return torch.stack(rows, dim=1)
