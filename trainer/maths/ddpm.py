"""The forward process and its one-step inversions. `abar` broadcasts against x: a float or (N, 1, 1, 1)."""

from __future__ import annotations

import torch
from torch import Tensor


def q_sample(x0: Tensor, noise: Tensor, abar: Tensor) -> Tensor:
    """Diffuse: x_t = sqrt(abar) x0 + sqrt(1 - abar) noise (DiffusionAD Eq. 2; DDPM Eq. 4)."""
    return torch.sqrt(abar) * x0 + torch.sqrt(1.0 - abar) * noise


def x0_from_eps(x_t: Tensor, eps: Tensor, abar: Tensor) -> Tensor:
    """One-step reconstruction from predicted noise (DiffusionAD Eq. 6; DDPM Eq. 15)."""
    return (x_t - torch.sqrt(1.0 - abar) * eps) / torch.sqrt(abar)


def eps_from_x0(x_t: Tensor, x0: Tensor, abar: Tensor) -> Tensor:
    """The noise in x_t if its image is x0: `q_sample` solved for the noise (DDPM Eq. 4)."""
    return (x_t - torch.sqrt(abar) * x0) / torch.sqrt(1.0 - abar)
