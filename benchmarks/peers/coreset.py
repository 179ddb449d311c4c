"""A greedy k-centre coreset, exact and fast (PatchCore, Roth et al. 2022, section 3.2, algorithm 1)."""

from __future__ import annotations

import torch
from torch import Tensor


def greedy_coreset(features: Tensor, count: int, first: int) -> Tensor:
    """Choose rows one by one, each the one farthest from those chosen before.

    A new centre c can only come nearer to a row x than its present centre a where |c - a| < 2 |x - a| (the triangle
    inequality), so only those rows are compared with it: after the first few, a small part.

    Args:
        features: (M, D) float32.
        count: rows to choose, 1..M.
        first: the row to begin with.

    Returns:
        (count,) int64 indices, in the order in which they were chosen.
    """
    chosen = torch.empty(count, dtype=torch.int64)
    centres = torch.empty(count, features.shape[1])
    chosen[0], centres[0] = first, features[first]
    nearest = (features - features[first]).norm(dim=1)
    owner = torch.zeros(len(features), dtype=torch.int64)
    for done in range(1, count):
        farthest = int(nearest.argmax())
        centre = features[farthest]
        between = (centres[:done] - centre).norm(dim=1)
        touched = (between[owner] < 2 * nearest).nonzero()[:, 0]
        distance = (features[touched] - centre).norm(dim=1)
        closer = distance < nearest[touched]
        rows = touched[closer]
        nearest[rows], owner[rows] = distance[closer], done
        nearest[farthest], owner[farthest] = 0.0, done
        chosen[done], centres[done] = farthest, centre
    return chosen
