"""The endless stream of training samples: sample i is a pure function of (seed, i), so resuming repeats nothing."""

from __future__ import annotations

import signal
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from edge_ad.core.layout import Box, Layout
from trainer.config import TrainConfig
from trainer.data.grid import some
from trainer.data.symmetry import Symmetries, find_symmetries
from trainer.data.variation import View, draw_variation
from trainer.synthesis.foreground import parts_told
from trainer.synthesis.paste import anomalous


@dataclass(frozen=True, slots=True)
class Batch:
    """Training samples; the defect images come first.

    Attributes:
        clean: (N, 3, H, W) float32 in 0..1, the good image of each sample.
        image: the same, with a synthetic anomaly in some samples.
        mask: (N, 1, H, W) float32, 1 on anomalous pixels.
    """

    clean: Tensor
    image: Tensor
    mask: Tensor

    def to(self, device: torch.device) -> Batch:
        """The same on another device, channels last."""
        move = [t.to(device, memory_format=torch.channels_last) for t in (self.clean, self.image, self.mask)]
        return Batch(*move)


class Tiles(Sequence[NDArray[np.uint8]]):
    """The tiles of canvases, (*layout.of(...).canvas, 3) each, as one sequence; cut when asked for."""

    def __init__(self, canvases: Sequence[NDArray[np.uint8]], layout: Layout) -> None:
        self.canvases = canvases
        self._each = layout.tiles
        self._boxes = {size: layout.of(*size).boxes() for size in {canvas.shape[:2] for canvas in canvases}}

    def __len__(self) -> int:
        return len(self.canvases) * self._each

    def __getitem__(self, index: int) -> NDArray[np.uint8]:  # type: ignore[override]  # nobody asks for slices
        canvas, box = self.place(index)
        return np.asarray(canvas[box.slices])

    def place(self, index: int) -> tuple[NDArray[np.uint8], Box]:
        """The canvas of a tile, and where it lies there."""
        image, tile = divmod(index, self._each)
        canvas = self.canvases[image]
        return canvas, self._boxes[canvas.shape[:2]][tile]


class Samples(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Random access into the stream: (clean, image, mask) as uint8 tensors.

    Each turn through the data shows every tile of every image once, moved by up to half the overlap within the canvas.
    """

    def __init__(
        self,
        good: Sequence[NDArray[np.uint8]],
        textures: Sequence[NDArray[np.uint8]],
        config: TrainConfig,
        seed: int,
        layout: Layout | None = None,
        symmetries: Symmetries | None = None,
    ) -> None:
        """`good` are (*layout.of(...).canvas, 3) uint8 RGB; without a layout each image is one tile.

        Without `symmetries`, the configuration says whether they are looked for.
        """
        self._layout = layout or Layout(*good[0].shape[:2])
        self._tiles = Tiles(good, self._layout)
        self.symmetries = symmetries or (find_symmetries(good) if config.data.symmetry == "found" else Symmetries())
        self._grey = all(bool((image == image[..., :1]).all()) for image in good)
        self._textures = textures
        self._config = config
        self._seed = seed
        self._anomalous = round(config.optim.anomalous * config.optim.batch)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        view, rng = self._view(index)
        clean, config = view.seen(), self._config.synthesis
        image, mask = clean, np.zeros(clean.shape[:2], bool)
        if self._is_anomalous(index):
            part = view.part() if config.foreground else None
            image, mask = anomalous(self._tiles, clean, self._textures, self._grey, config, rng, part)
        return torch.from_numpy(clean), torch.from_numpy(image), torch.from_numpy(mask.astype(np.uint8))

    def good(self, index: int) -> Tensor:
        """The good image of a sample: (3, H, W) float32 in 0..1."""
        return _chw(torch.from_numpy(self._view(index)[0].seen())[None])[0]

    def parts_told(self) -> str | None:
        """In how many of some images the part is found, which defects are to lie on; None where they lie anywhere."""
        return parts_told(some(self._tiles.canvases)) if self._config.synthesis.foreground else None

    def _view(self, index: int) -> tuple[View, np.random.Generator]:
        """The good image of a sample, and what the rest of the sample is drawn from."""
        rng = np.random.default_rng([self._seed, 2, index])
        epoch, place = divmod(index, len(self._tiles))
        order = np.random.default_rng([self._seed, 3, epoch]).permutation(len(self._tiles))
        canvas, box = self._tiles.place(int(order[place]))
        size = canvas.shape[0], canvas.shape[1]
        box = self._moved(box, canvas, rng)
        return View(canvas, box, draw_variation(*size, self._config.data, rng, self.symmetries.of(*size))), rng

    def anomalous_indices(self, count: int) -> list[int]:
        """The first `count` places of the stream that get a synthetic anomaly; none if the configuration has none."""
        if self._anomalous == 0:
            return []
        batches = -(-count // self._anomalous)
        return [i for i in range(batches * self._config.optim.batch) if self._is_anomalous(i)][:count]

    def _moved(self, box: Box, canvas: NDArray[np.uint8], rng: np.random.Generator) -> Box:
        """A tile moved at random, by up to half the overlap, within its canvas."""
        if self._layout.tiles == 1:
            return box
        reach, (height, width) = self._layout.overlap // 2, canvas.shape[:2]
        down, right = (int(step) for step in rng.integers(-reach, reach + 1, 2))
        top, left = max(0, min(box.top + down, height - box.height)), max(0, min(box.left + right, width - box.width))
        return Box(top, left, box.height, box.width)

    def _is_anomalous(self, index: int) -> bool:
        """A fixed share of every batch."""
        return index % self._config.optim.batch < self._anomalous


def _collate(samples: list[tuple[Tensor, Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    clean, image, mask = (torch.stack(parts) for parts in zip(*samples, strict=True))
    return clean, image, mask


def _start_worker(_: int) -> None:
    for each in (signal.SIGINT, signal.SIGTERM):  # sent to all of us: they are for the parent, which stops us in order
        signal.signal(each, signal.SIG_IGN)
    torch.set_num_threads(1)


def stream(
    samples: Samples, batch: int, first_step: int, last_step: int, workers: int, rank: int = 0, processes: int = 1
) -> Generator[Batch, None, None]:
    """Batches of steps [first_step, last_step), made ahead of time in `workers` processes.

    Where several processes train together, each takes every `processes`-th batch of the one stream, from `rank` on.
    """
    # A worker is a fork, which has OpenCV's thread pool but none of its threads: ending that pool there waits for them
    # for ever. So it is ended here, and each worker draws with one thread.
    cv2.setNumThreads(1)
    turns = range(first_step * processes + rank, last_step * processes, processes)
    loader = DataLoader(
        samples,
        batch_sampler=(list(range(turn * batch, (turn + 1) * batch)) for turn in turns),
        num_workers=workers,
        collate_fn=_collate,
        worker_init_fn=_start_worker,
        prefetch_factor=4 if workers else None,
    )
    batches = iter(loader)
    try:
        for clean, image, mask in batches:
            yield Batch(_chw(clean), _chw(image), mask[:, None].float())
    finally:
        # A worker that has not ended by then would be sent SIGTERM, which it passes over, and be waited for for ever.
        if isinstance(batches, _MultiProcessingDataLoaderIter):
            batches._shutdown_workers()
            for worker in batches._workers:
                worker.kill()


def _chw(image: Tensor) -> Tensor:
    """(N, H, W, 3) uint8 -> (N, 3, H, W) float32 in 0..1."""
    return image.permute(0, 3, 1, 2).float() / 255
