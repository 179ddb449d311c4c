"""PatchCore, PaDiM and DRAEM as graphs with the interface of ours, fitted to good images."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.peers import reference
from edge_ad.errors import ConfigError
from trainer.nets.coreset import greedy_coreset
from trainer.nets.pretrained import MEAN, STD

BATCH = 16
LAYERS = {4: "blocks.1", 8: "blocks.2", 16: "blocks.4"}  # stride, pixels -> timm's name
PATCHCORE_STRIDES = (4, 8)  # chosen on a validation set (docs/experiments.md)
PADIM_LAYERS = tuple(LAYERS.values())
NEIGHBOURS = 9
PADIM_FEATURES = 100  # of 176: what the paper keeps of ResNet-18
DRAEM_BATCH, DRAEM_RATE = 8, 1e-4
DRAEM_OPACITY = (0.1, 1.0)
DRAEM_DROPS, DRAEM_DROP = (4 / 7, 6 / 7), 0.1  # after epochs 400 and 600 of 700 the paper takes a tenth of the rate


@dataclass(frozen=True, slots=True)
class Settings:
    """What a peer may use.

    Attributes:
        seed: of all its random choices.
        coreset: share of the patches that PatchCore keeps.
        minutes: DRAEM's training time.
        textures: folder of texture photographs for DRAEM.
        strides: of the features that PatchCore takes, finest first.
        max_steps: ends DRAEM's training earlier.
    """

    seed: int
    coreset: float
    minutes: float
    textures: Path | None
    strides: tuple[int, ...] = PATCHCORE_STRIDES
    max_steps: int | None = None


@dataclass(frozen=True, slots=True)
class Fitted:
    """A graph, the steps of its training (0: none), and the configuration that its result tells."""

    graph: nn.Module
    steps: int
    config: dict[str, Any]


class PeerGraph(nn.Module):
    """One of anomalib's models behind our interface: uint8 (N, H, W, 3) RGB -> map (N, H, W), score (N,), image.

    The map is in the method's own units. There is no reconstruction: the image stands in for it.
    """

    def __init__(self, model: nn.Module, mean: float, std: float) -> None:
        super().__init__()
        self.model = model
        self.mean, self.std = mean, std

    def prepared(self, image: Tensor) -> Tensor:
        """(N, H, W, 3) uint8 to what the model takes, (N, 3, H, W)."""
        return (image.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See the class."""
        found = self.model(self.prepared(image))
        return found.anomaly_map.reshape(image.shape[:3]), found.pred_score.reshape(-1), image.float() / 255


def fit_patchcore(images: NDArray[np.uint8], settings: Settings) -> Fitted:
    """Fill PatchCore's memory bank; (N, H, W, 3) uint8 RGB.

    The coreset is chosen among the features themselves: anomalib's random projection has more dimensions than they.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    layers = tuple(LAYERS[stride] for stride in settings.strides)
    model = reference.patchcore(layers, NEIGHBOURS)
    graph = _shown(model, images)
    patches = torch.vstack(model.embedding_store)
    model.embedding_store.clear()
    count = max(1, int(settings.coreset * len(patches)))
    first = int(torch.randint(len(patches), (1,), generator=generator))
    model.memory_bank = patches[greedy_coreset(patches, count, first)].clone()
    return Fitted(graph.eval(), 0, _config(layers, coreset=settings.coreset, neighbours=NEIGHBOURS))


def fit_padim(images: NDArray[np.uint8], settings: Settings) -> Fitted:
    """Fit PaDiM's Gaussians; (N, H, W, 3) uint8 RGB."""
    torch.manual_seed(settings.seed)
    model = reference.padim(PADIM_LAYERS, PADIM_FEATURES)
    graph = _shown(model, images)
    model.fit()
    return Fitted(graph.eval(), 0, _config(PADIM_LAYERS, features=PADIM_FEATURES))


def _shown(model: nn.Module, images: NDArray[np.uint8]) -> PeerGraph:
    """The model behind our interface, after it has seen all good images."""
    graph = PeerGraph(model, MEAN, STD).train()
    with torch.no_grad():
        for start in range(0, len(images), BATCH):
            model(graph.prepared(torch.from_numpy(images[start : start + BATCH])))
    return graph


def _config(layers: tuple[str, ...], **facts: float) -> dict[str, Any]:
    return {"backbone": reference.BACKBONE, "layers": list(layers), **facts}


def fit_draem(images: NDArray[np.uint8], settings: Settings) -> Fitted:
    """Train DRAEM for its minutes; (N, H, W, 3) uint8 RGB.

    Raises:
        ConfigError: no textures, or no minutes.
    """
    if settings.textures is None or settings.minutes <= 0:
        raise ConfigError("draem needs --textures DIR and --minutes above 0")
    torch.manual_seed(settings.seed)
    model = reference.draem().train()
    graph = PeerGraph(model, 0.0, 1.0)
    loss = reference.load_anomalib("models.image.draem.loss").DraemLoss()
    perlin = reference.load_anomalib("data.utils.generators.perlin")
    spoil = perlin.PerlinAnomalyGenerator(str(settings.textures), blend_factor=DRAEM_OPACITY)
    optimizer = torch.optim.Adam(model.parameters(), lr=DRAEM_RATE)
    rng = np.random.default_rng(settings.seed)
    steps, started = 0, time.monotonic()
    while (progress := (time.monotonic() - started) / (60 * settings.minutes)) < 1 and steps != settings.max_steps:
        for group in optimizer.param_groups:
            group["lr"] = DRAEM_RATE * DRAEM_DROP ** sum(progress >= drop for drop in DRAEM_DROPS)
        clean = graph.prepared(torch.from_numpy(images[rng.integers(0, len(images), DRAEM_BATCH)]))
        spoiled, mask = spoil(clean)
        reconstruction, prediction = model(spoiled)
        optimizer.zero_grad()
        loss(clean, reconstruction, mask, prediction).backward()
        optimizer.step()
        steps += 1
    config = {"batch": DRAEM_BATCH, "rate": DRAEM_RATE, "opacity": list(DRAEM_OPACITY), "minutes": settings.minutes}
    return Fitted(graph.eval(), steps, config | {"textures": settings.textures.name})


@dataclass(frozen=True, slots=True)
class Peer:
    """A method: `profile` is what its row calls its networks, `fit` makes its graph."""

    profile: str
    fit: Callable[[NDArray[np.uint8], Settings], Fitted]


PEERS: Mapping[str, Peer] = {
    "patchcore": Peer("efficientnet-lite0", fit_patchcore),
    "padim": Peer("efficientnet-lite0", fit_padim),
    "draem": Peer("published", fit_draem),
}
