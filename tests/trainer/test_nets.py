"""Sizes and shapes of the networks."""

import pytest
import torch
from torch import nn

from trainer.config import profile
from trainer.methods.diffusionad.model import DiffusionAD
from trainer.nets.edge import EdgeDenoiser, EdgeSegmenter
from trainer.nets.segmenter import Segmenter
from trainer.nets.unet import UNet, timestep_embedding


def _parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_the_paper_profile_has_the_published_parameter_counts() -> None:
    with torch.device("meta"):
        method = DiffusionAD(profile("paper"))
    assert (_parameters(method.denoiser), _parameters(method.segmenter)) == (131_654_403, 28_373_569)


def test_the_published_networks_keep_the_shape_of_a_256_px_image() -> None:
    with torch.device("meta"):
        image = torch.empty(2, 3, 256, 256)
        assert UNet()(image, torch.empty(2)).shape == (2, 3, 256, 256)
        assert Segmenter()(image, image).shape == (2, 1, 256, 256)


def test_a_fresh_unet_predicts_zero() -> None:
    """Its last convolution starts as zero, as in the published code."""
    x = torch.randn(1, 3, 64, 64)
    assert UNet(32, (1, 2), 1, (2,))(x, torch.tensor([7])).abs().max() == 0


def test_the_timestep_embedding_is_cosines_then_sines() -> None:
    embedded = timestep_embedding(torch.tensor([0, 1]), 8)
    assert embedded[0].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    assert embedded[1, 0] == pytest.approx(0.5403, abs=1e-4)
    assert embedded[1, 4] == pytest.approx(0.8415, abs=1e-4)


@pytest.mark.parametrize("name", ["edge", "demo"])
def test_small_profiles_stay_within_their_parameter_budget(name: str) -> None:
    budget = {"edge": 12_000_000, "demo": 900_000}[name]
    assert _parameters(DiffusionAD(profile(name))) <= budget


@pytest.mark.parametrize("size", [(64, 64), (64, 96)])
def test_edge_networks_keep_the_shape_of_the_image(size: tuple[int, int]) -> None:
    x = torch.rand(2, 12, *size)
    assert EdgeDenoiser(12, (8, 16, 24))(x)[0].shape == x.shape
    assert EdgeSegmenter((12, 4), (8, 16, 24))(x, x).shape == (2, 4, *size)
