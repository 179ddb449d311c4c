"""The deployable graph: image -> (anomaly map, score, reconstruction), with its noise and timesteps as constants."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from trainer.methods.diffusionad.model import DiffusionAD


def fixed_noise(seed: int, height: int, width: int) -> Tensor:
    """The noise of the graph: (2, 1, 3, H, W) float16, standard normal, independent for the two scales.

    Half precision halves its share of the file. The numbers are what they are: any normal draw will do.
    """
    draw = np.random.Generator(np.random.PCG64(seed)).standard_normal((2, 1, 3, height, width))
    return torch.from_numpy(draw.astype(np.float16))


class Graph(nn.Module):
    """See docs/bundle.md for names, shapes and types of its input and outputs."""

    noise: Tensor
    t: Tensor

    def __init__(
        self, method: DiffusionAD, t: tuple[int, int], height: int, width: int, noise_seed: int, top_k: int
    ) -> None:
        super().__init__()
        self.method = method
        self.top_k = top_k
        self.register_buffer("noise", fixed_noise(noise_seed, height, width))
        self.register_buffer("t", torch.tensor(t)[:, None])

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """uint8 (N, H, W, 3) RGB -> anomaly_map (N, H, W), score (N,), reconstruction (N, H, W, 3)."""
        x = image.float().permute(0, 3, 1, 2) / 255
        found = self.method.reconstruct(x, self.t, self.noise.float())
        anomaly_map = torch.sigmoid(self.method.segment(x, found))[:, 0]
        score = torch.topk(anomaly_map.flatten(1), self.top_k, dim=1).values.mean(dim=1)
        return anomaly_map, score, found.guided.clamp(0, 1).permute(0, 2, 3, 1)
