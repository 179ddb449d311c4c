"""The pure functions against the equations they cite."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer.maths.ddim import reverse_step, step_noise, visited
from trainer.maths.ddpm import eps_from_x0, q_sample, x0_from_eps
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


@given(seeds, abars)
def test_the_noise_of_an_image_is_what_predicts_it(seed: int, abar: float) -> None:
    """eps_from_x0 and x0_from_eps are each other's inverse."""
    x_t, x0, a = _normal(seed, 2, 3, 4, 4), _normal(seed + 1, 2, 3, 4, 4), torch.tensor(abar, dtype=torch.float64)
    assert torch.allclose(x0_from_eps(x_t, eps_from_x0(x_t, x0, a), a), x0, atol=1e-9)


timesteps_of_code = st.integers(1, 999)


def _posterior(x_t: torch.Tensor, x0: torch.Tensor, t: int) -> tuple[torch.Tensor, float]:
    """Mean and standard deviation of q(x_{t-1} | x_t, x0) as DDPM writes them (Eq. 7), t >= 1."""
    schedule = linear_schedule(1000, *SCHEDULES["code"])
    beta, abar, before = schedule.betas[t], schedule.abar[t], schedule.abar[t - 1]
    mean = math.sqrt(before) * beta / (1 - abar) * x0 + math.sqrt(1 - beta) * (1 - before) / (1 - abar) * x_t
    return mean, math.sqrt((1 - before) / (1 - abar) * beta)


def _abars(t: int) -> tuple[torch.Tensor, torch.Tensor]:
    abar = torch.from_numpy(linear_schedule(1000, *SCHEDULES["code"]).abar)
    return abar[t], abar[t - 1]


@given(seeds, timesteps_of_code)
def test_a_step_with_all_its_noise_draws_from_the_posterior_of_ddpm(seed: int, t: int) -> None:
    """DDIM Eq. 12 with eta = 1 is x_{t-1} ~ q(x_{t-1} | x_t, x0), DDPM Eq. 7."""
    x_t, x0, noise = (_normal(seed + i, 2, 3, 4, 4) for i in range(3))
    mean, deviation = _posterior(x_t, x0, t)
    found = reverse_step(x_t, x0, *_abars(t), 1.0, noise)
    assert torch.allclose(found, mean + deviation * noise, rtol=1e-8, atol=1e-8)


@given(seeds, timesteps_of_code, st.floats(0, 1))
def test_a_step_keeps_the_marginal_of_the_forward_process(seed: int, t: int, eta: float) -> None:
    """From x_t = q_sample(x0), the result has mean sqrt(abar') x0 and variance 1 - abar', for any eta."""
    abar, before = _abars(t)
    x0 = _normal(seed, 1)
    sigma = step_noise(abar, before, eta)
    clean = reverse_step(torch.sqrt(abar) * x0, x0, abar, before, eta, torch.zeros(1))
    assert torch.allclose(clean, torch.sqrt(before) * x0, atol=1e-9)
    eps = reverse_step(torch.sqrt(abar) * x0 + torch.sqrt(1 - abar), x0, abar, before, eta, torch.zeros(1)) - clean
    assert (eps.square() + sigma.square()).item() == pytest.approx(1 - before.item(), rel=1e-8)


@given(seeds, timesteps_of_code, timesteps_of_code)
def test_steps_without_noise_follow_one_line_however_many_they_are(seed: int, first: int, second: int) -> None:
    """With x0 known, DDIM from t to 0 is the same in one step or by way of a timestep between."""
    x0, noise = _normal(seed, 2, 3, 4, 4), _normal(seed + 1, 2, 3, 4, 4)
    abar = torch.from_numpy(linear_schedule(1000, *SCHEDULES["code"]).abar)
    low, high = sorted((first, second))
    start, none = q_sample(x0, noise, abar[high]), torch.zeros(1)
    direct = reverse_step(start, x0, abar[high], abar[0], 0.0, none)
    if low < high:
        between = reverse_step(start, x0, abar[high], abar[low], 0.0, none)
        assert torch.allclose(reverse_step(between, x0, abar[low], abar[0], 0.0, none), direct, atol=1e-8)
    assert torch.allclose(direct, q_sample(x0, noise, abar[0]), atol=1e-8)


@given(seeds, timesteps_of_code, st.floats(0, 1))
def test_the_last_step_gives_the_predicted_image(seed: int, t: int, eta: float) -> None:
    x_t, x0, noise = (_normal(seed + i, 3) for i in range(3))
    abar, one = _abars(t)[0], torch.tensor(1.0, dtype=torch.float64)
    assert torch.allclose(reverse_step(x_t, x0, abar, one, eta, noise), x0, atol=1e-12)


@given(st.integers(0, 999), st.data())
def test_the_visited_timesteps_fall_from_the_start_to_zero(start: int, data: st.DataObject) -> None:
    steps = data.draw(st.integers(1, start + 1))
    found = visited(start, steps)
    assert len(found) == steps
    assert found[0] == start
    assert steps == 1 or found[-1] == 0
    assert all(a > b for a, b in itertools.pairwise(found))


def test_every_timestep_is_visited_if_there_are_as_many_steps() -> None:
    assert visited(400, 401) == list(range(400, -1, -1))
    assert visited(400, 1) == [400]


@pytest.mark.parametrize(("start", "steps"), [(10, 0), (10, 12)])
def test_steps_that_cannot_be_are_refused(start: int, steps: int) -> None:
    with pytest.raises(ValueError, match="there are 1 to 11 steps"):
        visited(start, steps)
