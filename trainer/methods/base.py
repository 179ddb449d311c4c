"""What the training loop and the exporter ask of a method."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from trainer.config import TrainConfig
from trainer.data.samples import Batch


class Method(nn.Module, ABC):
    """The networks of a method, and their losses."""

    @abstractmethod
    def observe(self, good: Iterable[Tensor], generator: torch.Generator) -> None:
        """Take in what is found without gradients, before training, from good images: (3, H, W) each, in 0..1."""

    @abstractmethod
    def losses(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Weighted loss terms of a batch, each a finite scalar, also where the batch lacks good or defect images."""

    @abstractmethod
    def parameter_groups(self) -> list[dict[str, object]]:
        """Parameters with their learning rates, as torch optimisers take them."""

    @abstractmethod
    def graph(self) -> nn.Module:
        """The deployable graph of docs/bundle.md: uint8 (N, H, W, 3) -> (map, score, reconstruction)."""


def _diffusionad(config: TrainConfig) -> Method:
    from trainer.methods.diffusionad.model import DiffusionAD

    return DiffusionAD(config)


METHODS: dict[str, Callable[[TrainConfig], Method]] = {"diffusionad": _diffusionad}


def build_method(config: TrainConfig, seed: int) -> Method:
    """A method with freshly initialised weights; the same seed gives the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return METHODS[config.method](config)
