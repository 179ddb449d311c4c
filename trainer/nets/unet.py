"""The denoiser at the published size: a U-Net with residual up- and downsampling blocks and attention.

Architecture of Dhariwal & Nichol 2021 ("Diffusion Models Beat GANs"), sized as DiffusionAD uses it: with the
defaults 131,654,403 parameters and 281.6 GMACs for a 256 x 256 image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def timestep_embedding(t: Tensor, dim: int) -> Tensor:
    """Sinusoidal embedding of (N,) timesteps to (N, dim) (Vaswani et al. 2017, section 3.5)."""
    half = dim // 2
    frequencies = torch.exp(-math.log(10_000.0) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
    angles = t.float()[:, None] * frequencies[None]
    return torch.cat([torch.cos(angles), torch.sin(angles)], dim=1)


def _zero(module: nn.Conv2d) -> nn.Conv2d:
    """Start as zero, so that a fresh residual block is the identity."""
    nn.init.zeros_(module.weight)
    if module.bias is not None:
        nn.init.zeros_(module.bias)
    return module


class ResBlock(nn.Module):
    """GroupNorm-SiLU-conv twice, the time embedding added in between; optionally resampled by 2."""

    def __init__(self, channels_in: int, channels_out: int, time_dim: int, resample: str = "none") -> None:
        super().__init__()
        self.resample = resample
        self.norm1 = nn.GroupNorm(32, channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.time = nn.Linear(time_dim, channels_out)
        self.norm2 = nn.GroupNorm(32, channels_out)
        self.conv2 = _zero(nn.Conv2d(channels_out, channels_out, 3, padding=1))
        same = channels_in == channels_out
        self.skip: nn.Module = nn.Identity() if same else nn.Conv2d(channels_in, channels_out, 1)

    def _resampled(self, x: Tensor) -> Tensor:
        if self.resample == "down":
            return F.avg_pool2d(x, 2)
        if self.resample == "up":
            return F.interpolate(x, scale_factor=2.0, mode="nearest")
        return x

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """(N, C_in, H, W), (N, time_dim) -> (N, C_out, H', W')."""
        h = self.conv1(self._resampled(F.silu(self.norm1(x))))
        h = h + self.time(F.silu(time))[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        return cast(Tensor, self.skip(self._resampled(x)) + h)


class Attention(nn.Module):
    """Multi-head self-attention over the positions of a feature map, residual."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(32, channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = _zero(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape."""
        n, c, height, width = x.shape
        qkv = self.qkv(self.norm(x)).reshape(n, 3, self.heads, c // self.heads, height * width)
        q, k, v = qkv.transpose(-1, -2).unbind(1)  # each (N, heads, HW, C / heads)
        y = F.scaled_dot_product_attention(q, k, v)
        return cast(Tensor, x + self.out(y.transpose(-1, -2).reshape(n, c, height, width)))


class _Stage(nn.Module):
    """A residual block and, at some resolutions, attention behind it."""

    def __init__(self, block: ResBlock, attention: Attention | None = None) -> None:
        super().__init__()
        self.block = block
        self.attention = attention

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        x = self.block(x, time)
        return x if self.attention is None else cast(Tensor, self.attention(x))


class UNet(nn.Module):
    """Predicts noise (or x0) from a diffused image and its timestep.

    Args:
        base: channels of the first level.
        multipliers: channels of each level in units of `base`; each level halves the resolution.
        blocks: residual blocks per level of the encoder; the decoder has one more.
        attention_factors: downsampling factors at which attention is used.
        heads: attention heads.
    """

    def __init__(
        self,
        base: int = 128,
        multipliers: Sequence[int] = (1, 1, 2, 2, 4, 4),
        blocks: int = 2,
        attention_factors: Sequence[int] = (8, 16, 32),
        heads: int = 4,
    ) -> None:
        super().__init__()
        self.base = base
        dim = 4 * base
        self.time = nn.Sequential(nn.Linear(base, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.stem = nn.Conv2d(3, base, 3, padding=1)
        widths = [base * m for m in multipliers]

        def attention(level: int) -> Attention | None:
            return Attention(widths[level], heads) if 2**level in attention_factors else None

        self.encoder = nn.ModuleList()
        skips, channels = [base], base
        for level, width in enumerate(widths):
            for _ in range(blocks):
                self.encoder.append(_Stage(ResBlock(channels, width, dim), attention(level)))
                channels = width
                skips.append(channels)
            if level < len(widths) - 1:
                self.encoder.append(_Stage(ResBlock(channels, channels, dim, "down")))
                skips.append(channels)

        self.middle = nn.ModuleList(
            [
                _Stage(ResBlock(channels, channels, dim), Attention(channels, heads)),
                _Stage(ResBlock(channels, channels, dim)),
            ]
        )

        self.decoder = nn.ModuleList()
        self.upsamplers = nn.ModuleDict()  # index in the decoder -> block that doubles the resolution after it
        for level in reversed(range(len(widths))):
            for _ in range(blocks + 1):
                self.decoder.append(_Stage(ResBlock(channels + skips.pop(), widths[level], dim), attention(level)))
                channels = widths[level]
            if level > 0:
                self.upsamplers[str(len(self.decoder) - 1)] = ResBlock(channels, channels, dim, "up")

        self.norm = nn.GroupNorm(32, channels)
        self.head = _zero(nn.Conv2d(channels, 3, 3, padding=1))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """(N, 3, H, W), (N,) timesteps -> (N, 3, H, W); H and W are multiples of 2^(levels - 1)."""
        time = self.time(timestep_embedding(t, self.base))
        h = self.stem(x)
        skips = [h]
        for stage in self.encoder:
            h = stage(h, time)
            skips.append(h)
        for stage in self.middle:
            h = stage(h, time)
        for index, stage in enumerate(self.decoder):
            h = stage(torch.cat([h, skips.pop()], dim=1), time)
            if str(index) in self.upsamplers:
                h = self.upsamplers[str(index)](h, time)
        return cast(Tensor, self.head(F.silu(self.norm(h))))
