"""A greedy k-centre coreset, exact and fast (PatchCore, Roth et al. 2022, section 3.2, algorithm 1)."""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK, AT_ONCE = 4096, 128  # rows and centres of one matrix product: what it makes stays in the cache
HOT = 1 / 128  # share of the rows that are kept up to date with every choice
LEAST_HOT = 1024


def greedy_coreset(features: Tensor, count: int, first: int) -> Tensor:
    """Choose rows one by one, each the one farthest from those chosen before.

    A row's distance to what is chosen only shrinks. So of all rows only the farthest, the hot ones, are compared with
    each new choice, as long as one of them is farther than every other row was when it was last looked at; then all
    rows are brought up to date at once, by matrix products, and the hot ones are picked anew.

    Args:
        features: (M, D) float32.
        count: rows to choose, 1..M.
        first: the row to begin with.

    Returns:
        (count,) int64 indices, in the order in which they were chosen; none comes twice.
    """
    rows = features - features.mean(dim=0)  # shorter, as distances are taken from lengths below
    lengths = rows.square().sum(dim=1)
    nearest = torch.full_like(lengths, torch.inf)  # squared distance to what is chosen; -inf: chosen itself
    hot_count = min(len(rows), max(LEAST_HOT, int(HOT * len(rows))))
    chosen, seen = [first], 0
    nearest[first] = -torch.inf
    while len(chosen) < count:
        _approach(nearest, rows, lengths, torch.tensor(chosen[seen:]))
        seen = len(chosen)
        hot = nearest.topk(hot_count).indices.sort().values
        near, at, long = nearest[hot], rows[hot], lengths[hot]
        others = near.min() if hot_count < len(rows) else -torch.inf
        while len(chosen) < count and near[best := int(near.argmax())] >= others:
            chosen.append(int(hot[best]))
            torch.minimum(near, long + long[best] - 2 * (at @ at[best]), out=near)
            near[best] = nearest[hot[best]] = -torch.inf
    return torch.tensor(chosen)


def distances(features: Tensor, chosen: Tensor) -> Tensor:
    """How far each row of (M, D) is from the nearest of the chosen ones, (M,)."""
    rows = features - features.mean(dim=0)
    lengths = rows.square().sum(dim=1)
    nearest = torch.full_like(lengths, torch.inf)
    _approach(nearest, rows, lengths, chosen)
    return nearest.clamp(min=0.0).sqrt()  # rounding may leave less


def _approach(nearest: Tensor, rows: Tensor, lengths: Tensor, chosen: Tensor) -> None:
    """Bring the squared distances of all rows up to date with what was chosen since."""
    for centres in torch.split(chosen, AT_ONCE):
        twice, long = -2 * rows[centres].T, lengths[centres]
        for start in range(0, len(rows), BLOCK):
            block = slice(start, start + BLOCK)
            found = torch.addmm(long, rows[block], twice).amin(dim=1).add_(lengths[block])
            torch.minimum(nearest[block], found, out=nearest[block])
