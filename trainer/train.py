"""The training loop, on one page."""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from typing import Any

import torch
from loguru import logger
from torch import nn
from tqdm import tqdm

from trainer.config import OptimConfig
from trainer.data.folder import load_inputs, load_textures
from trainer.data.samples import Samples, stream
from trainer.methods.base import Method, build_method
from trainer.run import Run, load_checkpoint, save_checkpoint, train_paths

_SAVE_EVERY_S = 120.0
_LOG_EVERY_S = 15.0


def learning_rate_factor(progress: float, warmup: float) -> float:
    """Linear rise over the share `warmup`, then a cosine fall to 0; progress in 0..1."""
    if progress < warmup:
        return progress / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - warmup) / max(1e-9, 1 - warmup))))


def update_average(average: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """Exponential moving average of weights and statistics; the decay grows with the step, so that it starts warm."""
    decay = min(decay, (1 + step) / (10 + step))
    with torch.no_grad():
        for mean, value in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
            if mean.dtype.is_floating_point:
                mean.lerp_(value, 1 - decay)
            else:
                mean.copy_(value)


def _on(device: torch.device, method: Method) -> Method:
    """On a device, with the layout of weights that convolutions there run fastest in."""
    method.to(device)
    method.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs miss it
    return method


class Trainer:
    """What changes while training: weights, their average, the optimiser, the step and the time spent."""

    def __init__(self, run: Run, device: torch.device) -> None:
        self.run = run
        self.device = device
        self.model = _on(device, build_method(run.config, run.seed))
        self.average = _on(device, build_method(run.config, run.seed))
        decay = run.config.optim.weight_decay
        self.optimizer = torch.optim.AdamW(self.model.parameter_groups(), lr=0.0, weight_decay=decay, fused=True)
        self.peak_rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        self.step = 0
        self.seconds = 0.0

    def state(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]

    def progress(self, max_minutes: float | None) -> float:
        """0..1: the share of the steps or of the time allowed, whichever is larger."""
        by_steps = self.step / self.run.config.optim.steps
        return max(by_steps, self.seconds / (60 * max_minutes) if max_minutes else 0.0)


def _train_step(trainer: Trainer, batch: Any, optim: OptimConfig, progress: float) -> dict[str, float]:
    for group, peak in zip(trainer.optimizer.param_groups, trainer.peak_rates, strict=True):
        group["lr"] = peak * learning_rate_factor(progress, optim.warmup)
    generator = torch.Generator().manual_seed(trainer.run.seed * 1_000_003 + trainer.step)
    with torch.autocast(trainer.device.type, torch.bfloat16, enabled=optim.precision == "bf16"):
        losses = trainer.model.losses(batch.to(trainer.device), generator)
    trainer.optimizer.zero_grad(set_to_none=True)
    torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
    if optim.grad_clip > 0:
        nn.utils.clip_grad_norm_(trainer.model.parameters(), optim.grad_clip)
    trainer.optimizer.step()
    trainer.step += 1
    update_average(trainer.average, trainer.model, optim.ema, trainer.step)
    return {name: float(value.detach()) for name, value in losses.items()}


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of the training: until this share of it, on these samples."""

    until: float
    samples: Samples


def _phases(run: Run) -> list[Phase]:
    """Half the input size first, where configured, then the input size.

    Raises:
        DataError: a training image has gone or changed.
    """
    config = run.config
    paths, textures = train_paths(run), load_textures(config.synthesis.textures)
    roi = config.data.roi.record() if config.data.roi else None
    plan = [(config.optim.half_size, 2), (1.0, 1)]
    return [
        Phase(
            until,
            Samples(load_inputs(paths, roi, size.height // divisor, size.width // divisor), textures, config, run.seed),
        )
        for until, divisor in plan
        for size in (config.input,)
        if until > 0
    ]


class Journal:
    """Checkpoints, log lines and the progress bar of a training, each at its own pace."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._saved, self._logged = time.monotonic(), 0.0
        form = "{l_bar}{bar}| {elapsed}<{remaining} {postfix}"
        self._bar = tqdm(total=100, desc="train", unit="%", disable=None, bar_format=form)
        self.waited_s = 0.0  # for samples: the share of the time that synthesis is on the critical path

    def note(self, losses: dict[str, float], progress: float) -> None:
        """Take note of a step."""
        now = time.monotonic()
        if now - self._logged > _LOG_EVERY_S:
            self._logged = now
            self._log(losses, progress)
        if now - self._saved > _SAVE_EVERY_S:
            self._saved = now
            self.save()

    def save(self) -> None:
        """Write the checkpoint."""
        save_checkpoint(self._trainer.run.path, self._trainer.state())

    def close(self) -> None:
        """End the progress bar and write the last checkpoint."""
        self._bar.close()
        self.save()

    def _log(self, losses: dict[str, float], progress: float) -> None:
        trainer, waited_s = self._trainer, round(self.waited_s, 1)
        line = {"step": trainer.step, "seconds": round(trainer.seconds, 1), "waited_s": waited_s, **losses}
        with (trainer.run.path / "log.jsonl").open("a", encoding="utf-8") as stream_:
            stream_.write(json.dumps(line) + "\n")
        text = " ".join(f"{name} {value:.4f}" for name, value in losses.items())
        if self._bar.disable:
            logger.info("{:.0%} step {} {}", progress, trainer.step, text)
        else:
            self._bar.update(100 * progress - self._bar.n)
            self._bar.set_postfix_str(text)


def train(run: Run, device: torch.device, max_minutes: float | None, resume: bool, workers: int = 1) -> None:
    """Train until the configured steps or `max_minutes` are used up; the last averaged weights are the result.

    Ctrl-C saves a checkpoint before it is passed on. Time spent counts over resumptions.

    Raises:
        DataError: a training image has gone or changed.
    """
    trainer = Trainer(run, device)
    if resume:
        trainer.restore(load_checkpoint(run.path))
    phases = _phases(run)
    logger.info("training on {} images, {} threads, {}", len(run.train_sha256), torch.get_num_threads(), device)
    trainer.model.train()
    journal, started = Journal(trainer), time.monotonic() - trainer.seconds
    try:
        for phase in phases:
            batches = stream(phase.samples, run.config.optim.batch, trainer.step, run.config.optim.steps, workers)
            while (progress := trainer.progress(max_minutes)) < phase.until:
                asked = time.monotonic()
                batch = next(batches)
                journal.waited_s += time.monotonic() - asked
                losses = _train_step(trainer, batch, run.config.optim, progress)
                trainer.seconds = time.monotonic() - started
                journal.note(losses, progress)
    finally:
        journal.close()
    logger.info("trained {} steps in {:.1f} min", trainer.step, trainer.seconds / 60)
