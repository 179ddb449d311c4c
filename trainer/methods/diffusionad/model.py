"""DiffusionAD's two networks, joined: one-step norm-guided reconstruction and segmentation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from trainer.config import DiffusionConfig, PublishedSegmenterConfig, TrainConfig, UNetConfig
from trainer.data.samples import Batch
from trainer.maths.ddpm import q_sample, x0_from_eps
from trainer.maths.guidance import blend, blend_weight
from trainer.maths.schedule import linear_schedule
from trainer.methods.base import Method
from trainer.methods.diffusionad.graph import Graph, IterativeGraph
from trainer.methods.diffusionad.loss import feature_error, focal, mean_over, smooth_l1, squared_error
from trainer.methods.diffusionad.variants import AutoEncoder, NormGuided, OneStep, Variant, own_variant
from trainer.nets.edge import EdgeDenoiser, EdgeSegmenter
from trainer.nets.pretrained import PretrainedFeatures
from trainer.nets.segmenter import Segmenter
from trainer.nets.unet import UNet


@dataclass(frozen=True, slots=True)
class Reconstruction:
    """What the denoiser says about N images at S noise scales, t_s before t_b where there are two.

    Attributes:
        guided: (N, 3, H, W), the norm-guided reconstruction; that of the one scale where there is one.
        x0: (S, N, 3, H, W), the reconstruction at each scale.
        output: (S, N, 3, H, W), what the network put out: noise or x0.
        guided_features: (N, C, h, w) each, the prediction of the good image's pretrained features, guided likewise.
        features: (S, N, C, h, w) each, the prediction at each scale.
    """

    guided: Tensor
    x0: Tensor
    output: Tensor
    guided_features: list[Tensor]
    features: list[Tensor]


def build_denoiser(config: TrainConfig) -> UNet | EdgeDenoiser:
    """The denoiser of a configuration."""
    net = config.denoiser
    if isinstance(net, UNetConfig):
        return UNet(net.base, net.multipliers, net.blocks, net.attention_factors, net.heads)
    features = net.feature_levels() if config.evidence != "none" else None
    return EdgeDenoiser(net.widths, net.fold, features, net.finest_block, net.noise_plane)


def build_segmenter(config: TrainConfig) -> Segmenter | EdgeSegmenter:
    """The segmentation network of a configuration."""
    net = config.segmenter
    if isinstance(net, PublishedSegmenterConfig):
        return Segmenter(net.base)
    features = net.feature_levels() if config.evidence != "none" else None
    return EdgeSegmenter(net.widths, net.fold, features, net.finest_block)


class DiffusionAD(Method):
    """See the package's docstring; `config` decides the sizes, the prediction target and the noise scales."""

    abar: Tensor

    def __init__(self, config: TrainConfig) -> None:
        super().__init__()
        self.config = config
        self.denoiser = build_denoiser(config)
        self.segmenter = build_segmenter(config)
        self.evidence = PretrainedFeatures() if config.evidence != "none" else None
        d = config.diffusion
        abar = torch.tensor(linear_schedule(d.timesteps, d.beta_start, d.beta_end).abar, dtype=torch.float32)
        self.register_buffer("abar", abar if d.diffuse else torch.ones_like(abar), persistent=False)

    def reconstruct(self, image: Tensor, t: Tensor, noise: Tensor, w: float) -> Reconstruction:
        """One-step reconstruction (Eq. 6 to 8), all scales in one pass; norm-guided where there are two.

        Args:
            image: (N, 3, H, W) in 0..1.
            t: (S, N) timesteps, t_s before t_b; (S, 1) for the same for all.
            noise: (S, N, 3, H, W) standard normal, or (S, 1, 3, H, W).
            w: guidance weight.
        """
        return self.predict(self.diffused(image, t, noise), t, w)

    def diffused(self, image: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """An image (N, 3, H, W) at S noise scales (Eq. 2), (S, N, 3, H, W); arguments as for `reconstruct`."""
        return q_sample(image[None], noise, self._abar(t))

    def predict(self, x_t: Tensor, t: Tensor, w: float) -> Reconstruction:
        """As `reconstruct`, from what is diffused already, (S, N, 3, H, W)."""
        scales, abar = len(t), self._abar(t)
        rows = x_t.reshape(-1, *x_t.shape[2:])  # (SN, 3, H, W): by reshape, so that N stays free in the graph
        found, found_features = self._denoise(rows, t.expand(scales, x_t.shape[1]).reshape(-1))
        output = _by_scale(found, scales)
        features = [_by_scale(feature, scales) for feature in found_features]
        x0 = x0_from_eps(x_t, output, abar) if self.config.diffusion.prediction == "eps" else output
        g = blend_weight(abar[0], w)
        return Reconstruction(self._guided(x0, g), x0, output, [_blended(f, g) for f in features], features)

    def _abar(self, t: Tensor) -> Tensor:
        return self.abar[t][:, :, None, None, None]  # (S, N, 1, 1, 1)

    def _denoise(self, rows: Tensor, t: Tensor) -> tuple[Tensor, list[Tensor]]:
        if isinstance(self.denoiser, UNet):
            return self.denoiser(rows, t), []
        found: tuple[Tensor, list[Tensor]] = self.denoiser(rows, torch.sqrt(1 - self.abar[t]))
        return found

    def _guided(self, x0: Tensor, g: Tensor) -> Tensor:
        if not self.config.diffusion.clamp:
            return _blended(x0, g)
        return (x0[0] if len(x0) == 1 else blend(x0[0], x0[1].clamp(-1, 1), g)).clamp(-1, 1)

    def segment(self, image: Tensor, reconstruction: Reconstruction) -> Tensor:
        """Logits (N, 1, H, W) of where an image (N, 3, H, W) differs from its normal self."""
        return self._segment(image, reconstruction, self.evidence(image) if self.evidence is not None else [])

    def _segment(self, image: Tensor, reconstruction: Reconstruction, features: list[Tensor]) -> Tensor:
        if not features:
            return cast(Tensor, self.segmenter(image, reconstruction.guided)).float()
        pairs = zip(features, reconstruction.guided_features, strict=True)
        differences = [torch.abs(found - normal) for found, normal in pairs]
        return cast(Tensor, self.segmenter(image, reconstruction.guided, differences)).float()

    def losses(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """See `Method.losses`: noise loss (Eq. 9) and mask loss (Eq. 10 to 12); not in the paper: restore, features."""
        weights, d = self.config.loss, self.config.diffusion
        n = len(batch.image)
        device = batch.image.device
        t = draw_timesteps(n, d, generator).to(device)
        noise = torch.randn((len(t), *batch.image.shape), generator=generator).to(device)
        found = self.reconstruct(batch.image, t, noise, d.w)
        seen = self.evidence(torch.cat([batch.image, batch.clean])) if self.evidence is not None else []
        logits = self._segment(batch.image, found, [feature[:n] for feature in seen])

        wanted = noise if d.prediction == "eps" else batch.clean.expand_as(noise)
        error = squared_error(found.output.flatten(0, 1), wanted.flatten(0, 1)).reshape(len(t), n).sum(0)
        good = batch.mask.flatten(1).amax(1) == 0
        terms = {
            "denoise": weights.denoise * mean_over(error, good),
            "smooth_l1": weights.smooth_l1 * smooth_l1(logits, batch.mask),
            "focal": weights.focal * focal(logits, batch.mask, weights.focal_alpha, weights.focal_gamma),
        }
        if weights.restore > 0:  # x0, whatever the network predicts: the noise of a defect image is no target
            clean = batch.clean.expand_as(found.x0)
            restored = squared_error(found.x0.flatten(0, 1), clean.flatten(0, 1)).reshape(len(t), n).sum(0)
            terms["restore"] = weights.restore * mean_over(restored, ~good)
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


def _by_scale(rows: Tensor, scales: int) -> Tensor:
    """(SN, ...) -> (S, N, ...), in full precision."""
    return rows.float().reshape(scales, -1, *rows.shape[1:])


def _blended(found: Tensor, g: Tensor) -> Tensor:
    """(S, N, ...) -> (N, ...): the scales t_s and t_b blended, or the only one."""
    return found[0] if len(found) == 1 else blend(found[0], found[1], g)


def draw_timesteps(n: int, config: DiffusionConfig, generator: torch.Generator) -> Tensor:
    """(2, n) training timesteps: t_s uniform below tau, t_b from tau on; a share `near` close to the test scales.

    An auto-encoder has one scale, which means nothing: (1, n) zeros.
    """
    d = config
    if not d.diffuse:
        return torch.zeros((1, n), dtype=torch.long)
    bounds = ((0, d.tau, d.t_s), (d.tau, d.timesteps, d.t_b))
    rows = []
    for low, high, centre in bounds:
        near_low, near_high = max(low, centre - d.near_width), min(high, centre + d.near_width + 1)
        wide = torch.randint(low, high, (n,), generator=generator)
        near = torch.randint(near_low, near_high, (n,), generator=generator)
        rows.append(torch.where(torch.rand(n, generator=generator) < d.near, near, wide))
    return torch.stack(rows)
