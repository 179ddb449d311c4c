"""Denoising in many steps (Song et al. 2021, "Denoising Diffusion Implicit Models", arXiv 2010.02502).

One step serves two samplers. With eta = 0 it draws no noise: DDIM, which may skip timesteps. With eta = 1 and every
timestep visited it is the ancestral sampler of DDPM (Ho et al. 2020, Algorithm 2), its variance being that of the
posterior q(x_{t-1} | x_t, x0) (DDPM Eq. 7); a test holds the two together. Both need no more than a prediction of x0.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from trainer.maths.ddpm import eps_from_x0


def visited(start: int, steps: int) -> list[int]:
    """The timesteps that `steps` steps visit, from `start` down to 0, as evenly as whole numbers allow.

    One step visits `start` alone: its prediction of x0 is the one-step reconstruction.

    Raises:
        ValueError: no step, or more than there are timesteps.
    """
    if not 1 <= steps <= start + 1:
        raise ValueError(f"from timestep {start} there are 1 to {start + 1} steps, not {steps}")
    return [int(t) for t in np.rint(np.linspace(start, 0, steps))]


def step_noise(abar: Tensor, abar_next: Tensor, eta: float) -> Tensor:
    """Standard deviation of the noise that a step adds (DDIM Eq. 16); 0 for eta = 0, and where abar_next is 1."""
    return eta * torch.sqrt((1.0 - abar_next) / (1.0 - abar)) * torch.sqrt(1.0 - abar / abar_next)


def reverse_step(x_t: Tensor, x0: Tensor, abar: Tensor, abar_next: Tensor, eta: float, noise: Tensor) -> Tensor:
    """One step towards the image (DDIM Eq. 12).

    Args:
        x_t: the image at the noise level of `abar`.
        x0: what the network takes for the image behind x_t.
        abar: cumulative schedule value of x_t, below 1.
        abar_next: of the result, above `abar`; 1 gives x0 itself.
        eta: share of the posterior's noise, 0..1.
        noise: standard normal, of the shape of x_t or one that broadcasts to it.
    """
    sigma = step_noise(abar, abar_next, eta)
    direction = torch.sqrt((1.0 - abar_next - sigma.square()).clamp(min=0.0))  # rounding may fall below 0
    return torch.sqrt(abar_next) * x0 + direction * eps_from_x0(x_t, x0, abar) + sigma * noise
