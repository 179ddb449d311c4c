"""The pure functions against the equations they cite."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer.maths.ddpm import q_sample, x0_from_eps
from trainer.maths.guidance import blend, blend_weight, guided_long_form
from trainer.maths.schedule import linear_schedule

SCHEDULES = {"code": (1e-4, 2e-2), "paper": (1e-4, 1e-2)}
seeds = st.integers(0, 2**31)
abars = st.floats(1e-3, 0.999)


def _normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


@pytest.mark.parametrize(
    ("schedule", "t", "abar"),
    [
        *(("code", 200, 0.656347), ("code", 300, 0.3940), ("code", 400, 0.1936), ("code", 500, 0.0778)),
        *(("paper", 200, 0.802967), ("paper", 300, 0.6200), ("paper", 400, 0.4334), ("paper", 500, 0.2743)),
    ],
)
def test_abar_has_the_values_computed_by_hand(schedule: str, t: int, abar: float) -> None:
    assert linear_schedule(1000, *SCHEDULES[schedule]).abar[t] == pytest.approx(abar, abs=5e-5)


@given(st.integers(1, 2000), st.floats(1e-6, 0.4), st.floats(1.0, 2.0))
def test_abar_falls_and_stays_in_the_unit_interval(timesteps: int, start: float, ratio: float) -> None:
    abar = linear_schedule(timesteps, start, start * ratio).abar
    assert np.all((abar >= 0) & (abar < 1))
    assert np.all(np.diff(abar) <= 0)


@pytest.mark.parametrize(("timesteps", "start", "end"), [(0, 0.1, 0.2), (10, 0.0, 0.2), (10, 0.3, 0.2), (10, 0.1, 1.0)])
def test_a_schedule_outside_its_range_is_refused(timesteps: int, start: float, end: float) -> None:
    with pytest.raises(ValueError, match="need timesteps"):
        linear_schedule(timesteps, start, end)


def test_diffusing_step_by_step_has_the_moments_of_the_closed_form() -> None:
    """Repeating x_t = sqrt(1 - beta) x_(t-1) + sqrt(beta) n t times has mean sqrt(abar) x0 and variance 1 - abar."""
    schedule = linear_schedule(50, 1e-3, 5e-2)
    rng = np.random.default_rng(0)
    x = np.full(200_000, 2.0)
    for beta in schedule.betas:
        x = math.sqrt(1 - beta) * x + math.sqrt(beta) * rng.standard_normal(x.size)
    assert x.mean() == pytest.approx(2.0 * math.sqrt(schedule.abar[-1]), abs=0.01)
    assert x.var() == pytest.approx(1 - schedule.abar[-1], abs=0.01)


@given(seeds, abars)
def test_predicting_x0_from_the_true_noise_gives_x0(seed: int, abar: float) -> None:
    x0, noise, a = _normal(seed, 2, 3, 4, 4), _normal(seed + 1, 2, 3, 4, 4), torch.tensor(abar, dtype=torch.float64)
    assert torch.allclose(x0_from_eps(q_sample(x0, noise, a), noise, a), x0, atol=1e-9)


@given(seeds, st.sampled_from(sorted(SCHEDULES)), st.integers(0, 299), st.floats(0, 6))
def test_the_blend_is_the_long_form_of_equations_7_and_8(seed: int, name: str, t_s: int, w: float) -> None:
    """For any image, any network output and any guide, to rounding."""
    a = torch.tensor(linear_schedule(1000, *SCHEDULES[name]).abar[t_s], dtype=torch.float64)
    x_ts, eps, x0_b = (_normal(seed + i, 2, 3, 8, 8) for i in range(3))
    short = blend(x0_from_eps(x_ts, eps, a), x0_b, blend_weight(a, w))
    assert torch.allclose(guided_long_form(x_ts, eps, x0_b, a, w), short, rtol=1e-10, atol=1e-10)


def test_the_weight_of_the_guide_at_the_published_scales() -> None:
    """0.344 with the schedule of the code, 0.197 with the one of the paper, at t_s = 200, w = 1."""
    for name, g in (("code", 0.3437), ("paper", 0.1970)):
        abar = torch.tensor(linear_schedule(1000, *SCHEDULES[name]).abar[200])
        assert blend_weight(abar, 1.0).item() == pytest.approx(g, abs=5e-5)
