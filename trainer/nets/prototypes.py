"""How far a place is from whatever good parts look like anywhere: the distance to the nearest prototype.

The segmentation network knows what separates synthetic defects from good parts, and the better it knows, the less it
says of real ones that are like neither. The prototypes know good parts only: they are places of good images, as in
PatchCore's memory (Roth et al. 2022), few enough that looking one up is a convolution. Each is the place that is
farthest from those before it, so the rare is among them: the scratch or the ring that some good parts have is no defect
of others. No training sees them: shown their distance, the network learns to do without it as far as synthetic defects
allow (docs/decisions/0008-prototypes-of-good-parts.md, 0015-prototypes-are-places.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainer.config import FEATURE_CHANNELS
from trainer.nets.coreset import distances, greedy_coreset

STRIDE = 8  # of the distance, pixels: finer features are averaged, coarser ones repeated
NEIGHBOURS = 3  # a place is the mean of so many x so many of its stride, as PatchCore has it


class Prototypes(nn.Module):
    """Distances to the nearest of `count` places of good parts, in pretrained features.

    With the features y of a place, each channel brought to mean 0 and variance 1 / D over good places, and the
    prototypes c_k: d^2 = |y|^2 + min_k (|c_k|^2 - 2 c_k y), the latter from a 1x1 convolution of each stride. What
    comes out is d, brought to mean 0 and standard deviation 1 over good places.
    """

    usual: Tensor
    spread: Tensor

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count
        self.norms = nn.ModuleList(_Norm(channels) for channels in FEATURE_CHANNELS.values())
        self.project = nn.ModuleList(
            nn.Conv2d(channels, count, 1, bias=stride == STRIDE) for stride, channels in FEATURE_CHANNELS.items()
        )
        self.requires_grad_(False)
        self.register_buffer("usual", torch.zeros(()))
        self.register_buffer("spread", torch.ones(()))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """(N, C, H / stride, W / stride) for each of FEATURE_CHANNELS -> (N, 1, H / 8, W / 8)."""
        normed = [norm(level) for norm, level in zip(self.norms, _levels(features), strict=True)]
        against = _joined([conv(y) for conv, y in zip(self.project, normed, strict=True)])
        lengths = _joined([y.square().sum(dim=1, keepdim=True) for y in normed])
        squared = lengths + against.amin(dim=1, keepdim=True)
        return (torch.sqrt(squared.clamp(min=0.0)) - self.usual) / self.spread  # rounding may leave less than 0

    def fit(self, seen: Tensor, generator: torch.Generator) -> None:
        """Choose the prototypes among places of good images.

        Args:
            seen: (M, D), from `places`; the more, the longer it takes: 100,000 some seconds.
            generator: draws the first prototype.
        """
        mean, scale = seen.mean(dim=0), 1 / (seen.std(dim=0, correction=0).clamp(min=1e-6) * seen.shape[1] ** 0.5)
        y = (seen - mean) * scale
        first = int(torch.randint(len(y), (1,), generator=generator))
        chosen = greedy_coreset(y, min(self.count, len(y)), first)
        distance = distances(y, chosen)
        chosen = chosen[torch.arange(self.count) % len(chosen)]  # of fewer places some are there again
        for layer, norm, part, usual, unit in zip(
            self.project, self.norms, *(_by_stride(rows) for rows in (y[chosen], mean, scale)), strict=True
        ):
            conv = cast(nn.Conv2d, layer)
            conv.weight.copy_(-2 * part[:, :, None, None])
            if conv.bias is not None:
                conv.bias.copy_(y[chosen].square().sum(dim=1))
            cast(_Norm, norm).set(usual, unit)
        self.usual.copy_(distance.mean())
        self.spread.copy_(distance.std(correction=0).clamp(min=1e-3))


class _Norm(nn.Module):
    """(x - mean) scale, for each channel."""

    mean: Tensor
    scale: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(1, channels, 1, 1))
        self.register_buffer("scale", torch.ones(1, channels, 1, 1))

    def set(self, mean: Tensor, scale: Tensor) -> None:
        """(C,) each."""
        self.mean.copy_(mean[None, :, None, None])
        self.scale.copy_(scale[None, :, None, None])

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) * self.scale


def places(features: Sequence[Tensor]) -> Tensor:
    """(N, C, H / stride, W / stride) for each of FEATURE_CHANNELS -> the features of each place, (N H W / 64, D)."""
    fine, middle, coarse = _levels(features)
    level = torch.cat([fine, middle, _repeated(coarse)], dim=1)
    return level.permute(0, 2, 3, 1).flatten(0, 2)


def _levels(features: Sequence[Tensor]) -> list[Tensor]:
    """Features, each the mean of its neighbours, at strides 8, 8 and 16."""
    fine, middle, coarse = (F.avg_pool2d(x, NEIGHBOURS, stride=1, padding=NEIGHBOURS // 2) for x in features)
    return [F.avg_pool2d(fine, 2), middle, coarse]


def _joined(levels: Sequence[Tensor]) -> Tensor:
    """The sum of what is at strides 8, 8 and 16, at stride 8."""
    fine, middle, coarse = levels
    return fine + middle + _repeated(coarse)


def _repeated(coarse: Tensor) -> Tensor:
    return F.interpolate(coarse, scale_factor=2.0, mode="nearest")


def _by_stride(rows: Tensor) -> tuple[Tensor, ...]:
    """(..., D) -> (..., C) for each of FEATURE_CHANNELS."""
    return torch.split(rows, list(FEATURE_CHANNELS.values()), dim=-1)
