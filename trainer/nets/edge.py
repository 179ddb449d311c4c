"""Both networks in a size that a station can afford: convolution, BatchNorm and ReLU only, all of which fuse.

The image is folded into channels (pixel-unshuffle) before the first convolution, so nothing runs at full resolution;
skips are added, not concatenated. The noise level enters as one constant input plane, where a time embedding would stay
a bias per row of the batch; or not at all, as a network can tell how noisy its input is.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

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
    """An encoder and a decoder over `widths`, each level half the resolution of the one before.

    `joining` maps a level to the channels of what joins the encoder there. Without `finest_block` the encoder's finest
    level, which is the dearest, is its stem alone.
    """

    def __init__(self, channels_in: int, widths: Sequence[int], joining: Mapping[int, int], finest_block: bool) -> None:
        super().__init__()
        self.stem = _conv(channels_in, widths[0])
        self.join = nn.ModuleDict(
            {str(level): _conv(channels, widths[level], kernel=1) for level, channels in joining.items()}
        )
        self.encoder = nn.ModuleList(
            _Residual(width) if level > 0 or finest_block else nn.Identity() for level, width in enumerate(widths)
        )
        self.down = nn.ModuleList(_conv(a, b, stride=2) for a, b in itertools.pairwise(widths))
        self.up = nn.ModuleList(_conv(b, a, kernel=1) for a, b in itertools.pairwise(widths))
        self.decoder = nn.ModuleList(_Residual(width) for width in widths)

    def forward(self, x: Tensor, joining: Mapping[int, Tensor]) -> list[Tensor]:
        """What the decoder makes of each level, finest first; `joining` is level -> (N, C, h, w)."""
        h, skips = x, []
        for level, block in enumerate(self.encoder):
            h = self.stem(h) if level == 0 else self.down[level - 1](h)
            if level in joining:
                h = h + self.join[str(level)](joining[level])
            h = block(h)
            skips.append(h)
        found = [self.decoder[-1](skips.pop())]
        for level in reversed(range(len(self.up))):
            h = F.interpolate(self.up[level](found[0]), scale_factor=2.0, mode="nearest")
            found.insert(0, self.decoder[level](h + skips.pop()))
        return found


class EdgeDenoiser(nn.Module):
    """Predicts x0 (or noise) from a diffused image and its noise level, and pretrained features of x0 if wanted.

    `features` maps a level to the channels of the features that are predicted there. Without `noise_plane` the network
    is not told the noise level.
    """

    def __init__(
        self,
        widths: Sequence[int],
        fold: int = 4,
        features: Mapping[int, int] | None = None,
        finest_block: bool = True,
        noise_plane: bool = True,
    ) -> None:
        super().__init__()
        self.fold = fold
        self.noise_plane = noise_plane
        self.body = _Pyramid(3 * fold * fold + noise_plane, widths, {}, finest_block)
        self.head = nn.Conv2d(widths[0], 3 * fold * fold, 3, padding=1)
        self.feature_heads = nn.ModuleDict(
            {str(level): nn.Conv2d(widths[level], channels, 1) for level, channels in (features or {}).items()}
        )

    def forward(self, x: Tensor, noise_level: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(N, 3, H, W), (N,) standard deviation of the noise in it -> (N, 3, H, W) and the features, finest first.

        H and W are multiples of fold x 2^(levels - 1).
        """
        folded = F.pixel_unshuffle(x, self.fold)
        if self.noise_plane:
            plane = noise_level[:, None, None, None].to(folded.dtype).expand(-1, 1, folded.shape[2], folded.shape[3])
            folded = torch.cat([folded, plane], dim=1)
        levels = self.body(folded, {})
        features = [head(levels[int(level)]) for level, head in self.feature_heads.items()]
        return F.pixel_shuffle(self.head(levels[0]), self.fold), features


class EdgeSegmenter(nn.Module):
    """Marks what differs between an image and its reconstruction, in their pixels and, if wanted, in their features.

    `features` maps a level to the channels of the features that are compared there.
    """

    def __init__(
        self,
        widths: Sequence[int],
        fold: int = 2,
        features: Mapping[int, int] | None = None,
        finest_block: bool = True,
    ) -> None:
        super().__init__()
        self.fold = fold
        self.feature_levels = tuple(features or ())
        self.body = _Pyramid(9 * fold * fold, widths, features or {}, finest_block)
        self.head = nn.Conv2d(widths[0], fold * fold, 3, padding=1)

    def forward(self, image: Tensor, reconstruction: Tensor, features: Sequence[Tensor] = ()) -> Tensor:
        """Two (N, 3, H, W), H and W multiples of fold x 2^(levels - 1) -> logits (N, 1, H, W).

        `features` has the absolute difference of the features at each of `feature_levels`.
        """
        pixels = torch.cat([image, reconstruction, torch.abs(image - reconstruction)], dim=1)
        joining = dict(zip(self.feature_levels, features, strict=True))
        levels = self.body(F.pixel_unshuffle(pixels, self.fold), joining)
        return F.pixel_shuffle(self.head(levels[0]), self.fold)
