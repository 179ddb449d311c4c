"""EfficientAD-S as its paper describes it, with random weights: the network to compare speeds with.

K. Batzner, L. Heckler, R. Koenig, "EfficientAD", WACV 2024, tables 6 to 9: a patch description network as teacher, one
with twice the outputs as student, an autoencoder. Without padding, as the public implementations run it: 37.9 GMACs.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIZE = 256
CHANNELS = 384  # of the teacher's description of a patch
MAP = 56  # pixels of the descriptions; 4 on each side are then added to make 64
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
UPSAMPLED = (3, 8, 15, 32, 63, 127)  # what the decoder enlarges to, pixels


def patch_description(channels: int) -> nn.Sequential:
    """PDN-S: (N, 3, 256, 256) -> (N, channels, 56, 56)."""
    return nn.Sequential(
        *(nn.Conv2d(3, 128, 4), nn.ReLU(), nn.AvgPool2d(2, 2)),
        *(nn.Conv2d(128, 256, 4), nn.ReLU(), nn.AvgPool2d(2, 2)),
        *(nn.Conv2d(256, 256, 3), nn.ReLU()),
        nn.Conv2d(256, channels, 4),
    )


class Autoencoder(nn.Module):
    """(N, 3, 256, 256) -> (N, 384, 56, 56)."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 32, 32, 64, 64, 64)
        strided = [nn.Conv2d(a, b, 4, 2, 1) for a, b in itertools.pairwise(widths)]
        self.encoder = nn.Sequential(*(layer for conv in strided for layer in (conv, nn.ReLU())), nn.Conv2d(64, 64, 8))
        self.decoder = nn.ModuleList(nn.Conv2d(64, 64, 4, 1, 2) for _ in UPSAMPLED)
        self.head = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, CHANNELS, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        h = self.encoder(x)
        for size, conv in zip(UPSAMPLED, self.decoder, strict=True):
            h = F.relu(conv(F.interpolate(h, (size, size), mode="bilinear")))
        described: Tensor = self.head(F.interpolate(h, (MAP, MAP), mode="bilinear"))
        return described


class EfficientAdS(nn.Module):
    """uint8 (N, 256, 256, 3) RGB -> anomaly map (N, 256, 256), score (N,)."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.teacher = patch_description(CHANNELS)
        self.student = patch_description(2 * CHANNELS)
        self.autoencoder = Autoencoder()
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None])
        self.register_buffer("std", torch.tensor(STD)[:, None, None])

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Normalise, describe three times, compare, enlarge; the score is the largest value of the map."""
        x = (image.float().permute(0, 3, 1, 2) / 255 - self.mean) / self.std
        teacher, student, autoencoder = self.teacher(x), self.student(x), self.autoencoder(x)
        local = (teacher - student[:, :CHANNELS]).square().mean(1, keepdim=True)
        globally = (autoencoder - student[:, CHANNELS:]).square().mean(1, keepdim=True)
        described = F.pad(0.5 * local + 0.5 * globally, (4, 4, 4, 4))
        anomaly_map = F.interpolate(described, (SIZE, SIZE), mode="bilinear")[:, 0]
        return anomaly_map, anomaly_map.flatten(1).amax(1)
