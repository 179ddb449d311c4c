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
from trainer.methods.diffusionad.graph import Graph
from trainer.methods.diffusionad.loss import feature_error, focal, mean_over, smooth_l1, squared_error
from trainer.nets.edge import EdgeDenoiser, EdgeSegmenter
from trainer.nets.pretrained import PretrainedFeatures
from trainer.nets.segmenter import Segmenter
from trainer.nets.unet import UNet


@dataclass(frozen=True, slots=True)
class Reconstruction:
    """What the denoiser says about N images at two noise scales.

    Attributes:
        guided: (N, 3, H, W), the norm-guided reconstruction.
        x0: (2, N, 3, H, W), the reconstructions at t_s and t_b.
        output: (2, N, 3, H, W), what the network put out: noise or x0.
        guided_features: (N, C, h, w) each, the norm-guided prediction of the good image's pretrained features.
        features: (2, N, C, h, w) each, the predictions at t_s and t_b.
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
    return EdgeDenoiser(net.widths, net.fold, net.feature_levels() if config.evidence != "none" else None)


def build_segmenter(config: TrainConfig) -> Segmenter | EdgeSegmenter:
    """The segmentation network of a configuration."""
    net = config.segmenter
    if isinstance(net, PublishedSegmenterConfig):
        return Segmenter(net.base)
    return EdgeSegmenter(net.widths, net.fold, net.feature_levels() if config.evidence != "none" else None)


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
        schedule = linear_schedule(d.timesteps, d.beta_start, d.beta_end)
        self.register_buffer("abar", torch.tensor(schedule.abar, dtype=torch.float32), persistent=False)

    def reconstruct(self, image: Tensor, t: Tensor, noise: Tensor) -> Reconstruction:
        """One-step norm-guided reconstruction (Eq. 6 to 8), both scales in one pass.

        Args:
            image: (N, 3, H, W) in 0..1.
            t: (2, N) timesteps, t_s and t_b; (2, 1) for the same for all.
            noise: (2, N, 3, H, W) standard normal, or (2, 1, 3, H, W).
        """
        abar = self.abar[t][:, :, None, None, None]  # (2, N, 1, 1, 1)
        x_t = q_sample(image[None], noise, abar)
        rows = x_t.reshape(-1, *x_t.shape[2:])  # (2N, 3, H, W): by reshape, so that N stays free in the graph
        t_rows = t.expand(2, x_t.shape[1]).reshape(-1)
        output, features = self._denoise(rows, t_rows)
        output = _two_scales(output)
        x0 = x0_from_eps(x_t, output, abar) if self.config.diffusion.prediction == "eps" else output
        both = [_two_scales(feature) for feature in features]
        g = blend_weight(abar[0], self.config.diffusion.w)
        return Reconstruction(self._guide(x0, g), x0, output, [blend(f[0], f[1], g) for f in both], both)

    def _denoise(self, rows: Tensor, t: Tensor) -> tuple[Tensor, list[Tensor]]:
        if isinstance(self.denoiser, UNet):
            return self.denoiser(rows, t), []
        found: tuple[Tensor, list[Tensor]] = self.denoiser(rows, torch.sqrt(1 - self.abar[t]))
        return found

    def _guide(self, x0: Tensor, g: Tensor) -> Tensor:
        small, big = x0.unbind(0)
        if not self.config.diffusion.clamp:
            return blend(small, big, g)
        return blend(small, big.clamp(-1, 1), g).clamp(-1, 1)

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
        noise = torch.randn((2, *batch.image.shape), generator=generator).to(device)
        found = self.reconstruct(batch.image, t, noise)
        seen = self.evidence(torch.cat([batch.image, batch.clean])) if self.evidence is not None else []
        logits = self._segment(batch.image, found, [feature[:n] for feature in seen])

        wanted = noise if d.prediction == "eps" else batch.clean.expand_as(noise)
        error = squared_error(found.output.flatten(0, 1), wanted.flatten(0, 1)).reshape(2, n).sum(0)
        good = batch.mask.flatten(1).amax(1) == 0
        terms = {
            "denoise": weights.denoise * mean_over(error, good),
            "smooth_l1": weights.smooth_l1 * smooth_l1(logits, batch.mask),
            "focal": weights.focal * focal(logits, batch.mask, weights.focal_alpha, weights.focal_gamma),
        }
        if weights.restore > 0:  # x0, whatever the network predicts: the noise of a defect image is no target
            clean = batch.clean.expand_as(found.x0)
            restored = squared_error(found.x0.flatten(0, 1), clean.flatten(0, 1)).reshape(2, n).sum(0)
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
        size, d = self.config.input, self.config.diffusion
        return Graph(self, (d.t_s, d.t_b), size.height, size.width, self.config.noise_seed, self.config.top_k)


def _two_scales(rows: Tensor) -> Tensor:
    """(2N, ...) -> (2, N, ...), in full precision."""
    return rows.float().reshape(2, -1, *rows.shape[1:])


def draw_timesteps(n: int, config: DiffusionConfig, generator: torch.Generator) -> Tensor:
    """(2, n) training timesteps: t_s uniform below tau, t_b from tau on; a share `near` close to the test scales."""
    d = config
    bounds = ((0, d.tau, d.t_s), (d.tau, d.timesteps, d.t_b))
    rows = []
    for low, high, centre in bounds:
        near_low, near_high = max(low, centre - d.near_width), min(high, centre + d.near_width + 1)
        wide = torch.randint(low, high, (n,), generator=generator)
        near = torch.randint(near_low, near_high, (n,), generator=generator)
        rows.append(torch.where(torch.rand(n, generator=generator) < d.near, near, wide))
    return torch.stack(rows)
