"""The losses: their equations, and that no batch gives NaN."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss

from tests.trainer.tiny import tiny_config
from trainer.config import DiffusionConfig
from trainer.data.samples import Batch
from trainer.maths.fold import fold
from trainer.methods.base import build_method
from trainer.methods.diffusionad.loss import focal, mean_over, size_weights, smooth_l1
from trainer.methods.diffusionad.model import DiffusionAD, draw_timesteps


def test_focal_loss_without_discount_is_half_the_cross_entropy() -> None:
    """With gamma 0 and alpha 0.5 it is 0.5 x binary cross-entropy."""
    logits, target = torch.randn(400), (torch.rand(400) < 0.3).float()
    expected = 0.5 * log_loss(target.numpy(), torch.sigmoid(logits).double().numpy())
    assert focal(logits, target, 0.5, 0.0).item() == pytest.approx(expected, rel=1e-5)


def test_focal_loss_of_one_pixel_by_hand() -> None:
    """At p = 0.8 for the true class: -0.5 (1 - 0.8)^4 ln 0.8."""
    logit = torch.logit(torch.tensor([0.8]))
    assert focal(logit, torch.ones(1), 0.5, 4.0).item() == pytest.approx(0.5 * 0.2**4 * 0.223144, rel=1e-4)


def test_focal_loss_weighs_defects_by_alpha_and_the_rest_by_what_is_left() -> None:
    """Lin et al. Eq. 3: at p = 0.8 for the true class, -alpha ln 0.8 where it is a defect, else -(1 - alpha) ln 0.8."""
    logit = torch.logit(torch.tensor([0.8]))
    assert focal(logit, torch.ones(1), 0.9, 0.0).item() == pytest.approx(0.9 * 0.223144, rel=1e-4)
    assert focal(-logit, torch.zeros(1), 0.9, 0.0).item() == pytest.approx(0.1 * 0.223144, rel=1e-4)


@given(st.floats(-80, 80), st.sampled_from([0.0, 1.0]), st.floats(0, 6))
def test_focal_loss_and_its_gradient_are_finite_for_any_logit(logit: float, target: float, gamma: float) -> None:
    x = torch.tensor([logit], requires_grad=True)
    focal(x, torch.tensor([target]), 0.5, gamma).backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


def test_smooth_l1_of_a_certain_mistake_is_a_half() -> None:
    """|p - y| = 1 is at the joint of the two branches: 0.5."""
    assert smooth_l1(torch.tensor([50.0]), torch.tensor([0.0])).item() == pytest.approx(0.5)


def test_weighted_losses_are_means_of_weighted_pixels() -> None:
    logits, target, weight = torch.randn(50), (torch.rand(50) < 0.3).float(), 4 * torch.rand(50)
    for loss in (smooth_l1, lambda *a: focal(*a[:2], 0.5, 2.0, *a[2:])):
        one_by_one = torch.stack([loss(z[None], y[None]) for z, y in zip(logits, target, strict=True)])
        assert loss(logits, target, weight).item() == pytest.approx((weight * one_by_one).mean().item(), rel=1e-5)


def _squares(*sides: int) -> torch.Tensor:
    target = torch.zeros(len(sides), 1, 16, 16)
    for row, side in zip(target, sides, strict=True):
        row[:, :side, :side] = 1
    return target


def test_size_weights_by_hand() -> None:
    """Areas 16 and 64, balance 0.5: the weights are c/4 and c/8 with 16 c/4 + 64 c/8 = 80, so c = 80 / 12."""
    weights = size_weights(_squares(4, 8, 0), 0.5)
    assert weights[0, 0, 0, 0].item() == pytest.approx(80 / 48)
    assert weights[1, 0, 0, 0].item() == pytest.approx(80 / 96)
    assert (weights[:, :, 8:, 8:] == 1).all()  # no defect
    assert (weights[2] == 1).all()  # a good image


@given(st.lists(st.integers(0, 16), min_size=1, max_size=6), st.floats(0, 1))
def test_size_weights_move_the_share_of_defects_not_their_sum(sides: list[int], balance: float) -> None:
    target = _squares(*sides)
    weights = size_weights(target, balance)
    assert (weights * target).sum().item() == pytest.approx(target.sum().item(), rel=1e-4)
    assert torch.equal(size_weights(target, 0.0), torch.ones_like(target))
    shares = (size_weights(target, 1.0) * target).sum(dim=(1, 2, 3))[target.amax(dim=(1, 2, 3)) > 0]
    assert torch.allclose(shares, shares[:1].expand_as(shares), rtol=1e-4)


def test_the_mean_over_no_row_is_zero() -> None:
    assert mean_over(torch.ones(3), torch.zeros(3, dtype=torch.bool)) == 0


@given(st.integers(1, 300), st.floats(0, 1))
def test_timesteps_stay_on_their_side_of_tau(n: int, near: float) -> None:
    config = DiffusionConfig(prediction="x0", near=near)
    t_s, t_b = draw_timesteps(n, config, torch.Generator().manual_seed(n)).T
    assert t_s.min() >= 0
    assert t_s.max() < config.tau <= t_b.min()
    assert t_b.max() < config.timesteps


@given(st.integers(1, 300), st.floats(0, 1))
def test_without_guidance_the_larger_scale_is_not_trained(n: int, near: float) -> None:
    """And the smaller one is as with it, for the same draw."""
    guided, alone = (
        draw_timesteps(n, DiffusionConfig(prediction="x0", near=near, w=w), torch.Generator().manual_seed(n))
        for w in (1.0, 0.0)
    )
    assert alone.shape == (n, 1)
    assert torch.equal(alone[:, 0], guided[:, 0])


@pytest.mark.parametrize("near", [0.0, 0.6, 1.0])
def test_the_asked_share_of_timesteps_is_near_the_test_scales(near: float) -> None:
    """The rest is uniform, so some of it is there too."""
    config = DiffusionConfig(prediction="x0", t_s=100, tau=300, t_b=600, near=near, near_width=20)
    t = draw_timesteps(20_000, config, torch.Generator().manual_seed(0))
    for scale, centre, span in ((0, 100, 300), (1, 600, 700)):
        found = ((t[:, scale] - centre).abs() <= 20).float().mean().item()
        assert found == pytest.approx(near + (1 - near) * 41 / span, abs=0.015)
    assert t[:, 0].float().mean().item() == pytest.approx(near * 100 + (1 - near) * 149.5, abs=3)


batches = st.tuples(
    st.sampled_from(["random", "black", "white"]),
    st.lists(st.sampled_from(["good", "part", "all"]), min_size=2, max_size=4),
    st.sampled_from(
        [
            {"prediction": "x0"},
            {"prediction": "eps"},
            {"prediction": "x0", "w": 0.0},
            {"prediction": "x0", "diffuse": False},
        ]
    ),
)


@given(batches)
@settings(max_examples=25)
def test_no_batch_yields_nan(case: tuple[str, list[str], dict[str, object]]) -> None:
    """Whatever the batch holds: only good images, only defects, a mask over all of it, constant images."""
    content, masks, diffusion = case
    method = build_method(tiny_config(diffusion=diffusion), seed=0)
    clean = {"random": torch.rand, "black": torch.zeros, "white": torch.ones}[content](len(masks), 3, 32, 32)
    mask = torch.stack([{"good": torch.zeros, "all": torch.ones}.get(m, _half)(1, 32, 32) for m in masks])
    losses = method.losses(Batch(clean, 1 - clean * (1 - mask), mask), torch.Generator().manual_seed(1))
    torch.stack(list(losses.values())).sum().backward()
    assert all(torch.isfinite(value) for value in losses.values())
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in method.parameters())


def _half(*shape: int) -> torch.Tensor:
    mask = torch.zeros(shape)
    mask[..., : shape[-1] // 2] = 1
    return mask


def test_every_weight_gets_a_gradient_and_the_mask_loss_reaches_the_denoiser() -> None:
    """Training is end to end: the segmentation's gradient passes through the blended reconstruction."""
    method = build_method(tiny_config(loss={"denoise": 0.0, "smooth_l1": 1.0, "focal": 5.0}), seed=0)
    clean = torch.rand(4, 3, 32, 32)
    method.losses(Batch(clean, clean, _half(4, 1, 32, 32)), torch.Generator())["focal"].backward()
    missing = [name for name, p in method.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert missing == []


def test_defect_images_are_no_target_of_the_noise_loss() -> None:
    """Eq. 9 counts good images only: with none in the batch the term is 0."""
    method = build_method(tiny_config(), seed=0)
    clean = torch.rand(2, 3, 32, 32)
    losses = method.losses(Batch(clean, clean, torch.ones(2, 1, 32, 32)), torch.Generator())
    assert losses["denoise"] == 0
    assert losses["restore"] > 0


class _Says(torch.nn.Module):
    """A network that says the same whatever it sees."""

    def __init__(self, said: object) -> None:
        super().__init__()
        self.said = said

    def forward(self, *_: object) -> object:
        return self.said


def _defects() -> Batch:
    """Two defect images, of which the defect is a large change, and a good one."""
    clean, mask = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.zeros(3, 1, 32, 32)
    mask[:2, :, 8:24, 8:24] = 1
    return Batch(clean, clean * (1 - mask), mask)


def _losses_where_the_denoiser_says(image: torch.Tensor, batch: Batch, w: float) -> dict[str, torch.Tensor]:
    method = build_method(tiny_config(diffusion={"prediction": "x0", "w": w}), seed=0)
    method.denoiser = _Says((fold(image, 2).repeat_interleave(2 if w > 0 else 1, dim=0), []))
    return method.losses(batch, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("w", [0.0, 1.0])
def test_a_defect_image_is_to_be_restored_to_the_good_image_that_it_was_made_from(w: float) -> None:
    """Not to itself, which would teach the denoiser to keep defects; each scale counts."""
    batch = _defects()
    right = _losses_where_the_denoiser_says(batch.clean, batch, w)
    assert (right["restore"], right["denoise"]) == (0, 0)
    kept = _losses_where_the_denoiser_says(batch.image, batch, w)
    change = (batch.image - batch.clean)[:2].square().mean().item()
    assert kept["restore"].item() == pytest.approx((2 if w > 0 else 1) * change, rel=1e-5)


def _mask_losses(wrong: torch.Tensor, mask: torch.Tensor, **loss: float) -> dict[str, float]:
    """What it costs to be as sure of the pixels `wrong` (N, 1, H, W) as of the others, which are right."""
    method = build_method(tiny_config(loss={"focal_gamma": 2.0, **loss}), seed=0)
    assert isinstance(method, DiffusionAD)
    clean, costs = torch.rand(len(mask), 3, *mask.shape[2:]), []
    for mistakes in (wrong, torch.zeros_like(wrong)):
        method.segmenter = _Says(fold(4 * (2 * mask - 1) * (1 - 2 * mistakes), 2))
        costs.append(method.losses(Batch(clean, clean, mask), torch.Generator().manual_seed(0)))
    return {name: (costs[0][name] - costs[1][name]).item() for name in ("smooth_l1", "focal")}


@pytest.mark.parametrize(("balance", "ratio"), [(0.0, 16.0), (0.5, 4.0), (1.0, 1.0)])
def test_size_balance_says_what_overlooking_a_large_defect_costs_beside_a_small_one(
    balance: float, ratio: float
) -> None:
    """Of areas 9 and 144: (144 / 9)^(1 - balance) times as much."""
    mask = torch.zeros(2, 1, 32, 32)
    mask[0, :, :3, :3] = mask[1, :, :12, :12] = 1
    one, other = torch.tensor([1.0, 0.0])[:, None, None, None], torch.tensor([0.0, 1.0])[:, None, None, None]
    small, large = (_mask_losses(row * mask, mask, size_balance=balance) for row in (one, other))
    for name in ("smooth_l1", "focal"):
        assert large[name] / small[name] == pytest.approx(ratio, rel=1e-3)


def test_focal_alpha_says_what_an_overlooked_pixel_costs_beside_a_false_alarm() -> None:
    """As alpha is to 1 - alpha."""
    mask = torch.zeros(2, 1, 32, 32)
    mask[0, :, :8, :8] = 1
    beside = mask.roll(16, dims=2)  # as many good pixels
    overlooked, alarmed = (_mask_losses(wrong, mask, focal_alpha=0.8)["focal"] for wrong in (mask, beside))
    assert overlooked / alarmed == pytest.approx(4.0, rel=1e-3)
