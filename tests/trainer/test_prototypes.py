"""The distance to the nearest prototype of good parts: against brute force, and where it must not break."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from edge_ad.errors import ConfigError
from tests.trainer.tiny import make_dataset, one_process, tiny_config
from trainer.config import FEATURE_CHANNELS, TrainConfig
from trainer.data.folder import load_canvases, split_good
from trainer.data.samples import Batch, Samples
from trainer.export import export_graph
from trainer.maths.fold import unfold
from trainer.methods.base import build_method
from trainer.methods.diffusionad.model import DiffusionAD
from trainer.nets.prototypes import STRIDE, Prototypes, places
from trainer.run import create, load_checkpoint, train_paths
from trainer.train import train

LEVEL = list(FEATURE_CHANNELS).index(STRIDE)


def _features(n: int, seed: int, scale: float = 1.0) -> list[Tensor]:
    """Of images of 64 x 64: each channel with a mean and a spread of its own, two neighbours of each level alike."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for stride, channels in FEATURE_CHANNELS.items():
        x = torch.randn((n, channels, 64 // stride, 64 // stride), generator=generator)
        x[:, 1] = x[:, 0] + 0.1 * x[:, 1]
        wide = torch.linspace(0.1, 10, channels)[:, None, None]
        found.append(scale * wide * x + torch.linspace(-5, 5, channels)[:, None, None])
    return found


def _fitted(count: int = 16, seed: int = 0) -> Prototypes:
    prototypes = Prototypes(count)
    prototypes.fit(places(_features(200, 0)), torch.Generator().manual_seed(seed))
    return prototypes


def _rows(features: list[Tensor]) -> Tensor:
    """(places, D): each the mean of its 3 x 3 neighbours."""
    level = features[LEVEL]
    height, width = level.shape[2:]
    padded = torch.zeros(*level.shape[:2], height + 2, width + 2, dtype=torch.float64)
    padded[:, :, 1:-1, 1:-1] = level
    shifted = [padded[:, :, y : y + height, x : x + width] for y in range(3) for x in range(3)]
    return torch.stack(shifted).mean(dim=0).permute(0, 2, 3, 1).flatten(0, 2)


def test_the_distance_is_that_of_brute_force() -> None:
    """Prototypes are places of good images, the first drawn, each next one the farthest from those before it."""
    prototypes, good, seen = _fitted(), _rows(_features(200, 0)), _rows(_features(2, 1))
    mean, spread = good.mean(dim=0), good.std(dim=0)
    good, seen = (good - mean) / spread, (seen - mean) / spread
    first = int(torch.randint(len(good), (1,), generator=torch.Generator().manual_seed(0)))
    chosen = [first]
    nearest = torch.cdist(good, good[[first]])[:, 0]
    while len(chosen) < 16:
        chosen.append(int(nearest.argmax()))
        nearest = torch.minimum(nearest, torch.cdist(good, good[[chosen[-1]]])[:, 0])
    wanted = torch.cdist(seen, good[chosen]).amin(dim=1)
    wanted = (wanted - nearest.mean()) / nearest.std()
    found = prototypes(_features(2, 1))
    assert found.shape == (2, 1, 4, 4)
    torch.testing.assert_close(found.flatten().double(), wanted, atol=1e-3, rtol=1e-3)


def test_what_few_good_parts_have_is_not_strange() -> None:
    """One place in 200 good ones, far from all others, is among the prototypes; means of many would leave it out."""
    good = _features(200, 0)
    good[LEVEL][7, :, 1, 1] += 100
    rare = _features(1, 5)
    rare[LEVEL][0, :, 1, 1] += 100
    known, unknown = Prototypes(16), _fitted()
    known.fit(places(good), torch.Generator().manual_seed(0))
    assert known(rare)[0, 0, 1, 1] < unknown(rare)[0, 0, 1, 1] / 2


def test_good_places_have_mean_0_and_deviation_1_and_strange_ones_are_far() -> None:
    prototypes = _fitted()
    good, strange = prototypes(_features(8, 2)), prototypes(_features(8, 2, scale=3.0))
    assert abs(good.mean()) < 0.6
    assert 0.7 < good.std() < 1.3
    assert strange.mean() > 5


def test_the_same_seed_finds_the_same_prototypes() -> None:
    one, same, other = _fitted(), _fitted(), _fitted(seed=1)
    for key, value in one.state_dict().items():
        assert torch.equal(value, same.state_dict()[key])
    assert not torch.equal(one.project.weight, other.project.weight)


def test_what_is_between_two_kinds_of_places_is_strange() -> None:
    """Places of eight kinds, as a part and its ground are. The mean of all finds what is between them most usual."""

    def kinds(seed: int) -> list[Tensor]:
        found = []
        for number, level in enumerate(_features(16, seed, scale=0.01)):
            means = 5 * torch.randn((8, level.shape[1]), generator=torch.Generator().manual_seed(number))
            found.append(level + means.repeat(2, 1)[:, :, None, None])
        return found

    good = kinds(1)
    between = [(level + level.roll(1, dims=0)) / 2 for level in good]
    for count, farther in ((1, False), (64, True)):
        prototypes = Prototypes(count)
        prototypes.fit(places(kinds(0)), torch.Generator().manual_seed(0))
        assert bool(prototypes(between).mean() > prototypes(good).mean()) == farther


@pytest.mark.parametrize("image", [torch.zeros(3, 32, 32), torch.rand(3, 32, 32)], ids=["constant", "noise"])
def test_one_image_with_fewer_places_than_prototypes_is_enough(image: Tensor) -> None:
    method = _method(64)
    method.observe([image], torch.Generator().manual_seed(0))
    assert method.evidence is not None
    assert method.prototypes is not None
    for seen in (image[None], torch.rand(2, 3, 32, 32)):
        assert torch.isfinite(method.prototypes(method.evidence.raw(seen))).all()


def _config(count: int, **more: object) -> TrainConfig:
    net = {"kind": "edge", "widths": [8] * 3}
    changes = {
        "fold": 4,
        "denoiser": net,
        "segmenter": net,
        "evidence": "efficientnet-lite0",
        "prototypes": {"count": count},
    }
    return tiny_config(**{**changes, "loss": {"features": 0.1}, **more})


def _method(count: int) -> DiffusionAD:
    pytest.importorskip("efficientnet_lite_pytorch", reason="the backbone's package is not installed")
    method = build_method(_config(count), 0)
    assert isinstance(method, DiffusionAD)
    return method


def test_a_strange_place_keeps_its_logit_and_what_is_usual_loses_some_within_bounds() -> None:
    method = _method(8).eval()
    generator = torch.Generator().manual_seed(0)
    good = torch.rand((4, 3, 256, 256), generator=generator) * 0.1 + 0.4
    method.observe(good, generator)
    assert method.evidence is not None
    image = good[:1].clone()
    image[:, :, 96:112, 224:240] = torch.rand((1, 3, 16, 16), generator=generator)
    logits, fold_ = torch.randn((1, 16, 64, 64), generator=generator), method.config.fold
    usual, strange = (unfold(method.suspect(logits, method.evidence.raw(x)) - logits, fold_) for x in (good[:1], image))
    bounds = method.config.prototypes
    assert strange.max() <= 0
    assert strange.min() >= bounds.least - bounds.most - 1e-6
    torch.testing.assert_close(strange[:, :, 96:112, 224:240], torch.zeros(1, 1, 16, 16))
    assert usual.mean() < -bounds.most / 2
    torch.testing.assert_close(strange[:, :, :, :32], usual[:, :, :, :32], atol=1e-3, rtol=0)


def test_no_training_sees_the_prototypes_and_none_changes_them() -> None:
    """With the same weights and draws, the losses are those of a method without."""
    good, mask = torch.rand(4, 3, 32, 32), torch.zeros(4, 1, 32, 32)
    mask[:2, :, 8:16, 8:16] = 1
    found = []
    for count in (0, 8):
        method = _method(count)
        method.observe(good, torch.Generator().manual_seed(0))
        losses = method.losses(Batch(good, good * (1 - mask), mask), torch.Generator().manual_seed(0))
        torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
        found.append({name: float(value.detach()) for name, value in losses.items()})
    assert found[0] == found[1]
    assert method.prototypes is not None
    assert all(p.grad is None for p in method.prototypes.parameters())


def test_the_graph_with_prototypes_runs_alike_in_onnx_runtime() -> None:
    method = _method(8)
    method.observe(torch.rand(4, 3, 32, 32), torch.Generator().manual_seed(0))
    exported = export_graph(method.eval(), _config(8))  # refuses beyond 1e-4, N = 1, 2, 5
    assert max(exported.worst.values()) < 1e-4


def test_a_training_keeps_the_prototypes_of_its_full_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also where it begins with images of half the size. Both networks of a run have the same, resumed or not."""
    optim = {"batch": 4, "steps": 4, "denoiser_lr": 1e-3, "segmenter_lr": 1e-3, "half_size": 0.5, "ema": 0.9}
    config = _config(8, input={"height": 64, "width": 64}, optim=optim)
    run = create(tmp_path / "run", config, split_good(make_dataset(tmp_path / "data"), 0.25, 0), 0)
    train(run, one_process(), None, resume=False, workers=0)
    assert "what good parts look like 200/400" in capsys.readouterr().err  # it takes a while before the first step
    canvases = load_canvases(train_paths(run), None, config.input.frame_layout(), tmp_path)
    wanted = _method(8).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    samples = Samples(canvases, [], config, 0)
    wanted.observe(map(samples.good, range(400)), torch.Generator().manual_seed(0))
    assert wanted.prototypes is not None
    state = load_checkpoint(run.path)
    for networks in ("model", "average"):
        for key, value in wanted.prototypes.state_dict().items():
            assert torch.equal(state[networks][f"prototypes.{key}"], value)
    train(run, one_process(), None, resume=True, workers=0)
    again = load_checkpoint(run.path)
    assert all(torch.equal(value, again["average"][key]) for key, value in state["average"].items())


def test_prototypes_without_features_are_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"^tiny: prototypes are of pretrained features: set evidence, or prototypes\.count to 0"
    ):
        tiny_config(prototypes={"count": 8})
