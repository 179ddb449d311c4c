"""Noise schedules, computed in float64 and cast where they are used."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Schedule:
    """A variance-preserving noise schedule over T timesteps.

    Attributes:
        betas: (T,) float64, each in (0, 1).
        abar: (T,) float64, the cumulative product of 1 - beta; falls from about 1 towards 0.
    """

    betas: NDArray[np.float64]
    abar: NDArray[np.float64]


def linear_schedule(timesteps: int, beta_start: float, beta_end: float) -> Schedule:
    """Linear betas (DDPM, Ho et al. 2020, section 4); t is 0-based, so abar[t] is a product of t + 1 factors.

    Raises:
        ValueError: fewer than one timestep, or betas that leave (0, 1).
    """
    if timesteps < 1 or not 0 < beta_start <= beta_end < 1:
        raise ValueError(f"need timesteps >= 1 and 0 < {beta_start} <= {beta_end} < 1, timesteps {timesteps}")
    betas = np.linspace(beta_start, beta_end, timesteps).astype(np.float64)
    return Schedule(betas, np.cumprod(1.0 - betas, dtype=np.float64))
