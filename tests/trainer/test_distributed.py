"""Several processes, one training."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from edge_ad.core.layout import Layout
from edge_ad.errors import ConfigError
from tests.trainer.tiny import TINY, make_dataset, part, tiny_config
from trainer import config as configs
from trainer.config import TrainConfig
from trainer.data.folder import load_canvases
from trainer.data.samples import Batch, Samples, stream
from trainer.distributed import open_fabric
from trainer.methods.base import build_method
from trainer.run import CHECKPOINT, load_checkpoint, open_run, train_paths, training
from trainer.train import learning_rate_factor

CPU = torch.device("cpu")


def _batches(samples: Samples, steps: int, rank: int, processes: int) -> list[Batch]:
    return list(stream(samples, 4, 0, steps, workers=0, rank=rank, processes=processes))


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_one_stream_and_no_sample_is_taken_twice(processes: int) -> None:
    samples = Samples(np.stack([part(i, 32) for i in range(4)]), [], tiny_config(), seed=0)
    alone = _batches(samples, 2 * processes, 0, 1)
    together = [_batches(samples, 2, rank, processes) for rank in range(processes)]
    for turn, batch in enumerate(alone):
        assert torch.equal(together[turn % processes][turn // processes].image, batch.image)
        assert batch.mask.flatten(1).amax(1)[2:].sum() == 0  # each process has its share of good images


@pytest.mark.parametrize(
    ("device", "processes", "nodes", "world", "expected"),
    [
        ("cpu", 0, 1, None, "must be at least 1"),
        ("cuda:1", 2, 1, None, "cuda:1 is one GPU"),
        ("cpu", 2, 1, "4", "4 processes were started"),
        ("cpu", 1, 1, "2", "2 processes were started"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    device: str, processes: int, nodes: int, world: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if world is not None:
        monkeypatch.setenv("WORLD_SIZE", world)
    with pytest.raises(ConfigError, match=expected) as caught:
        open_fabric(torch.device(device), processes, nodes)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match="cannot train in 2 x 1 processes"):
        open_fabric(torch.device("cuda"), 2, 1)


STEPS = 4
NOTHING: Mapping[str, str] = {}
OPTIM = {"batch": 4, "steps": STEPS, "denoiser_lr": 1e-3, "segmenter_lr": 1e-3, "warmup": 0.25, "precision": "fp32"}


def _config() -> TrainConfig:
    return configs.parse({**TINY, "optim": OPTIM}, "test")


COMMAND = ("-m", "trainer")


def _train(
    root: Path, *options: str, environment: Mapping[str, str] = NOTHING, program: Sequence[str] = COMMAND
) -> subprocess.Popen[str]:
    """Start the real command in one thread; every process it starts is in its own session."""
    config = root / "tiny.yaml"
    config.write_text(configs.dump(_config()))
    command = [sys.executable, *program, "train", "--data", str(root / "data"), "--out", str(root / "run")]
    return subprocess.Popen(
        [*command, "--config", str(config), "--device", "cpu", *options],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def _finish(processes: Sequence[subprocess.Popen[str]]) -> list[str]:
    try:
        ended = [process.communicate(timeout=200) for process in processes]
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):  # all of the session are gone, as they should be
                os.killpg(process.pid, signal.SIGKILL)
    assert [process.returncode for process in processes] == [0] * len(processes), ended
    return [out for out, _ in ended]


def _by_hand(run_path: Path, processes: int) -> dict[str, torch.Tensor]:
    """The weights after training in one process on the mean of the losses of what all processes see in a step."""
    run = open_run(run_path)
    method = build_method(run.config, run.seed).train().to(memory_format=torch.channels_last)
    samples = Samples(load_canvases(train_paths(run), None, Layout(32, 32), run.path), [], run.config, run.seed)
    batches = [_batches(samples, STEPS, rank, processes) for rank in range(processes)]
    optimizer = torch.optim.AdamW(method.parameter_groups(), lr=0.0, weight_decay=0.0)
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * learning_rate_factor(step / STEPS, 0.25)
        losses = []
        for rank in range(processes):
            generator = torch.Generator().manual_seed(run.seed * 1_000_003 + step * processes + rank)
            losses += list(method.losses(batches[rank][step].to(CPU), generator).values())
        optimizer.zero_grad()
        (torch.stack(losses).sum() / processes).backward()
        optimizer.step()
    return dict(method.named_parameters())


def _assert_trained_together(root: Path) -> None:
    checkpoint = load_checkpoint(root / "run")
    assert (checkpoint["step"], checkpoint["processes"]) == (STEPS, 2)
    start = dict(build_method(_config(), 0).named_parameters())
    for name, wanted in _by_hand(root / "run", 2).items():
        found = checkpoint["model"][name]
        # Adam divides a gradient by its own size, so of one that is nearly 0 the rounding shows: a few per cent of a
        # step of 1e-3. A mean that is wrong moves whole tensors by whole steps.
        torch.testing.assert_close(found, wanted.detach(), rtol=1e-4, atol=5e-5, msg=name)
        assert not torch.equal(found, start[name])


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one_on_the_mean_of_their_losses(tmp_path: Path) -> None:
    """DDP over gloo, started by the command itself."""
    make_dataset(tmp_path / "data")
    (out,) = _finish([_train(tmp_path, "--processes", "2")])
    assert out.count("next: edge-ad-train export") == 1  # one of them speaks
    _assert_trained_together(tmp_path)


@pytest.mark.slow
def test_two_machines_train_as_two_processes_do(tmp_path: Path) -> None:
    """The same command on each, told apart by NODE_RANK; here both are on loopback."""
    make_dataset(tmp_path / "data")
    _finish(_two_machines(tmp_path))
    _assert_trained_together(tmp_path)


def _two_machines(root: Path, *options: str, program: Sequence[str] = COMMAND) -> list[subprocess.Popen[str]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ranks = ({**where, "NODE_RANK": rank} for rank in ("0", "1"))
    return [_train(root, "--nodes", "2", *options, environment=rank, program=program) for rank in ranks]


ENDLESS = ("--set", "optim.steps=1000000", "--max-minutes", "5")


@pytest.mark.slow
@pytest.mark.parametrize(("number", "codes"), [(signal.SIGTERM, [130, 130]), (signal.SIGKILL, [1, -signal.SIGKILL])])
def test_what_ends_one_machine_ends_the_other_which_keeps_the_last_step(
    tmp_path: Path, number: signal.Signals, codes: list[int]
) -> None:
    make_dataset(tmp_path / "data")
    first, second = _two_machines(tmp_path, *ENDLESS)
    assert first.stderr is not None
    assert any(" step " in line for line in first.stderr)
    second.send_signal(number)
    (out, err), (other_out, other_err) = (process.communicate(timeout=60) for process in (first, second))
    assert [first.returncode, second.returncode] == codes, err + other_err
    assert "Traceback" not in err + other_err
    assert ("another process of this training has gone" in err) == (number == signal.SIGKILL)
    assert (out + other_out).count("stopped; continue with") == 1
    kept = load_checkpoint(tmp_path / "run")
    assert kept["step"] == next(iter(kept["optimizer"]["state"].values()))["step"] > 0
    assert not list((tmp_path / "run").glob("*.new"))


SPOILT = """
import math
from trainer import train
from trainer.cli import main

real = train._gradients

def gradients(trainer, *rest):
    spoilt = trainer.fabric.global_rank == 1 and trainer.step == 2
    return {name: value * (math.nan if spoilt else 1) for name, value in real(trainer, *rest).items()}

train._gradients = gradients
raise SystemExit(main())
"""


@pytest.mark.slow
def test_a_loss_of_one_process_that_is_not_finite_is_said_by_each_machine(tmp_path: Path) -> None:
    make_dataset(tmp_path / "data")
    for process in (processes := _two_machines(tmp_path, *ENDLESS, program=("-c", SPOILT))):
        _, err = process.communicate(timeout=100)
        assert [line for line in err.splitlines() if line.startswith("error: step 3: the loss")], err
        assert "Traceback" not in err
    assert [process.returncode for process in processes] == [2, 2]
    assert not (tmp_path / "run" / CHECKPOINT).exists()


@pytest.mark.slow
def test_a_run_that_is_trained_elsewhere_is_one_line_with_several_processes_too(tmp_path: Path) -> None:
    make_dataset(tmp_path / "data")
    _finish([_train(tmp_path)])
    with training(tmp_path / "run"):
        resumed = _train(tmp_path, "--processes", "2", "--resume")
        _, err = resumed.communicate(timeout=100)
    assert resumed.returncode == 2
    assert len([line for line in err.splitlines() if line.startswith("error:")]) == 1, err
    assert "Traceback" not in err


@pytest.mark.slow
def test_torchrun_is_a_launcher_too(tmp_path: Path) -> None:
    make_dataset(tmp_path / "data")
    config = tmp_path / "tiny.yaml"
    config.write_text(configs.dump(_config()))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    train = ["-m", "trainer", "train", "--data", tmp_path / "data", "--out", tmp_path / "run", "--config", config]
    ended = subprocess.run(
        [*torchrun, *map(str, train), "--device", "cpu", "--processes", "2"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert ended.returncode == 0, ended.stderr
    _assert_trained_together(tmp_path)


@pytest.mark.slow
def test_a_mistake_is_one_line_with_several_processes_too(tmp_path: Path) -> None:
    _, err = (process := _train(tmp_path, "--processes", "2")).communicate(timeout=100)  # there is no data
    assert process.returncode == 2
    assert len(err.strip().splitlines()) == 1, err
