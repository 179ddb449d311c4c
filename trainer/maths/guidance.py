"""Norm guidance of DiffusionAD (Eq. 7 and 8), as the paper writes it and as what it comes to.

With x0_s and x0_b the one-step reconstructions at t_s < t_b, the two equations give

    x0_g = (1 - g) x0_s + g x0_b,    g = w (1 - abar_ts),

for whatever the network predicts: the noise cancels. So guidance is one multiply-add, and the two scales can run as
one batch. docs/decisions/0003-norm-guidance-is-a-blend.md has the derivation; tests hold both forms together.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trainer.maths.ddpm import x0_from_eps


def blend_weight(abar_ts: Tensor, w: float) -> Tensor:
    """The weight g = w (1 - abar_ts) of the guide; convex (0 <= g <= 1) for 0 <= w <= 1 / (1 - abar_ts)."""
    return w * (1.0 - abar_ts)


def blend(x0_s: Tensor, x0_b: Tensor, g: Tensor) -> Tensor:
    """The guided reconstruction (1 - g) x0_s + g x0_b."""
    return x0_s + g * (x0_b - x0_s)


def guided_long_form(x_ts: Tensor, eps: Tensor, x0_b: Tensor, abar_ts: Tensor, w: float) -> Tensor:
    """Norm guidance step by step, as the paper states it: the oracle that `blend` is tested against.

    Args:
        x_ts: the image diffused to t_s.
        eps: the network's noise estimate at t_s.
        x0_b: the reconstruction from the larger scale t_b, the guide.
        abar_ts: cumulative schedule value at t_s.
        w: guidance weight.
    """
    guide_ts = torch.sqrt(abar_ts) * x0_b + torch.sqrt(1.0 - abar_ts) * eps  # the guide at the noise of x_ts
    guided_eps = eps - torch.sqrt(1.0 - abar_ts) * w * (guide_ts - x_ts)  # Eq. 7
    return x0_from_eps(x_ts, guided_eps, abar_ts)  # Eq. 8
