"""Both networks in a size that a station can afford: convolution, BatchNorm and ReLU only, all of which fuse.

The image is folded into channels (pixel-unshuffle) before the first convolution, so nothing runs at full resolution;
skips are added, not concatenated; the noise level enters as one constant input plane, which costs an engine nothing,
where a time embedding would stay a bias per row of the batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def _conv(channels_in: int, channels_out: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
    )


class _Residual(nn.Module):
    """Two 3x3 convolutions around an identity skip."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _conv(channels, channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm(self.second(self.first(x))))


class _Pyramid(nn.Module):
    """An encoder and a decoder over `widths`, each level half the resolution of the one before."""

    def __init__(self, channels_in: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.stem = _conv(channels_in, widths[0])
        self.encoder = nn.ModuleList(_Residual(width) for width in widths)
        self.down = nn.ModuleList(_conv(a, b, stride=2) for a, b in itertools.pairwise(widths))
        self.up = nn.ModuleList(_conv(b, a, kernel=1) for a, b in itertools.pairwise(widths))
        self.decoder = nn.ModuleList(_Residual(width) for width in widths)

    def forward(self, x: Tensor) -> Tensor:
        h = self.encoder[0](self.stem(x))
        skips = [h]
        for down, block in zip(self.down, list(self.encoder)[1:], strict=True):
            h = block(down(h))
            skips.append(h)
        h = self.decoder[-1](skips.pop())
        for level in reversed(range(len(self.up))):
            h = F.interpolate(self.up[level](h), scale_factor=2.0, mode="nearest")
            h = self.decoder[level](h + skips.pop())
        return cast(Tensor, h)


class EdgeDenoiser(nn.Module):
    """Predicts x0 (or noise) from a diffused image and its noise level."""

    def __init__(self, widths: Sequence[int], fold: int = 4) -> None:
        super().__init__()
        self.fold = fold
        self.body = _Pyramid(3 * fold * fold + 1, widths)
        self.head = nn.Conv2d(widths[0], 3 * fold * fold, 3, padding=1)

    def forward(self, x: Tensor, noise_level: Tensor) -> Tensor:
        """(N, 3, H, W), (N,) standard deviation of the noise in it -> (N, 3, H, W).

        H and W are multiples of fold x 2^(levels - 1).
        """
        folded = F.pixel_unshuffle(x, self.fold)
        plane = noise_level[:, None, None, None].to(folded.dtype).expand(-1, 1, folded.shape[2], folded.shape[3])
        h = self.body(torch.cat([folded, plane], dim=1))
        return F.pixel_shuffle(self.head(h), self.fold)


class EdgeSegmenter(nn.Module):
    """Marks what differs between an image and its reconstruction."""

    def __init__(self, widths: Sequence[int], fold: int = 2) -> None:
        super().__init__()
        self.fold = fold
        self.body = _Pyramid(9 * fold * fold, widths)
        self.head = nn.Conv2d(widths[0], fold * fold, 3, padding=1)

    def forward(self, image: Tensor, reconstruction: Tensor) -> Tensor:
        """Two (N, 3, H, W), H and W multiples of fold x 2^(levels - 1) -> logits (N, 1, H, W)."""
        evidence = torch.cat([image, reconstruction, torch.abs(image - reconstruction)], dim=1)
        return F.pixel_shuffle(self.head(self.body(F.pixel_unshuffle(evidence, self.fold))), self.fold)
