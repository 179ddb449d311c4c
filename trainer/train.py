"""The training loop, on one page."""

from __future__ import annotations

import json
import math
import signal
import threading
import time
from collections.abc import Collection, Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from loguru import logger
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from edge_ad.backends import processor
from edge_ad.console import tracked
from edge_ad.errors import DataError
from edge_ad.signals import handled
from trainer.config import OptimConfig
from trainer.data.folder import load_canvases, load_textures
from trainer.data.samples import Batch, Samples, stream
from trainer.distributed import AGREED, agree, peers_named, together
from trainer.methods.base import Method, build_method
from trainer.precision import computes_bf16
from trainer.provenance import source_version
from trainer.run import (
    CHECKPOINT,
    Run,
    commits,
    load_checkpoint,
    max_minutes,
    put_weights,
    save_checkpoint,
    save_snapshot,
    train_paths,
    training,
)

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_SAVE_EVERY_S = 120.0
_LOG_EVERY_S = 15.0
_BACK = 0.01  # of the schedule: what is told
_STOPS = (signal.SIGINT, signal.SIGTERM)
OBSERVED = 400  # samples, so tiles, of good images that a method looks at before training


def learning_rate_factor(progress: float, warmup: float, least: float = 0.0) -> float:
    """Linear rise over the share `warmup`, then a cosine fall to 0, which stops at `least`; progress in 0..1."""
    if progress < warmup:
        return progress / warmup
    return max(least, 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - warmup) / max(1e-9, 1 - warmup)))))


def update_average(average: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """Exponential moving average of weights and statistics; the decay grows with the step, so that it starts warm."""
    decay = min(decay, (1 + step) / (10 + step))
    with torch.no_grad():
        for mean, value in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
            if mean.dtype.is_floating_point:
                mean.lerp_(value, 1 - decay)
            else:
                mean.copy_(value)


def _build(run: Run) -> Method:
    """Fresh weights, in the layout that convolutions run fastest in."""
    method = build_method(run.config, run.seed)
    method.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs miss it
    return method


class Trainer:
    """What changes while training: weights, their average, the optimiser, the step and the time spent.

    `max_minutes` is the time allowed, if any; `whole` is false within a step, whose state belongs to none; `commits`
    are those of the code that has trained, in order.
    """

    def __init__(self, run: Run, fabric: Fabric, max_minutes: float | None = None) -> None:
        self.run = run
        self.fabric = fabric
        with together(fabric):
            self.model = _build(run)
            self.average = _build(run).to(fabric.device)
        self.parallel = fabric.setup(self.model)  # the same weights; its losses and gradients know the other processes
        self.parallel.mark_forward_method("losses")
        decay = run.config.optim.weight_decay
        self.optimizer = torch.optim.AdamW(self.model.parameter_groups(), lr=0.0, weight_decay=decay, fused=True)
        self.bf16 = run.config.optim.precision == "bf16" and computes_bf16(fabric.device)
        self.peak_rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        self.step = 0
        self.seconds = 0.0
        self.waited_s = 0.0  # for samples: the share of the time that synthesis is on the critical path
        self.max_minutes = max_minutes
        self.commits: tuple[str, ...] = (source_version(),)
        self.whole = True

    def computes_in(self) -> str:
        """The precision, in words."""
        if self.bf16 or self.run.config.optim.precision == "fp32":
            return "bf16" if self.bf16 else "fp32"
        return "fp32, as this processor has no instructions for bf16"

    def computed(self) -> str:
        """On what, in words: steps and minutes mean little without it."""
        device = self.fabric.device
        if device.type == "cuda":
            return f"{torch.cuda.get_device_name(device)}, {self.computes_in()}"
        threads = torch.get_num_threads()
        return f"{processor.name() or device.type}, {threads} thread{'s' * (threads != 1)}, {self.computes_in()}"

    def observe(self, samples: Samples) -> None:
        """What a method takes in before its first step, of good samples; the average begins as the model does."""
        observe(self.model, samples, self.run.seed)
        self.average.load_state_dict(self.model.state_dict())

    def state(self) -> dict[str, Any]:
        """For the checkpoint.

        Raises:
            DataError: a weight is not finite.
        """
        for networks in (self.model, self.average):
            for name, value in networks.state_dict().items():
                if not torch.isfinite(value).all():
                    raise _come_apart(self.step, f"the weights {name} are not finite")
        return {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "waited_s": self.waited_s,
            "max_minutes": self.max_minutes,
            "processes": self.fabric.world_size,
            "computed": self.computed(),
            "commits": list(self.commits),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint.

        Raises:
            DataError: it is of other networks.
        """
        put_weights(self.model, state["model"], self.run)
        put_weights(self.average, state["average"], self.run)
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds, self.waited_s = state["step"], state["seconds"], state["waited_s"]
        if self.max_minutes is None:
            self.max_minutes = state.get("max_minutes")  # which checkpoints of old lack
        self.commits = tuple(dict.fromkeys((*commits(self.run, state), *self.commits)))

    def progress(self) -> float:
        """0..1: the share of the steps or of the time allowed, whichever is larger."""
        return self.progress_by(self.max_minutes)

    def progress_by(self, minutes: float | None) -> float:
        """The same if so much time were allowed."""
        by_steps = self.step / self.run.config.optim.steps
        return max(by_steps, self.seconds / (60 * minutes) if minutes else 0.0)


def _come_apart(step: int, what: str) -> DataError:
    kept = "a checkpoint, if there is one, stays as it was"
    return DataError(f"step {step}: {what}; {kept}; train anew with smaller optim.denoiser_lr and optim.segmenter_lr")


def _train_step(trainer: Trainer, batch: Batch, optim: OptimConfig, progress: float) -> dict[str, float]:
    """Take a step.

    Raises:
        DataError: a loss is not finite.
    """
    trainer.whole = False
    for group, peak in zip(trainer.optimizer.param_groups, trainer.peak_rates, strict=True):
        group["lr"] = peak * learning_rate_factor(progress, optim.warmup, optim.lr_least)
    turn = trainer.step * trainer.fabric.world_size + trainer.fabric.global_rank  # no two batches share their noise
    generator = torch.Generator().manual_seed(trainer.run.seed * 1_000_003 + turn)
    losses = _gradients(trainer, batch, generator)
    if optim.grad_clip > 0:
        nn.utils.clip_grad_norm_(trainer.model.parameters(), optim.grad_clip)
    trainer.optimizer.step()
    trainer.step += 1
    update_average(trainer.average, trainer.model, optim.ema, trainer.step)
    found = {name: float(value.detach()) for name, value in losses.items()}
    for name, value in found.items():
        if not math.isfinite(value):
            raise _come_apart(trainer.step, f"the loss {name} is {value}")
    trainer.whole = True
    return found


def _gradients(trainer: Trainer, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
    """The losses of a batch, and in the model their gradients, averaged over the processes.

    Where another process has gone meanwhile, the state is again that of the last step: no weight has moved yet.
    """
    device = trainer.fabric.device
    buffers = list(trainer.model.buffers()) if trainer.fabric.world_size > 1 else []
    before = [buffer.clone() for buffer in buffers]
    try:
        with torch.autocast(device.type, torch.bfloat16, enabled=trainer.bf16):
            losses: dict[str, Tensor] = trainer.parallel.losses(batch.to(device), generator)
        trainer.optimizer.zero_grad(set_to_none=True)
        trainer.fabric.backward(torch.stack(list(losses.values())).sum())
    except RuntimeError:
        with torch.no_grad():
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)
        trainer.whole = trainer.fabric.world_size > 1
        raise
    return losses


def observe(method: Method, samples: Samples, seed: int) -> None:
    """Show a method what it takes in before its first step, of good samples."""
    good = (samples.good(index) for index in tracked(range(OBSERVED), "what good parts look like"))
    method.observe(good, torch.Generator().manual_seed(seed))


def whole_samples(run: Run, paths: Sequence[Path], textures: Sequence[NDArray[np.uint8]]) -> Samples:
    """The samples of a run at its input size, of its training images."""
    config, layout = run.config, run.config.input.frame_layout()
    canvases = load_canvases(paths, config.data.roi_record(), layout, run.path)
    return Samples(canvases, textures, config, run.seed, layout)


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of the training: until this share of it, on these samples."""

    until: float
    samples: Samples


def _phases(run: Run, progress: float) -> list[Phase]:
    """What is left of the training: half the input size first, where configured, then the input size.

    Raises:
        DataError: a training image has gone or changed.
    """
    config = run.config
    paths, textures = train_paths(run), load_textures(config.synthesis.textures)
    roi = config.data.roi_record()
    layout, half = config.input.frame_layout(), config.optim.half_size
    whole = whole_samples(run, paths, textures)
    if progress >= half:
        return [Phase(1.0, whole)]
    small, symmetries = layout.halved(), whole.symmetries  # looked for once
    halved = Samples(load_canvases(paths, roi, small, run.path), textures, config, run.seed, small, symmetries)
    return [Phase(half, halved), Phase(1.0, whole)]


class Journal:
    """Checkpoints, log lines and the progress bar of a training, each at its own pace; the first process writes it.

    `snapshots` are kept beside the checkpoint, evenly over the training, the last at its end.
    """

    def __init__(self, trainer: Trainer, snapshots: int, progress: float) -> None:
        self._trainer = trainer
        self._snapshots = snapshots
        self._next_snapshot = math.floor(progress * snapshots) + 1
        self._writes = trainer.fabric.is_global_zero
        self._kept = trainer.step  # of the checkpoint; of a training that has none yet, nothing is worth one
        self._saved, self._logged = time.monotonic(), 0.0
        form = "{l_bar}{bar}| {elapsed}<{remaining} {postfix}"
        self._bar = tqdm(total=100, desc="train", unit="%", disable=None if self._writes else True, bar_format=form)

    def note(self, losses: dict[str, float], progress: float) -> None:
        """Take note of a step."""
        if not self._writes:
            return
        now = time.monotonic()
        if now - self._logged > _LOG_EVERY_S:
            self._logged = now
            self._log(losses, progress)
        if now - self._saved > _SAVE_EVERY_S:
            self._saved = now
            self.save()
        if self._snapshots and progress * self._snapshots >= self._next_snapshot:
            self._next_snapshot = math.floor(progress * self._snapshots) + 1
            save_snapshot(self._trainer.run.path, self._trainer.state(), self._trainer.step)

    def save(self) -> None:
        """Write the checkpoint, unless it has this step already, or a step was left half taken.

        Raises:
            DataError: a weight is not finite; the checkpoint stays as it was.
        """
        trainer = self._trainer
        if self._writes and trainer.whole and trainer.step != self._kept:
            save_checkpoint(trainer.run.path, trainer.state())
            self._kept = trainer.step

    def close(self) -> None:
        """End the progress bar and write the last checkpoint."""
        self._bar.close()
        self.save()

    def _log(self, losses: dict[str, float], progress: float) -> None:
        trainer = self._trainer
        spent = {"seconds": round(trainer.seconds, 1), "waited_s": round(trainer.waited_s, 1)}
        line = {"step": trainer.step, **spent, **losses}
        with (trainer.run.path / "log.jsonl").open("a", encoding="utf-8") as stream_:
            stream_.write(json.dumps(line) + "\n")
        text = " ".join(f"{name} {value:.4f}" for name, value in losses.items())
        if self._bar.disable:
            logger.info("{:.0%} step {} {}", progress, trainer.step, text)
        else:
            self._bar.update(100 * progress - self._bar.n)
            self._bar.set_postfix_str(text)


def train(
    run: Run, fabric: Fabric, max_minutes: float | None, resume: bool, workers: int = 1, snapshots: int = 0
) -> None:
    """Train until the configured steps or `max_minutes` are used up; the last averaged weights are the result.

    Ctrl-C waits for the end of the step and saves a checkpoint before it is passed on; SIGTERM, which a shell's `kill`
    and a machine that shuts down send, is a Ctrl-C. Time spent counts over resumptions, `max_minutes` too unless it is
    given anew; one without a checkpoint yet begins at the first step. With several processes, each runs this, and the
    clock of the first one counts; what ends one of them ends all after the same step.

    Raises:
        DataError: another process trains the run, a training image has gone or changed, or a loss or a weight is not
            finite.
        OSError: a checkpoint or a snapshot cannot be written.
        PeerError: another process of this training has gone; the first one has kept what it had.
    """
    with peers_named(fabric), ExitStack() as held, handled(signal.SIGTERM, signal.default_int_handler):
        with together(fabric):
            if fabric.is_global_zero:
                held.enter_context(training(run.path))
        _train(run, fabric, max_minutes, resume, workers, snapshots)


def _train(run: Run, fabric: Fabric, max_minutes: float | None, resume: bool, workers: int, snapshots: int) -> None:
    trainer = Trainer(run, fabric, max_minutes)
    with together(fabric):
        phases = _prepared(trainer, resume)
    trainer.model.train()
    journal = Journal(trainer, snapshots, trainer.progress())
    started = time.monotonic() - trainer.seconds
    with _stops_held() as stops:
        try:
            for phase in phases:
                with closing(_batches(trainer, phase, workers)) as batches:
                    while trainer.progress() < phase.until:
                        _turn(trainer, batches, journal, started, stops)
        finally:
            journal.close()
    if fabric.is_global_zero:
        logger.info("trained {} steps in {:.1f} min", trainer.step, trainer.seconds / 60)


def _prepared(trainer: Trainer, resume: bool) -> list[Phase]:
    """Bring a new or a resumed training to its next step; what is left of it.

    Raises:
        DataError: a training image has gone or changed, or the checkpoint cannot be read.
    """
    run = trainer.run
    if resume and (run.path / CHECKPOINT).is_file():
        state = load_checkpoint(run.path)
        trainer.restore(state)
        _tell_if_back(trainer, max_minutes(state))
    elif resume and trainer.max_minutes is None:  # stopped before its first: nothing is lost by beginning again
        trainer.max_minutes = run.max_minutes
    phases = _phases(run, trainer.progress())
    if trainer.fabric.is_global_zero:
        logger.info("training on {}; processes: {}", trainer.computed(), trainer.fabric.world_size)
        logger.info("symmetry of the parts: {}", phases[-1].samples.symmetries)
        parts = phases[-1].samples.parts_told()
        if parts is not None:
            logger.info("{}", parts)
    if trainer.step == 0:
        trainer.observe(phases[-1].samples)
    return phases


def _tell_if_back(trainer: Trainer, minutes: float | None) -> None:
    """Say what more time than the `minutes` of before does: the schedule is stretched, and so goes back."""
    before = min(1.0, trainer.progress_by(minutes))
    after, half = trainer.progress(), trainer.run.config.optim.half_size
    if trainer.fabric.is_global_zero and after < before - _BACK:
        smaller = ", on images of half the size again" if after < half <= before else ""
        logger.info("with more time the schedule goes back from {:.0%} to {:.0%}{}", before, after, smaller)


def _turn(trainer: Trainer, batches: Iterator[Batch], journal: Journal, started: float, stops: Collection[int]) -> None:
    """Take a step and note it; then all processes agree on the time, and on whether they go on.

    Raises:
        KeyboardInterrupt: one of them is to stop.
        DataError: as `_train_step` or `Journal.note` of one of them.
    """
    failure = None
    try:
        asked = time.monotonic()
        batch = next(batches)
        trainer.waited_s += time.monotonic() - asked
        losses = _train_step(trainer, batch, trainer.run.config.optim, trainer.progress())
        trainer.seconds = time.monotonic() - started
        journal.note(losses, trainer.progress())
        if stops:
            raise KeyboardInterrupt
    except AGREED as error:
        failure = error
    try:
        trainer.seconds = agree(trainer.fabric, trainer.seconds, failure)
    except DataError:
        trainer.whole = False  # the gradients of one spoil the weights of all
        raise


@contextmanager
def _stops_held() -> Iterator[Collection[int]]:
    """Ctrl-C takes effect at the end of the block, which sees in what it is given that it should end.

    A worker hands its batch over through a socket. Cut there, it writes a traceback of its own to the terminal. A step
    that is cut has moved some of the weights, their average, the optimiser and the count, and not the others. A
    checkpoint that is cut is none: it takes no second Ctrl-C to be impatient with its writing.
    """
    held: dict[int, FrameType | None] = {}
    if threading.current_thread() is not threading.main_thread():  # which alone gets signals
        yield held
        return
    handlers = {stop: handler for stop in _STOPS if callable(handler := signal.getsignal(stop))}
    for stop in handlers:
        signal.signal(stop, held.setdefault)
    try:
        yield held
    finally:
        for stop, handler in handlers.items():
            signal.signal(stop, handler)
        for number, frame in held.items():
            handlers[signal.Signals(number)](number, frame)  # also where the block failed


def _batches(trainer: Trainer, phase: Phase, workers: int) -> Generator[Batch, None, None]:
    optim, fabric = trainer.run.config.optim, trainer.fabric
    return stream(phase.samples, optim.batch, trainer.step, optim.steps, workers, fabric.global_rank, fabric.world_size)
