"""The segmentation network at the published size: the discriminative U-Net of DRAEM (Zavrtanik et al. 2021)."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def _double(channels_in: int, channels_out: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (channels_in, channels_out):
        layers += [nn.Conv2d(channels, channels_out, 3, padding=1), nn.BatchNorm2d(channels_out), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class _Up(nn.Module):
    """Bilinear upsampling by 2, then conv-BN-ReLU."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=True)
        return F.relu(self.norm(self.conv(x)))


class Segmenter(nn.Module):
    """Marks what differs between an image and its reconstruction; 28,373,569 parameters with base 64."""

    def __init__(self, base: int = 64) -> None:
        super().__init__()
        widths = [base, 2 * base, 4 * base, 8 * base, 8 * base, 8 * base]
        ups = [8 * base, 4 * base, 2 * base, base, base]  # widths behind each upsampling
        self.encoder = nn.ModuleList(_double(a, b) for a, b in zip([6, *widths], widths))  # noqa: B905 - one longer
        self.up = nn.ModuleList()
        self.decoder = nn.ModuleList()
        channels = widths[-1]
        for skip, width in zip(reversed(widths[:-1]), ups, strict=True):
            self.up.append(_Up(channels, width))
            self.decoder.append(_double(width + skip, width))
            channels = width
        self.head = nn.Conv2d(channels, 1, 3, padding=1)

    def forward(self, image: Tensor, reconstruction: Tensor) -> Tensor:
        """Two (N, 3, H, W), H and W multiples of 32 -> logits (N, 1, H, W)."""
        h = torch.cat([image, reconstruction], dim=1)
        skips: list[Tensor] = []
        for index, block in enumerate(self.encoder):
            h = block(F.max_pool2d(h, 2) if index else h)
            skips.append(h)
        skips.pop()
        for up, block in zip(self.up, self.decoder, strict=True):
            h = block(torch.cat([skips.pop(), up(h)], dim=1))
        return cast(Tensor, self.head(h))
