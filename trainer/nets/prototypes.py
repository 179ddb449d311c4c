"""How far a place is from whatever good parts look like anywhere: the distance to the nearest prototype.

The segmentation network knows what separates synthetic defects from good parts, and the better it knows, the less it
says of real ones that are like neither. The prototypes know good parts only, which is what PatchCore (Roth et al. 2022)
lives by; here they are few enough that looking one up is a convolution. No training sees them: shown their distance,
the network learns to do without it as far as synthetic defects allow (docs/decisions/0008-prototypes-of-good-parts.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainer.config import FEATURE_CHANNELS

STRIDE = 8  # of the distance, pixels: finer features are averaged, coarser ones repeated
_RIDGE = 0.1  # added to the variance of each whitened direction, in units of a channel's variance: BF16 is no finer
_TURNS = 15  # of Lloyd's algorithm
_PART = 16_384  # rows at once


class Prototypes(nn.Module):
    """Distances to the nearest of `count` prototypes of good parts, in whitened pretrained features.

    With the features y of a place, whitened over the good images (mean 0, covariance 1 / D), and the prototypes c_k:
    d^2 = |y|^2 + min_k (|c_k|^2 - 2 c_k y), both parts from one 1x1 convolution of the features. What comes out is d,
    brought to mean 0 and standard deviation 1 over good places.
    """

    usual: Tensor
    spread: Tensor

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count, self.dimensions = count, sum(FEATURE_CHANNELS.values())
        out = self.dimensions + count
        self.project = nn.ModuleList(
            nn.Conv2d(channels, out, 1, bias=stride == STRIDE) for stride, channels in FEATURE_CHANNELS.items()
        )
        self.requires_grad_(False)
        self.register_buffer("usual", torch.zeros(()))
        self.register_buffer("spread", torch.ones(()))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """(N, C, H / stride, W / stride) for each of FEATURE_CHANNELS -> (N, 1, H / 8, W / 8)."""
        fine, middle, coarse = self.project
        found = fine(F.avg_pool2d(features[0], 2)) + middle(features[1])
        found = found + F.interpolate(coarse(features[2]), scale_factor=2.0, mode="nearest")
        return (self._distance(found) - self.usual) / self.spread

    def _distance(self, found: Tensor) -> Tensor:
        """(N, D + K, ...) -> d, (N, 1, ...)."""
        y, against = found[:, : self.dimensions], found[:, self.dimensions :]
        squared = y.square().sum(dim=1, keepdim=True) + against.amin(dim=1, keepdim=True)
        return torch.sqrt(squared.clamp(min=0.0))  # rounding may leave less

    def fit(self, seen: Tensor, generator: torch.Generator) -> None:
        """Find the prototypes of good images: k-means (Lloyd 1982) of what is seen at their places.

        Args:
            seen: (M, D), from `places`; the more, the longer it takes: 100,000 a few seconds.
            generator: draws the first prototypes.
        """
        rows = seen.double()
        mean, scale = rows.mean(dim=0), rows.std(dim=0).clamp(min=1e-6)
        whitening = _whitening((rows - mean) / scale) / scale[:, None]
        whitening /= self.dimensions**0.5
        y = ((rows - mean) @ whitening).float()
        centres = _k_means(y, self.count, generator).double()
        weight = torch.cat([whitening, -2 * whitening @ centres.T], dim=1)  # (D, D + K)
        bias = -mean @ weight
        bias[self.dimensions :] += centres.square().sum(dim=1)
        for conv, part in zip(self.project, torch.split(weight, list(FEATURE_CHANNELS.values())), strict=True):
            layer = cast(nn.Conv2d, conv)
            layer.weight.copy_(part.T[:, :, None, None])
            if layer.bias is not None:
                layer.bias.copy_(bias)
        distance = self._distance(rows @ weight + bias)
        self.usual.copy_(distance.mean())
        self.spread.copy_(distance.std().clamp(min=1e-3))


def places(features: Sequence[Tensor]) -> Tensor:
    """(N, C, H / stride, W / stride) for each of FEATURE_CHANNELS -> the features of each place, (N H W / 64, D)."""
    fine, middle, coarse = features
    level = torch.cat([F.avg_pool2d(fine, 2), middle, F.interpolate(coarse, scale_factor=2.0, mode="nearest")], dim=1)
    return level.permute(0, 2, 3, 1).flatten(0, 2)


def _whitening(rows: Tensor) -> Tensor:
    """(D, D): what rows of variance 1 a channel are multiplied by for a covariance of 1; nearly, for `_RIDGE`."""
    values, directions = torch.linalg.eigh(torch.cov(rows.T) + _RIDGE * torch.eye(rows.shape[1], dtype=rows.dtype))
    return cast(Tensor, directions / values.sqrt())


def _nearest(rows: Tensor, centres: Tensor) -> Tensor:
    lengths = centres.square().sum(dim=1)
    return torch.cat([(lengths - 2 * part @ centres.T).argmin(dim=1) for part in torch.split(rows, _PART)])


def _k_means(rows: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """(count, D) means of clusters of (M, D); a cluster that loses its last row gets one drawn anew."""
    centres = rows[torch.randint(len(rows), (count,), generator=generator)].clone()
    for _ in range(_TURNS):
        nearest = _nearest(rows, centres)
        sizes = torch.bincount(nearest, minlength=count)
        sums = torch.zeros_like(centres).index_add_(0, nearest, rows)
        empty = sizes == 0
        drawn = rows[torch.randint(len(rows), (count,), generator=generator)]
        centres = torch.where(empty[:, None], drawn, sums / sizes.clamp(min=1)[:, None])
    return centres
