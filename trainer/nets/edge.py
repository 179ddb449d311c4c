"""Both networks in a size that a station can afford: convolution, BatchNorm and ReLU only, all of which fuse.

Images come and go folded, with the pixels of each square as channels (maths/fold.py), so nothing runs at full
resolution and nothing is re-ordered in between. What is joined is added, each part behind a convolution of its own: a
concatenation would be a copy, and INT8 would have to give all its parts one scale. The denoiser is not told the noise
level: it sees it, and an embedding would stay a bias per row of the batch.
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

    `inputs` are the channels of each of its inputs, `joining` has the level and the channels of each thing that joins
    the encoder on its way. The encoder's finest level, which is the dearest, has no block of its own.
    """

    def __init__(self, inputs: Sequence[int], widths: Sequence[int], joining: Sequence[tuple[int, int]] = ()) -> None:
        super().__init__()
        self.stem = nn.ModuleList(_linear(channels, widths[0]) for channels in inputs)
        self.join_levels = tuple(level for level, _ in joining)
        self.join = nn.ModuleList(_conv(channels, widths[level], kernel=1) for level, channels in joining)
        self.encoder = nn.ModuleList(_Residual(width) for width in widths[1:])
        self.down = nn.ModuleList(_conv(a, b, stride=2) for a, b in itertools.pairwise(widths))
        self.up = nn.ModuleList(_conv(b, a, kernel=1) for a, b in itertools.pairwise(widths))
        self.decoder = nn.ModuleList(_Residual(width) for width in widths)

    def forward(self, inputs: Sequence[Tensor], joining: Sequence[Tensor] = ()) -> list[Tensor]:
        """What the decoder makes of each level, finest first; `joining` is (N, C, h, w) each."""
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

    def _joined(self, h: Tensor, level: int, joining: Sequence[Tensor]) -> Tensor:
        for at, conv, x in zip(self.join_levels, self.join, joining, strict=True):
            if at == level:
                h = h + conv(x)
        return h


class EdgeDenoiser(nn.Module):
    """Predicts x0 (or noise) from a diffused image, and pretrained features of x0 if wanted.

    `features` maps a level to the channels of the features that are predicted there.
    """

    def __init__(self, channels: int, widths: Sequence[int], features: Mapping[int, int] | None = None) -> None:
        super().__init__()
        self.body = _Pyramid([channels], widths)
        self.head = nn.Conv2d(widths[0], channels, 3, padding=1)
        self.feature_heads = nn.ModuleDict(
            {str(level): nn.Conv2d(widths[level], deep, 1) for level, deep in (features or {}).items()}
        )

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(N, channels, h, w), h and w multiples of 2^(levels - 1) -> the same, and the features, finest first."""
        levels = self.body([x])
        return self.head(levels[0]), [head(levels[int(level)]) for level, head in self.feature_heads.items()]


class EdgeSegmenter(nn.Module):
    """Marks what differs between an image and its reconstruction, and what else of evidence says so.

    `channels` are those of an image and of the logits; `evidence` has the level and the channels of each other map that
    speaks of a difference. Unless it `sees_image`, it knows the image by its differences alone.
    """

    def __init__(
        self,
        channels: tuple[int, int],
        widths: Sequence[int],
        evidence: Sequence[tuple[int, int]] = (),
        sees_image: bool = True,
    ) -> None:
        super().__init__()
        self.sees_image = sees_image
        self.body = _Pyramid([channels[0]] * (3 if sees_image else 2), widths, evidence)
        self.head = nn.Conv2d(widths[0], channels[1], 3, padding=1)

    def forward(self, image: Tensor, reconstruction: Tensor, evidence: Sequence[Tensor] = ()) -> Tensor:
        """Two (N, channels[0], h, w), h and w multiples of 2^(levels - 1) -> logits (N, channels[1], h, w).

        `evidence` is (N, C, h / 2^level, w / 2^level) each.
        """
        seen = [image] if self.sees_image else []
        levels = self.body([*seen, reconstruction, torch.abs(image - reconstruction)], evidence)
        return cast(Tensor, self.head(levels[0]))
