"""How far a place is from whatever good parts look like anywhere: the distance to the nearest prototype.

The segmentation network knows what separates synthetic defects from good parts, and the better it knows, the less it
says of real ones that are like neither. The prototypes know good parts only: they are places of good images, as in
PatchCore's memory (Roth et al. 2022), few enough that looking one up is a convolution. Each is the place that is
farthest from those before it, so the rare is among them: the scratch or the ring that some good parts have is no defect
of others. No training sees them: shown their distance, the network learns to do without it as far as synthetic defects
allow. Features are the coarsest ones: what they see of a place ranks real defects best; where a defect ends is the
network's to say (docs/decisions/0008-prototypes-of-good-parts.md, 0015-prototypes-are-places.md,
0016-prototypes-are-coarse.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainer.config import FEATURE_CHANNELS
from trainer.nets.coreset import distances, greedy_coreset

STRIDE = 16  # of the features that places are told by, and of the distance, pixels
NEIGHBOURS = 3  # a place is the mean of so many x so many of its stride, as PatchCore has it
_LEVEL = list(FEATURE_CHANNELS).index(STRIDE)
_CHANNELS = FEATURE_CHANNELS[STRIDE]


class Prototypes(nn.Module):
    """Distances to the nearest of `count` places of good parts, in pretrained features.

    With the features y of a place, each channel brought to mean 0 and variance 1 / D over good places, and the
    prototypes c_k: d^2 = |y|^2 + min_k (|c_k|^2 - 2 c_k y), the latter from a 1x1 convolution. What comes out is d,
    brought to mean 0 and standard deviation 1 over good places.
    """

    mean: Tensor
    scale: Tensor
    usual: Tensor
    spread: Tensor

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count
        self.register_buffer("mean", torch.zeros(1, _CHANNELS, 1, 1))
        self.register_buffer("scale", torch.ones(1, _CHANNELS, 1, 1))
        self.project = nn.Conv2d(_CHANNELS, count, 1)
        self.requires_grad_(False)
        self.register_buffer("usual", torch.zeros(()))
        self.register_buffer("spread", torch.ones(()))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """(N, C, H / stride, W / stride) for each of FEATURE_CHANNELS -> (N, 1, H / STRIDE, W / STRIDE)."""
        y = (_averaged(features) - self.mean) * self.scale
        nearest = self.project(y).amin(dim=1, keepdim=True)
        squared = y.square().sum(dim=1, keepdim=True) + nearest
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
        self.mean.copy_(mean[None, :, None, None])
        self.scale.copy_(scale[None, :, None, None])
        self.project.weight.copy_(-2 * y[chosen][:, :, None, None])
        self.project.bias.copy_(y[chosen].square().sum(dim=1))  # type: ignore[union-attr]  # it has one
        self.usual.copy_(distance.mean())
        self.spread.copy_(distance.std(correction=0).clamp(min=1e-3))


def places(features: Sequence[Tensor]) -> Tensor:
    """(N, C, H / stride, W / stride) for each of FEATURE_CHANNELS -> the features of each place, (N H W / 256, D)."""
    return _averaged(features).permute(0, 2, 3, 1).flatten(0, 2)


def _averaged(features: Sequence[Tensor]) -> Tensor:
    """The features that places are told by, each the mean of its neighbours."""
    return F.avg_pool2d(features[_LEVEL], NEIGHBOURS, stride=1, padding=NEIGHBOURS // 2)
