"""The deployable graph: image -> (anomaly map, score, reconstruction), with its noise and timesteps as constants."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from trainer.maths.ddim import reverse_step, visited
from trainer.maths.fold import fold, folded_frame, unfold

if TYPE_CHECKING:
    from trainer.methods.diffusionad.model import DiffusionAD, Reconstruction


def fixed_noise(seed: int, height: int, width: int) -> Tensor:
    """The noise of the graph: (2, 1, 3, H, W) float16, standard normal, independent for the two scales.

    Half precision halves its share of the file. The numbers are what they are: any normal draw will do.
    """
    draw = np.random.Generator(np.random.PCG64(seed)).standard_normal((2, 1, 3, height, width))
    return torch.from_numpy(draw.astype(np.float16))


class Graph(nn.Module):
    """One-step reconstruction at one scale, or norm-guided at two; docs/bundle.md has its input and outputs."""

    noise: Tensor
    t: Tensor

    def __init__(self, method: DiffusionAD, t: tuple[int, ...], w: float) -> None:
        super().__init__()
        config = method.config
        self.method = method
        self.w = w
        self.top_k = config.top_k
        self.fold = config.fold
        noise = fixed_noise(config.noise_seed, config.input.height, config.input.width)[: len(t), 0]
        self.register_buffer("noise", fold(noise, config.fold)[None])
        self.register_buffer("t", torch.tensor(t)[None])

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """uint8 (N, H, W, 3) RGB -> anomaly_map (N, H, W), score (N,), reconstruction (N, H, W, 3)."""
        x, evidence = folded_frame(image, self.fold), self.method.evidence
        found = self.reconstruct(x)
        raw = evidence.raw(image.float().permute(0, 3, 1, 2) / 255) if evidence is not None else []
        logits = self.method.segment(x, found, evidence.normed(raw) if evidence is not None else [])
        anomaly_map = unfold(torch.sigmoid(self.method.suspect(logits, raw)), self.fold)[:, 0]
        score = torch.topk(anomaly_map.flatten(1), self.top_k, dim=1).values.mean(dim=1)
        return anomaly_map, score, unfold(found.guided, self.fold).clamp(0, 1).permute(0, 2, 3, 1)

    def reconstruct(self, x: Tensor) -> Reconstruction:
        """A folded image in 0..1 as its normal self."""
        return self.method.reconstruct(x, self.t, self.noise.float(), self.w)


class IterativeGraph(Graph):
    """Reconstruction in many steps from a timestep down to 0: what one step is measured against, never deployed.

    Args:
        method: the networks.
        start: the timestep that the image is diffused to.
        steps: passes through the denoiser.
        eta: share of the posterior's noise that each step adds: 1 is DDPM, 0 DDIM.
    """

    def __init__(self, method: DiffusionAD, start: int, steps: int, eta: float) -> None:
        super().__init__(method, (start,), 0.0)
        self.visited = visited(start, steps)
        self.eta = eta

    def reconstruct(self, x: Tensor) -> Reconstruction:
        """See `Graph.reconstruct`; the noise of the steps is the same for every image and every call."""
        abar = self.method.abar
        x_t = self.method.diffused(x, self.t, self.noise.float())
        generator = torch.Generator().manual_seed(self.method.config.noise_seed)
        for t, after in itertools.pairwise(self.visited):
            x0 = self.method.predict(x_t, torch.full_like(self.t, t), self.w).guided
            noise = torch.randn(x.shape[1:], generator=generator).to(x)
            x_t = reverse_step(x_t, x0[:, None], abar[t], abar[after], self.eta, noise)
        return self.method.predict(x_t, torch.full_like(self.t, self.visited[-1]), self.w)
