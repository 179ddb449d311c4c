"""The ways to reconstruct, on one set of weights: where two of them meet they agree, and each costs what it says."""

import itertools

import numpy as np
import pytest
import torch

from tests.trainer.tiny import tiny_config
from trainer.config import DiffusionConfig
from trainer.export import run_torch
from trainer.golden import golden_images
from trainer.maths.schedule import linear_schedule
from trainer.methods.base import build_method
from trainer.methods.diffusionad.model import DiffusionAD
from trainer.methods.diffusionad.variants import (
    AutoEncoder,
    Ddim,
    Iterative,
    NormGuided,
    OneStep,
    Variant,
    compared,
    methods,
    own_variant,
    weights,
)

VARIANTS: list[Variant] = [NormGuided(t_s=200, t_b=400, w=1.0), OneStep(t=300), Ddim(t=60, k=7), Iterative(t=12)]
IMAGES = torch.from_numpy(golden_images(3, 32, 32))


def _method(
    prediction: str = "x0", diffuse: bool = True, clamp: bool = False, w: float = 1.0, noise_seed: int = 0
) -> DiffusionAD:
    diffusion = {"prediction": prediction, "diffuse": diffuse, "clamp": clamp, "w": w}
    method = build_method(tiny_config(diffusion=diffusion, noise_seed=noise_seed), seed=0).eval()
    assert isinstance(method, DiffusionAD)
    return method


def _reconstruction(method: DiffusionAD, variant: Variant, images: torch.Tensor = IMAGES) -> np.ndarray:
    return run_torch(method.variant_graph(variant).eval(), images).reconstruction


@pytest.mark.parametrize("w", [0.0, 1.0])
def test_the_configured_way_is_the_deployed_graph(w: float) -> None:
    method = _method(w=w)
    deployed = run_torch(method.graph().eval(), IMAGES).reconstruction
    assert np.array_equal(_reconstruction(method, own_variant(method.config.diffusion)), deployed)


@pytest.mark.parametrize("clamp", [False, True])
@pytest.mark.parametrize("prediction", ["x0", "eps"])
def test_norm_guidance_of_weight_zero_is_one_step(prediction: str, clamp: bool) -> None:
    method = _method(prediction, clamp=clamp)
    guided = _reconstruction(method, NormGuided(t_s=200, t_b=400, w=0.0))
    assert np.allclose(guided, _reconstruction(method, OneStep(t=200)), atol=1e-6)


@pytest.mark.parametrize("prediction", ["x0", "eps"])
def test_ddim_in_one_step_is_one_step(prediction: str) -> None:
    method = _method(prediction)
    assert np.array_equal(_reconstruction(method, Ddim(t=300, k=1)), _reconstruction(method, OneStep(t=300)))


def test_many_steps_from_the_first_timestep_are_one_step() -> None:
    method = _method()
    assert np.array_equal(_reconstruction(method, Iterative(t=0)), _reconstruction(method, OneStep(t=0)))


@pytest.mark.parametrize("variant", [Iterative(t=20), Ddim(t=20, k=21), Ddim(t=20, k=4)], ids=str)
def test_many_steps_reach_the_image_of_a_denoiser_that_knows_it(variant: Variant) -> None:
    """With a denoiser that always predicts the true image, every sampler ends at it."""
    method, image = _method(), torch.rand(1, 12, 16, 16)

    class Oracle(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
            return image.expand_as(x), []

    method.denoiser = Oracle()
    found = method.variant_graph(variant).reconstruct(torch.rand(1, 12, 16, 16)).guided
    assert torch.allclose(found, image)


def _noises_of_the_steps(variant: Variant) -> np.ndarray:
    """What each step from the first timestep on adds to DDPM's mean, in its standard deviations: (steps, pixels).

    DDPM, Algorithm 2: x_(t-1) = (x_t - beta / sqrt(1 - abar) eps) / sqrt(alpha) + sigma z, sigma^2 the posterior's.
    """
    method, passed = _method("eps"), []
    method.denoiser.register_forward_hook(lambda _, seen, said: passed.append((seen[0].double(), said[0].double())))
    with torch.no_grad():
        method.variant_graph(variant).eval().reconstruct(torch.rand(2, 12, 16, 16))
    schedule = linear_schedule(1000, method.config.diffusion.beta_start, method.config.diffusion.beta_end)
    found = []
    for t, ((x_t, eps), (after, _)) in zip(range(len(passed) - 1, 0, -1), itertools.pairwise(passed), strict=True):
        beta, abar, before = schedule.betas[t], schedule.abar[t], schedule.abar[t - 1]
        mean = (x_t - beta / (1 - abar) ** 0.5 * eps) / (1 - beta) ** 0.5
        sigma = (beta * (1 - before) / (1 - abar)) ** 0.5
        found.append(((after - mean) / sigma)[0].flatten().numpy())
    return np.stack(found)


def test_the_iterative_way_is_the_ancestral_sampler_of_ddpm() -> None:
    """What is added at each step is standard normal, and of each step its own; DDIM would add nothing new."""
    z = _noises_of_the_steps(Iterative(t=12))
    assert z.shape == (12, 12 * 16 * 16)
    assert np.abs(z.mean(axis=1)).max() < 0.1
    assert np.abs(z.std(axis=1) - 1).max() < 0.06
    assert np.abs(np.corrcoef(z) - np.eye(12)).max() < 0.1
    ddim = _noises_of_the_steps(Ddim(t=12, k=13))
    assert np.abs(ddim.std(axis=1) - 1).min() > 0.06


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_a_way_says_the_same_twice_and_of_a_row_whatever_is_beside_it(variant: Variant) -> None:
    method = _method()
    together = _reconstruction(method, variant)
    assert np.array_equal(together, _reconstruction(method, variant))
    assert np.allclose(together[1:2], _reconstruction(method, variant, IMAGES[1:2]), atol=1e-5)


@pytest.mark.parametrize("variant", [*VARIANTS, AutoEncoder()], ids=str)
def test_a_way_costs_as_many_passes_as_it_says(variant: Variant) -> None:
    method, rows = _method(diffuse=variant.kind != "auto_encoder"), []
    method.denoiser.register_forward_hook(lambda _, inputs, __: rows.append(len(inputs[0])))
    _reconstruction(method, variant, IMAGES[:1])
    assert sum(rows) == variant.passes()


def test_an_auto_encoder_sees_no_noise() -> None:
    """Another noise seed changes nothing, and the noise level that the network is told is 0."""
    methods = [_method(diffuse=False, noise_seed=seed) for seed in (0, 1)]
    a, b = (_reconstruction(method, AutoEncoder()) for method in methods)
    assert np.array_equal(a, b)
    diffusing = [_reconstruction(_method(noise_seed=seed), OneStep(t=200)) for seed in (0, 1)]
    assert not np.array_equal(*diffusing)
    image = torch.rand(2, 3, 32, 32)
    seen = methods[0].diffused(image, torch.zeros(2, 1, dtype=torch.long), torch.randn(2, 1, 3, 32, 32))
    assert torch.equal(seen[:, 0], image)


def test_the_networks_of_an_auto_encoder_are_those_of_the_diffusion_model() -> None:
    a, b = (_method(diffuse=diffuse).state_dict() for diffuse in (True, False))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_everything_is_compared_once_and_the_own_way_is_among_it() -> None:
    config = DiffusionConfig(prediction="x0", t_s=150, t_b=420, w=0.7)
    found = compared(config)
    assert len(found) == len(set(found))
    assert own_variant(config) in found
    assert {variant.kind for variant in found} == {"one_step", "norm_guided", "ddim", "iterative"}
    assert all(getattr(variant, name, 0) < config.timesteps for variant in found for name in ("t", "t_s", "t_b"))
    assert weights(config)[0] == NormGuided(t_s=150, t_b=420, w=0.0)


def test_without_guidance_one_step_is_the_own_way_and_the_papers_guidance_is_compared_with_it() -> None:
    config = DiffusionConfig(prediction="x0", t_s=150, t_b=420, w=0.0)
    assert own_variant(config) == OneStep(t=150)
    assert {OneStep(t=150), NormGuided(t_s=150, t_b=420, w=1.0)} <= set(methods(config))
    assert NormGuided(t_s=50, t_b=420, w=1.0) in compared(config)


@pytest.mark.parametrize(("w", "begin"), [(0.0, 150), (1.0, 420)])
def test_many_steps_begin_at_the_largest_scale_that_was_trained(w: float, begin: int) -> None:
    found = methods(DiffusionConfig(prediction="x0", t_s=150, t_b=420, w=w))
    assert {Ddim(t=begin, k=30), Iterative(t=begin)} <= set(found)


def test_an_auto_encoder_has_nothing_else_to_compare() -> None:
    assert compared(DiffusionConfig(prediction="x0", diffuse=False)) == [AutoEncoder()]
