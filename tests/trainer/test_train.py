"""Training: repeatable, resumable, and it leaves a run that explains itself."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

import numpy as np
import pytest
import torch
from loguru import logger

from edge_ad.errors import DataError
from edge_ad.images import write_png
from tests.trainer.tiny import make_dataset, one_process, part, tiny_config
from trainer import config as configs
from trainer.cli import main
from trainer.data.folder import split_good
from trainer.data.samples import Batch, Samples, stream
from trainer.run import Run, create, load_checkpoint, open_run, save_checkpoint
from trainer.synthesis import sources
from trainer.train import Trainer, _phases, _train_step, learning_rate_factor, train, update_average

_OPTIM = {"batch": 4, "steps": 6, "denoiser_lr": 1e-3, "segmenter_lr": 1e-3}


def _new_run(path: Path, data: Path, steps: int = 6, seed: int = 0) -> Run:
    config = tiny_config()
    config = config.model_copy(update={"optim": config.optim.model_copy(update={"steps": steps})})
    return create(path, config, split_good(data, 0.25, seed), seed)


def _weights(run: Run) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = load_checkpoint(run.path)["average"]
    return state


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data"))


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tmp_path: Path, data: Path) -> None:
    runs = [_new_run(tmp_path / name, data, seed=seed) for name, seed in (("a", 0), ("b", 0), ("c", 1))]
    for run in runs:
        train(run, one_process(), None, resume=False, workers=0)
    a, b, c = (_weights(run) for run in runs)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert any(not torch.equal(a[name], c[name]) for name in a)


def test_a_resumed_training_ends_where_an_uninterrupted_one_does(tmp_path: Path, data: Path) -> None:
    whole = _new_run(tmp_path / "whole", data)
    train(whole, one_process(), None, resume=False, workers=0)
    cut = _new_run(tmp_path / "cut", data)
    with pytest.raises(KeyboardInterrupt):
        _train_and_interrupt(cut, after=3)
    assert load_checkpoint(cut.path)["step"] == 3
    train(cut, one_process(), None, resume=True, workers=0)
    assert all(torch.equal(value, _weights(cut)[name]) for name, value in _weights(whole).items())


def _train_and_interrupt(run: Run, after: int) -> None:
    import trainer.train as loop

    real, count = loop._train_step, 0

    def step(*arguments: object) -> dict[str, float]:
        nonlocal count
        if count == after:
            raise KeyboardInterrupt
        count += 1
        return real(*arguments)  # type: ignore[arg-type]

    loop._train_step = step  # type: ignore[assignment]
    try:
        train(run, one_process(), None, resume=False, workers=0)
    finally:
        loop._train_step = real


def test_more_time_than_before_says_that_the_schedule_goes_back(tmp_path: Path, data: Path) -> None:
    config = tiny_config(optim={**_OPTIM, "half_size": 0.5, "steps": 4})
    run = create(tmp_path / "run", config, split_good(data, 0.25, 0), 0)
    said: list[str] = []
    sink = logger.add(said.append, format="{message}")
    try:
        train(run, one_process(), 1e-9, resume=False, workers=0)
        assert load_checkpoint(run.path)["step"] == 1
        train(run, one_process(), None, resume=True, workers=0)  # as it was: it has ended
        assert not any("goes back" in line for line in said)
        train(run, one_process(), math.inf, resume=True, workers=0)
    finally:
        logger.remove(sink)
    told = [line.strip() for line in said if "goes back" in line]
    assert told == ["with more time the schedule goes back from 100% to 25%, on images of half the size again"]
    assert load_checkpoint(run.path)["step"] == 4


def test_ctrl_c_waits_for_the_batch_that_a_worker_is_handing_over(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its socket, cut, would make the worker write a traceback to the terminal."""
    import trainer.train as loop

    real, handed = loop._batches, []

    def interrupted(*arguments: object) -> Generator[Batch, None, None]:
        for batch in real(*arguments):  # type: ignore[arg-type]
            if len(handed) == 2:
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.01)  # where Python would raise
            handed.append(batch)
            yield batch

    monkeypatch.setattr(loop, "_batches", interrupted)
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            train(_new_run(tmp_path / "run", data), one_process(), None, resume=False, workers=0)
    finally:
        signal.signal(signal.SIGINT, previous)
    assert len(handed) == 3
    assert load_checkpoint(tmp_path / "run")["step"] == 3  # with this batch: a step is taken whole


def test_ctrl_c_keeps_a_checkpoint_and_says_how_to_go_on(tmp_path: Path, data: Path) -> None:
    """The real command, interrupted as a terminal does it: the whole process group gets the signal."""
    config = tmp_path / "tiny.yaml"
    config.write_text(configs.dump(tiny_config(optim={"steps": 10**6, "denoiser_lr": 1e-3, "segmenter_lr": 1e-3})))
    train_command = ["-m", "trainer", "train", "--data", data, "--out", tmp_path / "run", "--config", config]
    # A shell ignores SIGINT for what it runs in the background, these tests perhaps; a terminal's child does not.
    command = ["env", "--default-signal=INT", sys.executable, *train_command]
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    log = tmp_path / "run" / "log.jsonl"
    deadline = time.monotonic() + 120
    try:
        while not log.exists() and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert "--resume" in out
    assert "Traceback" not in err
    assert load_checkpoint(tmp_path / "run")["step"] > 0


def test_resuming_takes_the_same_command_again(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Or nothing but the run; what contradicts the run is refused, not ignored."""
    config = tmp_path / "tiny.yaml"
    config.write_text(configs.dump(tiny_config()))
    run = str(tmp_path / "run")
    same = ["train", "--out", run, "--data", str(data), "--config", str(config), "--seed", "3"]
    assert main(same) == 0
    assert main([*same, "--resume"]) == 0
    assert main(["train", "--out", run, "--resume"]) == 0
    assert main(["train", "--out", run, "--resume", "--set", "diffusion.w=1"]) == 2
    capsys.readouterr()
    other = tmp_path / "other"
    other.mkdir()
    for more, wrong in [
        (["--data", str(other)], f"images that are not in {other}"),
        (["--seed", "4"], "with seed 3"),
        (["--config", str(config), "--set", "optim.ema=0.5"], "with another value of optim.ema"),
    ]:
        assert main(["train", "--out", run, "--resume", *more]) == 2
        said = capsys.readouterr().err
        assert wrong in said and f"leave out {more[0]}" in said and said.count("\n") == 1
    assert main(["train", "--out", str(tmp_path / "new")]) == 2
    assert "a training needs --data" in capsys.readouterr().err


def test_a_run_lists_its_images_and_holds_some_out(tmp_path: Path, data: Path) -> None:
    run = _new_run(tmp_path / "run", data)
    assert len(run.train_sha256) == 6
    assert len(run.calibration_sha256) == 2
    assert not set(run.train_sha256) & set(run.calibration_sha256)
    assert len(list((run.path / "calibration_split").iterdir())) == 2
    assert open_run(run.path).config == run.config


def test_the_split_does_not_depend_on_file_names(tmp_path: Path, data: Path) -> None:
    other = tmp_path / "renamed"
    other.mkdir()
    for i, path in enumerate(sorted((data / "train/good").iterdir(), reverse=True)):
        (other / f"x{i}.png").write_bytes(path.read_bytes())
    assert set(split_good(data, 0.25, 0).calibration.values()) == set(split_good(other, 0.25, 0).calibration.values())


def test_a_run_is_never_overwritten(tmp_path: Path, data: Path) -> None:
    _new_run(tmp_path / "run", data)
    with pytest.raises(DataError, match="already holds a run"):
        _new_run(tmp_path / "run", data)


def test_a_resumed_run_refuses_changed_images(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "data")
    run = _new_run(tmp_path / "run", data)
    train(run, one_process(), None, resume=False, workers=0)
    victim = Path(json.loads((run.path / "images.json").read_text())["train"][0]["path"])
    victim.write_bytes(b"something else")
    with pytest.raises(DataError, match=victim.name):
        train(run, one_process(), None, resume=True, workers=0)


def test_the_time_that_was_waited_counts_over_resumptions(tmp_path: Path, data: Path) -> None:
    run = _new_run(tmp_path / "run", data)
    train(run, one_process(), None, resume=False, workers=0)
    first = load_checkpoint(run.path)
    assert 0 < first["waited_s"] < first["seconds"]
    assert first["processes"] == 1
    train(run, one_process(), None, resume=True, workers=0)  # nothing is left to do
    assert load_checkpoint(run.path)["waited_s"] == first["waited_s"]


def test_a_run_of_other_networks_is_one_line(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As one is that an older edge-ad trained, before the networks changed."""
    run = _new_run(tmp_path / "run", data)
    train(run, one_process(), None, resume=False, workers=0)
    state = load_checkpoint(run.path)
    for networks in ("model", "average"):
        state[networks].popitem()
    save_checkpoint(run.path, state)
    for command in (
        ["export", str(run.path), "--out", str(tmp_path / "b")],
        ["train", "--out", str(run.path), "--resume"],
    ):
        assert main(command) == 2
        assert "whose networks were others: use that, or train anew" in capsys.readouterr().err
    assert load_checkpoint(run.path)["step"] == state["step"]


def test_a_single_image_is_enough_to_train(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    write_png(tmp_path / "one/a.png", part(0))
    run = _new_run(tmp_path / "run", tmp_path / "one", steps=2)
    train(run, one_process(), None, resume=False, workers=0)
    assert all(torch.isfinite(value).all() for value in _weights(run).values())


def test_a_sample_is_a_function_of_seed_and_index() -> None:
    good = np.stack([part(i, 32) for i in range(4)])
    a, b = (Samples(good, [], tiny_config(), seed=7) for _ in range(2))
    _ = [b[i] for i in range(5)]  # what was asked before does not matter
    assert all(torch.equal(x, y) for x, y in zip(a[11], b[11], strict=True))


def test_each_batch_has_its_share_of_defects_and_good_images() -> None:
    good = np.stack([part(i, 32) for i in range(4)])
    samples = Samples(good, [], tiny_config(), seed=0)
    defects = [bool(samples[i][2].any()) for i in range(40)]
    assert not any(defects[i] for i in range(40) if i % 4 >= 2)
    assert sum(defects) >= 18  # an invisible draw may stay good


def test_every_good_image_is_used_once_an_epoch() -> None:
    config = tiny_config(
        data={"rotate_deg": 0, "shift": 0, "zoom": 0, "brightness": 0, "contrast": 0}, optim={**_OPTIM, "anomalous": 0}
    )
    good = np.stack([part(i, 32) for i in range(8)])
    samples = Samples(good, [], config, seed=0)
    seen = {samples[i][0].numpy().tobytes() for i in range(8)}
    assert seen == {image.tobytes() for image in good}


def test_half_of_the_size_comes_first_and_resuming_within_it_changes_nothing(tmp_path: Path, data: Path) -> None:
    runs = []
    for name in ("whole", "cut"):
        config = tiny_config(input={"height": 64, "width": 64}, optim={**_OPTIM, "half_size": 0.5})
        runs.append(create(tmp_path / name, config, split_good(data, 0.25, 0), 0))
    for progress, sizes in ((0.0, [32, 64]), (0.4, [32, 64]), (0.5, [64])):  # what is done is not loaded again
        assert [phase.samples[0][0].shape[0] for phase in _phases(runs[0], progress)] == sizes
    train(runs[0], one_process(), None, resume=False, workers=0)
    with pytest.raises(KeyboardInterrupt):
        _train_and_interrupt(runs[1], after=2)
    train(runs[1], one_process(), None, resume=True, workers=0)
    whole, cut = _weights(runs[0]), _weights(runs[1])
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_the_learning_rate_rises_then_falls_to_zero() -> None:
    factors = [learning_rate_factor(p, 0.1) for p in np.linspace(0, 1, 101)]
    assert factors[0] == 0
    assert max(factors) == pytest.approx(1.0)
    assert factors[-1] == pytest.approx(0.0, abs=1e-9)
    assert factors[:11] == sorted(factors[:11])
    assert factors[10:] == sorted(factors[10:], reverse=True)


def test_the_learning_rate_falls_no_lower_than_asked() -> None:
    steps = np.linspace(0, 1, 101)
    to_zero, held = ([learning_rate_factor(p, 0.1, least) for p in steps] for least in (0.0, 0.4))
    assert held[:11] == to_zero[:11]  # it still rises from zero
    assert held[10:] == [max(0.4, factor) for factor in to_zero[10:]]
    assert held[-1] == 0.4


def test_the_average_of_constant_weights_is_those_weights() -> None:
    model, average = torch.nn.BatchNorm2d(3), torch.nn.BatchNorm2d(3)
    with torch.no_grad():
        model.weight.fill_(5.0)
    for step in range(2000):
        update_average(average, model, 0.99, step)
    assert torch.allclose(average.weight, torch.full((3,), 5.0), atol=1e-3)


def _one_step(**optim: object) -> tuple[Trainer, dict[str, torch.Tensor]]:
    """A training after a step at its full rates, as if a thousand had gone before; and its weights before it."""
    config = tiny_config(optim={**_OPTIM, "precision": "fp32", "warmup": 0.0, **optim})
    trainer = Trainer(Run(Path(), config, (), (), 0, None), one_process())
    trainer.model.train()
    trainer.step = 1000
    before = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
    samples = Samples(np.stack([part(i, 32) for i in range(4)]), [], config, seed=0)
    _train_step(trainer, next(stream(samples, config.optim.batch, 0, 1, workers=0)), config.optim, progress=0.0)
    return trainer, before


def _moved(trainer: Trainer, before: dict[str, torch.Tensor], network: str) -> float:
    """How far the weight of a network that moved most did."""
    weights = {name: weight for name, weight in trainer.model.named_parameters() if name.startswith(network)}
    return max((weight.detach() - before[name]).abs().max().item() for name, weight in weights.items())


def test_each_network_learns_at_its_own_rate() -> None:
    """A first step of Adam moves weights by the rate, whatever their gradient."""
    for rates in ((1e-3, 1e-5), (1e-5, 1e-3)):
        trainer, before = _one_step(denoiser_lr=rates[0], segmenter_lr=rates[1])
        for network, rate in zip(("denoiser", "segmenter"), rates, strict=True):
            assert _moved(trainer, before, network) == pytest.approx(rate, rel=0.02)


def test_a_gradient_is_cut_to_the_norm_that_is_allowed_before_the_step() -> None:
    def norm(trainer: Trainer) -> float:
        gradients = [p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None]
        return torch.cat(gradients).norm().item()

    free, before = _one_step(grad_clip=0.0)
    large = norm(free)
    assert _moved(free, before, "denoiser") == pytest.approx(1e-3, rel=0.02)
    assert norm(_one_step(grad_clip=large / 2)[0]) == pytest.approx(large / 2, rel=1e-3)
    assert norm(_one_step(grad_clip=large * 2)[0]) == pytest.approx(large, rel=1e-3)
    trainer, before = _one_step(grad_clip=1e-11)  # far below Adam's epsilon, 1e-8: such a gradient moves nothing
    assert _moved(trainer, before, "") < 1e-5


def test_weight_decay_shrinks_each_weight_by_its_share_of_the_rate() -> None:
    """AdamW (Loshchilov and Hutter 2019): beside the gradient's step, by rate x decay x weight."""
    free, _ = _one_step(weight_decay=0.0)
    decayed, before = _one_step(weight_decay=0.5)
    without = dict(free.model.named_parameters())
    for name, weight in decayed.model.named_parameters():
        torch.testing.assert_close(weight, without[name] - 1e-3 * 0.5 * before[name], atol=1e-6, rtol=0)


def test_the_average_keeps_its_share_of_what_it_was() -> None:
    """It is what is exported; with no share it is the last weights."""
    for ema in (0.9, 0.0):
        trainer, before = _one_step(ema=ema)
        assert _moved(trainer, before, "") > 5e-4
        average = dict(trainer.average.named_parameters())
        for name, weight in trainer.model.named_parameters():
            torch.testing.assert_close(average[name], ema * before[name] + (1 - ema) * weight, atol=1e-6, rtol=1e-5)


def test_the_textures_of_the_folder_are_what_defects_are_made_of(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them, at any depth."""
    monkeypatch.setattr(sources, "augment", lambda image, _: image)
    colours = [(250, 0, 250), (0, 250, 0)]  # alike in RGB and BGR
    for folder, colour in zip((tmp_path / "textures", tmp_path / "textures/more"), colours, strict=True):
        folder.mkdir()
        write_png(folder / "a.png", np.full((20, 30, 3), colour, np.uint8))  # smaller than the part
    only = {"texture": 1, "self_augment": 0, "keep_min": 0, "keep_max": 0, "textures": str(tmp_path / "textures")}
    run = create(tmp_path / "run", tiny_config(synthesis=only), split_good(data, 0.25, 0), 0)
    samples = _phases(run, 0.0)[-1].samples
    seen = set()
    for index in samples.anomalous_indices(20):
        _, image, mask = samples[index]
        seen |= {tuple(colour) for colour in image[mask > 0].tolist()}
    assert seen == set(colours)
