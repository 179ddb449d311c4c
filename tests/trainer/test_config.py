"""Training configurations: what ships loads, what is wrong is named."""

import math
from pathlib import Path

import pytest

from edge_ad.errors import ConfigError
from tests.trainer.tiny import TINY, tiny_config
from trainer import config as configs

PROFILES = sorted(p.stem for p in Path("configs/trainer").glob("*.yaml"))


@pytest.mark.parametrize("name", PROFILES)
def test_every_shipped_profile_loads_and_bears_its_name(name: str) -> None:
    assert configs.profile(name).profile == name


def test_a_dumped_configuration_loads_as_itself(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(configs.dump(tiny_config()))
    assert configs.load(tmp_path / "c.yaml") == tiny_config()


@pytest.mark.parametrize(
    ("section", "value", "where"),
    [
        ("diffusion", {"prediction": "x0", "t_s": 350}, "diffusion: need t_s < tau"),
        ("diffusion", {"prediction": "v"}, "diffusion.prediction"),
        ("diffusion", {"prediction": "eps", "diffuse": False}, "diffusion: without noise"),
        ("optim", {"batch": 4, "steps": 0, "denoiser_lr": 1, "segmenter_lr": 1}, "optim.steps"),
        (
            "optim",
            {"batch": 2, "steps": 1, "denoiser_lr": 1, "segmenter_lr": 1, "anomalous": 0.75},
            "optim: .*rounds to 2",
        ),
        (
            "optim",
            {"batch": 8, "steps": 1, "denoiser_lr": 1, "segmenter_lr": 1, "anomalous": 0.05},
            "optim: .*rounds to 0",
        ),
        ("diffusion", {"prediction": "eps", "beta_end": 0.2}, "diffusion: nothing is left of the image"),
        ("denoiser", {"kind": "transformer"}, "denoiser"),
        ("data", {"hold_out": 1.5}, "data.hold_out"),
        ("input", {"height": 100, "width": 96}, "input.height"),
        ("denoiser", {"kind": "edge", "widths": [8] * 6}, "input must be a multiple of 64"),
        ("denoiser", {"kind": "edge", "widths": [8] * 9}, "denoiser.edge.widths"),
        ("synthesis", {"perlin": 0, "blob": 0, "scratch": 0}, "synthesis"),
        ("synthesis", {"texture": 0, "self_augment": 0}, "synthesis"),
        ("synthesis", {"keep_min": 0.9, "keep_max": 0.1}, "synthesis"),
        ("synthesis", {"perlin_scales": [5, 2]}, "synthesis: perlin_scales: need the least first, got .5, 2."),
        ("synthesis", {"blob_sizes": [0.2, 0.1]}, "synthesis: blob_sizes: need the least first"),
        ("synthesis", {"scratch_widths": [0, 0]}, "synthesis: scratch_widths: one must have odds"),
        ("synthesis", {"scratch_lengths": [0, 0.1]}, "synthesis.scratch_lengths.0"),
        ("synthesis", {"shuffle_cells": 3}, "synthesis.shuffle_cells"),
        ("optim", {"batch": 4, "steps": 1, "denoiser_lr": 1, "segmenter_lr": 1, "warmup": 2}, "optim.warmup"),
        ("diffusion", {"prediction": "x0", "beta_start": 0.1, "beta_end": 0.02}, "diffusion: need beta_start"),
        ("diffusion", {"prediction": "x0", "w": math.inf}, "diffusion.w: .*finite"),
        ("loss", {"focal": math.nan}, "loss.focal: .*finite"),
        ("denoiser", {"kind": "edge", "widths": [0, 8]}, "denoiser.edge.widths.0"),
        ("segmenter", {"kind": "edge", "widths": [8, -8]}, "segmenter.edge.widths.1"),
        ("denoiser", {"kind": "unet", "base": 0}, "denoiser.unet.base"),
        ("denoiser", {"kind": "unet", "base": 32, "multipliers": [0, 1]}, "denoiser.unet.multipliers.0"),
        ("denoiser", {"kind": "unet", "base": 32, "heads": 5}, "denoiser.unet: heads must divide"),
        ("top_k", 32 * 32 + 1, "top_k: a map has 32 x 32 pixels, not 1025"),
        ("noise_seed", -1, "noise_seed"),
    ],
)
def test_a_value_out_of_range_is_named(section: str, value: object, where: str) -> None:
    with pytest.raises(ConfigError, match=f"tiny: {where}"):
        configs.parse({**TINY, section: value}, "tiny")


@pytest.mark.parametrize(
    ("section", "net"), [("denoiser", {"kind": "unet", "base": 32}), ("segmenter", {"kind": "draem", "base": 8})]
)
def test_published_networks_are_not_given_folded_images(section: str, net: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"published networks \(unet, draem\) take images as they are: set fold to 1"):
        configs.parse({**TINY, "fold": 4, section: net}, "tiny")


def test_textures_are_relative_to_the_file(tmp_path: Path) -> None:
    text = configs.dump(tiny_config()).replace("textures: null", "textures: dtd")
    (tmp_path / "c.yaml").write_text(text)
    assert configs.load(tmp_path / "c.yaml").synthesis.textures == tmp_path / "dtd"


def test_textures_of_a_replacement_are_relative_to_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the run, whose configuration is in another folder, is opened again."""
    monkeypatch.chdir(tmp_path)
    config = configs.override(tiny_config(), ["synthesis.textures=dtd"])
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(configs.dump(config))
    assert configs.load(Path("run/config.yaml")) == config
    assert config.synthesis.textures == tmp_path / "dtd"


def test_a_value_can_be_replaced_and_the_rest_stays() -> None:
    config = configs.override(tiny_config(), ["diffusion.diffuse=false", "denoiser.widths=[8, 24]", "top_k=20"])
    assert (config.diffusion.diffuse, config.denoiser.widths, config.top_k) == (False, (8, 24), 20)  # type: ignore[union-attr]
    assert config.optim == tiny_config().optim
    assert configs.override(tiny_config(), []) == tiny_config()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("diffusion.w", "--set diffusion.w: write SECTION.KEY=VALUE"),
        ("=3", "--set =3: write SECTION.KEY=VALUE"),
        ("diffusion.w=[1", "--set diffusion.w=\\[1: \\[1 is not YAML"),
        ("diffusoin.w=1", "--set diffusoin.w=1: there is no section diffusoin"),
        ("top_k.w=1", "--set top_k.w=1: there is no section top_k"),
        ("diffusion.weight=1", "--set: diffusion.weight: no such key"),
        ("diffusion.t_s=350", "--set: diffusion: need t_s < tau"),
    ],
)
def test_a_replacement_that_cannot_be_is_named(change: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        configs.override(tiny_config(), [change])
