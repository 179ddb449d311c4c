"""Both networks in a size that a station can afford: convolution, BatchNorm and ReLU only, all of which fuse.

Images come and go folded, with the pixels of each square as channels (maths/fold.py), so nothing runs at full
resolution and nothing is re-ordered in between. What is joined is added, each part behind a convolution of its own: a
concatenation would be a copy, and INT8 would have to give all its parts one scale. The denoiser is not told the noise
level: it sees it, and an embedding would stay a bias per row of the batch.

What enters and what leaves is 1x1 convolutions: each place is a square of pixels already, and what is around it is seen
by the blocks in between (docs/decisions/0018-one-scale-and-narrow-doors.md).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def _linear(channels_in: int, channels_out: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels_out))


def _conv(channels_in: int, channels_out: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    return _linear(channels_in, channels_out, kernel, stride).append(nn.ReLU(inplace=True))


class _Residual(nn.Module):
    """Two 3x3 convolutions around an identity skip."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _conv(channels, channels)
        self.second = _linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(self.first(x)))


class _Pyramid(nn.Module):
    """An encoder and a decoder over `widths`, each level half the resolution of the one before.

    `inputs` are the channels of each of its inputs, `joining` maps a level to the channels of what joins the encoder
    there. The encoder's finest level, which is the dearest, has no block of its own.
    """

    def __init__(self, inputs: Sequence[int], widths: Sequence[int], joining: Mapping[int, int]) -> None:
        super().__init__()
        self.stem = nn.ModuleList(_linear(channels, widths[0], kernel=1) for channels in inputs)
        self.join = nn.ModuleDict(
            {str(level): _conv(channels, widths[level], kernel=1) for level, channels in joining.items()}
        )
        self.encoder = nn.ModuleList(_Residual(width) for width in widths[1:])
        self.down = nn.ModuleList(_conv(a, b, stride=2) for a, b in itertools.pairwise(widths))
        self.up = nn.ModuleList(_conv(b, a, kernel=1) for a, b in itertools.pairwise(widths))
        self.decoder = nn.ModuleList(_Residual(width) for width in widths)

    def forward(self, inputs: Sequence[Tensor], joining: Mapping[int, Tensor]) -> list[Tensor]:
        """What the decoder makes of each level, finest first; `joining` is level -> (N, C, h, w)."""
        stems = [stem(x) for stem, x in zip(self.stem, inputs, strict=True)]
        h = self._joined(F.relu(functools.reduce(torch.add, stems)), 0, joining)
        skips = [h]
        for level, (down, block) in enumerate(zip(self.down, self.encoder, strict=True), start=1):
            h = block(self._joined(down(h), level, joining))
            skips.append(h)
        found = [self.decoder[-1](skips.pop())]
        for level in reversed(range(len(self.up))):
            h = F.interpolate(self.up[level](found[0]), scale_factor=2.0, mode="nearest")
            found.insert(0, self.decoder[level](h + skips.pop()))
        return found

    def _joined(self, h: Tensor, level: int, joining: Mapping[int, Tensor]) -> Tensor:
        return h + self.join[str(level)](joining[level]) if level in joining else h


class EdgeDenoiser(nn.Module):
    """Predicts x0 (or noise) from a diffused image, and pretrained features of x0 if wanted.

    `features` maps a level to the channels of the features that are predicted there.
    """

    def __init__(self, channels: int, widths: Sequence[int], features: Mapping[int, int] | None = None) -> None:
        super().__init__()
        self.body = _Pyramid([channels], widths, {})
        self.head = nn.Conv2d(widths[0], channels, 1)
        self.feature_heads = nn.ModuleDict(
            {str(level): nn.Conv2d(widths[level], deep, 1) for level, deep in (features or {}).items()}
        )

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(N, channels, h, w), h and w multiples of 2^(levels - 1) -> the same, and the features, finest first."""
        levels = self.body([x], {})
        return self.head(levels[0]), [head(levels[int(level)]) for level, head in self.feature_heads.items()]


class EdgeSegmenter(nn.Module):
    """Marks what differs between an image and its reconstruction, in their pixels and, if wanted, in their features.

    `channels` are those of an image and of the logits; `features` maps a level to the channels of the features that are
    compared there.
    """

    def __init__(
        self, channels: tuple[int, int], widths: Sequence[int], features: Mapping[int, int] | None = None
    ) -> None:
        super().__init__()
        self.feature_levels = tuple(features or ())
        self.body = _Pyramid([channels[0]] * 3, widths, features or {})
        self.head = nn.Conv2d(widths[0], channels[1], 1)

    def forward(self, image: Tensor, reconstruction: Tensor, features: Sequence[Tensor] = ()) -> Tensor:
        """Two (N, channels[0], h, w), h and w multiples of 2^(levels - 1) -> logits (N, channels[1], h, w).

        `features` has the absolute difference of the features at each of `feature_levels`.
        """
        joining = dict(zip(self.feature_levels, features, strict=True))
        levels = self.body([image, reconstruction, torch.abs(image - reconstruction)], joining)
        return cast(Tensor, self.head(levels[0]))
