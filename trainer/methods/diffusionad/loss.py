"""The losses of DiffusionAD (Eq. 9 to 12)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def mean_over(values: Tensor, rows: Tensor) -> Tensor:
    """Mean of per-row values over the selected rows; 0, with a gradient of 0, where none is selected."""
    weight = rows.to(values.dtype)
    return (values * weight).sum() / weight.sum().clamp(min=1)


def squared_error(found: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared error of each row; (N, ...), (N, ...) -> (N,)."""
    return (found - wanted).square().flatten(1).mean(dim=1)


def over_scales(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """The `squared_error` of each row, summed over the scales; (N, ...) each against (N, ...) each -> (N,)."""
    return torch.stack([squared_error(f, w) for f, w in zip(found, wanted, strict=True)]).sum(0)


def feature_error(found: Sequence[Sequence[Tensor]], wanted: Sequence[Tensor]) -> Tensor:
    """Mean squared error of each level over its scales, summed over the levels; level, scale -> (N, C, h, w)."""
    errors = [F.mse_loss(f, w) for scales, w in zip(found, wanted, strict=True) for f in scales]
    return torch.stack(errors).sum() / len(found[0])


def size_weights(target: Tensor, balance: float) -> Tensor:
    """What each pixel counts for, so that large defects do not drown small ones; not in the paper.

    A defect image of area A weighs its defective pixels by A^-balance, times what leaves their sum over the batch as it
    was. All other pixels weigh 1.

    Args:
        target: (N, 1, H, W), 0 or 1.
        balance: 0 for the paper's mean over pixels, 1 for the same share for each defect image.

    Returns:
        (N, 1, H, W).
    """
    area = target.sum(dim=(1, 2, 3), keepdim=True)
    share = area.clamp(min=1) ** -balance
    return 1 + target * (share * (area.sum() / (area * share).sum().clamp(min=1)) - 1)


def focal(logits: Tensor, target: Tensor, alpha: float, gamma: float, weight: Tensor | float = 1.0) -> Tensor:
    """Binary focal loss (Lin et al. 2017, Eq. 5), weighted mean over all pixels, from logits.

    Args:
        logits, target: the same shape; target is 0 or 1.
        alpha: weight of the positive class; the negative has 1 - alpha.
        gamma: how strongly easy pixels are discounted.
        weight: of each pixel, by `size_weights`.
    """
    z = logits * (2 * target - 1)  # logit of the true class
    balanced = alpha * target + (1 - alpha) * (1 - target)
    discount = torch.exp(gamma * F.logsigmoid(-z))  # (1 - p)^gamma, with a finite gradient also where p rounds to 1
    return -(weight * balanced * discount * F.logsigmoid(z)).mean()


def smooth_l1(logits: Tensor, target: Tensor, weight: Tensor | float = 1.0) -> Tensor:
    """Smooth L1 with beta 1 between probabilities and target, weighted mean over all pixels."""
    return (weight * F.smooth_l1_loss(torch.sigmoid(logits), target, reduction="none")).mean()
