"""A training that is stopped, or stops itself: what it leaves is the state of a step, and it can go on."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import trainer.train as loop
from edge_ad.bundle import open_bundle
from edge_ad.errors import DataError
from edge_ad.images import sha256_file, write_png
from tests.disk import small_disk
from tests.trainer.tiny import TINY, make_dataset, one_process, part, tiny_config
from trainer import config as configs
from trainer.cli import main
from trainer.data.folder import split_good
from trainer.run import CHECKPOINT, Run, create, load_checkpoint, open_run, save_checkpoint
from trainer.train import train

OPTIM: dict[str, object] = {"batch": 4, "steps": 6, "denoiser_lr": 1e-3, "segmenter_lr": 1e-3, "ema": 0.9}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data"))


def _new_run(path: Path, data: Path, **optim: object) -> Run:
    return create(path, tiny_config(optim={**OPTIM, **optim}), split_good(data, 0.25, 0), 0)


def _train(run: Run, max_minutes: float | None = None, *, resume: bool = False) -> None:
    train(run, one_process(), max_minutes, resume, workers=0)


def _config_file(folder: Path) -> str:
    file = folder / "tiny.yaml"
    file.write_text(configs.dump(tiny_config()))
    return str(file)


@contextmanager
def _ctrl_c_in(owner: object, name: str, call: int, number: int = signal.SIGINT) -> Iterator[None]:
    """The signal comes with this call, the first being 1, of a function, before it does its work."""
    real, calls = getattr(owner, name), 0

    def interrupted(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            os.kill(os.getpid(), number)
            time.sleep(0.01)  # where Python would raise
        return real(*arguments, **named)

    previous = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell ignores it
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, interrupted)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)


@pytest.mark.parametrize(("owner", "name"), [(torch.optim.AdamW, "step"), (loop, "update_average")])
def test_ctrl_c_within_a_step_keeps_the_whole_of_it(tmp_path: Path, data: Path, owner: object, name: str) -> None:
    whole, cut = _new_run(tmp_path / "whole", data), _new_run(tmp_path / "cut", data)
    _train(whole)
    with _ctrl_c_in(owner, name, call=3), pytest.raises(KeyboardInterrupt):
        _train(cut)
    kept = load_checkpoint(cut.path)
    assert kept["step"] == 3
    assert {int(state["step"]) for state in kept["optimizer"]["state"].values()} == {3}
    _train(cut, resume=True)
    wanted, found = load_checkpoint(whole.path), load_checkpoint(cut.path)
    for networks in ("model", "average"):
        assert all(torch.equal(value, found[networks][key]) for key, value in wanted[networks].items())


def test_a_second_ctrl_c_does_not_lose_the_checkpoint_of_the_first(tmp_path: Path, data: Path) -> None:
    run = _new_run(tmp_path / "run", data)
    with _ctrl_c_in(torch, "save", 1), _ctrl_c_in(loop, "update_average", 3), pytest.raises(KeyboardInterrupt):
        _train(run)
    assert load_checkpoint(run.path)["step"] == 3
    assert not list(run.path.glob("*.new"))


def test_ctrl_c_while_a_checkpoint_is_written_leaves_no_part_of_it(tmp_path: Path) -> None:
    with _ctrl_c_in(torch, "save", 1), pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path, {"weights": torch.zeros(10)})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("tensors", [1, 1000])
def test_a_full_disk_keeps_the_last_checkpoint_and_nothing_of_the_next(tmp_path: Path, tensors: int) -> None:
    """Of one large tensor, the disk refuses the middle; of many small ones, any part of the file."""
    with small_disk(tmp_path / "disk", 8) as disk:
        save_checkpoint(disk, {"weights": torch.zeros(1_000_000)})
        before = sha256_file(disk / CHECKPOINT)
        with pytest.raises(OSError, match="No space left") as refused:
            save_checkpoint(disk, {str(i): torch.zeros(1_200_000 // tensors) for i in range(tensors)})
        assert refused.value.filename == str(disk / CHECKPOINT)
        assert [path.name for path in disk.iterdir()] == [CHECKPOINT]
        assert sha256_file(disk / CHECKPOINT) == before


def test_a_training_that_the_disk_does_not_hold_ends_with_one_line(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wide = "{kind: edge, widths: [64, 128]}"
    with small_disk(tmp_path / "disk", 1) as disk:
        command = ["train", "--data", str(data), "--out", str(disk / "run"), "--config", _config_file(tmp_path)]
        assert main([*command, "--set", f"denoiser={wide}", "--set", f"segmenter={wide}"]) == 2
        said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
        assert said == [f"error: {disk}/run/{CHECKPOINT}: No space left on device; free some, then run it again"]
        assert not list((disk / "run").glob(f"{CHECKPOINT}*"))


def test_a_terminated_training_keeps_what_ctrl_c_does(tmp_path: Path, data: Path) -> None:
    """By `kill`, a container that is stopped, a machine that shuts down; afterwards the signal is what it was."""
    before, run = signal.getsignal(signal.SIGTERM), _new_run(tmp_path / "run", data)
    with _ctrl_c_in(loop, "update_average", 3, signal.SIGTERM), pytest.raises(KeyboardInterrupt):
        _train(run)
    assert load_checkpoint(run.path)["step"] == 3
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_signal_to_all_processes_is_for_the_one_that_trains(tmp_path: Path, data: Path) -> None:
    """As systemd, `timeout` and batch systems send it: a worker that died of it would end a step half taken."""
    command = [sys.executable, "-m", "trainer", "train", "--data", str(data), "--out", str(tmp_path / "run")]
    options = ["--config", _config_file(tmp_path), "--set", "optim.steps=100000", "--max-minutes", "5"]
    process = subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stderr is not None
    told = next(line for line in process.stderr if " step " in line)
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert workers
    for worker in workers:
        os.kill(int(worker), signal.SIGTERM)
    time.sleep(0.5)  # in which the training goes on
    os.killpg(process.pid, signal.SIGTERM)
    process.stderr.read()
    assert process.wait(60) != 0
    assert load_checkpoint(tmp_path / "run")["step"] > int(told.split(" step ")[1].split()[0])


def _in_another_process(run: Run, body: str) -> subprocess.Popen[str]:
    """Python with the run open, which writes a line when it holds it, and ends when its input does."""
    code = "import sys; from pathlib import Path; from trainer.run import training\n"
    code += f"with training(Path({str(run.path)!r})):\n    {body}; print('held', flush=True); sys.stdin.read()"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_run_that_another_process_trains_is_neither_trained_nor_used(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = _new_run(tmp_path / "run", data)
    _train(run)
    before, out = sha256_file(run.path / CHECKPOINT), str(tmp_path / "out")
    other = _in_another_process(run, "pass")
    try:
        for command in (
            ["train", "--out", str(run.path), "--resume"],
            ["evaluate", str(run.path), "--data", str(data / "train/good")],
            ["export", str(run.path), "--out", out],
        ):
            assert main(command) == 2
            said = capsys.readouterr().err
            assert f"{run.path} is being trained by process {other.pid}: wait for its end" in said
            assert said.count("\n") == 1
    finally:
        other.communicate()
    assert not Path(out).exists()
    assert sha256_file(run.path / CHECKPOINT) == before
    assert main(["evaluate", str(run.path), "--data", str(data / "train/good")]) == 0


def test_a_killed_training_leaves_its_run_to_the_next_although_its_worker_is_not_gone_yet(
    tmp_path: Path, data: Path
) -> None:
    run = _new_run(tmp_path / "run", data)
    other = _in_another_process(run, "import os; print(end='') if os.fork() else os.read(0, 1)")
    other.kill()
    other.wait()
    _train(run)
    assert load_checkpoint(run.path)["step"] == 6
    assert other.stdin is not None
    other.stdin.close()  # which ends the worker


def test_a_step_that_failed_is_not_kept(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its optimiser has moved the weights, but neither the average nor the count."""
    run = _new_run(tmp_path / "run", data)

    def fails(*arguments: Any) -> None:
        raise RuntimeError("out of memory")

    with _ctrl_c_in(loop, "update_average", call=2), pytest.raises(KeyboardInterrupt):
        _train(run)
    monkeypatch.setattr(loop, "update_average", fails)
    before = sha256_file(run.path / CHECKPOINT)
    with pytest.raises(RuntimeError, match="out of memory"):
        _train(run, resume=True)
    assert sha256_file(run.path / CHECKPOINT) == before


def test_a_run_without_a_checkpoint_yet_begins_again(tmp_path: Path, data: Path) -> None:
    """It was stopped while its images were loaded, say."""
    whole, stopped = _new_run(tmp_path / "whole", data), _new_run(tmp_path / "stopped", data)
    _train(whole)
    with _ctrl_c_in(loop, "load_canvases", call=1), pytest.raises(KeyboardInterrupt):
        _train(stopped)
    assert not (stopped.path / CHECKPOINT).exists()
    _train(stopped, resume=True)
    wanted, found = load_checkpoint(whole.path), load_checkpoint(stopped.path)
    assert all(torch.equal(value, found["average"][key]) for key, value in wanted["average"].items())


def test_what_is_refused_leaves_no_run_behind(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    textures = tmp_path / "textures"
    command = ["train", "--data", str(data), "--out", str(tmp_path / "run"), "--config", _config_file(tmp_path)]
    command += ["--set", f"synthesis.textures={textures}"]
    assert main(command) == 2
    assert "no texture images" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    textures.mkdir()
    write_png(textures / "a.png", part(0))
    (textures / "b.png").write_bytes(b"no picture")
    assert main(command) == 2
    assert f"cannot decode {textures / 'b.png'}" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    (textures / "b.png").unlink()
    assert main(command) == 0


@pytest.mark.parametrize("hold_out", [0.0, 0.9])
@pytest.mark.parametrize("command", ["train", "preview"])
def test_an_image_that_the_roi_leaves_is_named_before_there_is_a_run(
    tmp_path: Path, command: str, hold_out: float, capsys: pytest.CaptureFixture[str]
) -> None:
    """Any one of them, not only those that are looked at first; also one that is held out."""
    good, out = tmp_path / "good", tmp_path / ("run" if command == "train" else "sheet.png")
    good.mkdir()
    for i in range(10):
        write_png(good / f"{i}.png", part(i, 40 if i == 7 else 48))
    options = ["--set", "data.roi={x: 0, y: 0, w: 46, h: 44}", "--set", f"data.hold_out={hold_out}"]
    given = [command, "--data", str(good), "--out", str(out), "--config", _config_file(tmp_path), *options]
    assert main(given) == 2
    assert f"ROI 46x44+0+0 leaves the 40x40 image {good}/7.png: make `roi` fit" in capsys.readouterr().err
    assert not out.exists()
    (good / "7.png").unlink()
    assert main(given) == 0


def test_no_room_for_the_canvases_is_found_before_there_is_a_run(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.data.folder.IN_MEMORY_BYTES", 0)
    with small_disk(tmp_path / "disk", 1) as disk:
        command = ["train", "--data", str(data), "--out", str(disk / "run"), "--config", _config_file(tmp_path)]
        assert main([*command, "--set", "input.height=256", "--set", "input.width=256"]) == 2
        assert f"{disk} cannot take them (No space left on device)" in capsys.readouterr().err
        assert not (disk / "run").exists()
        assert main(command) == 0


def test_links_of_a_run_that_was_never_finished_are_not_of_the_next_one(tmp_path: Path, data: Path) -> None:
    """Its held-out images, of another seed, may be trained on now."""
    links = tmp_path / "run" / "calibration_split"
    links.mkdir(parents=True)
    split = split_good(data, 0.25, 0)
    for path in [*split.train, *split.calibration]:
        (links / f"{sha256_file(path)[:8]}_{path.name}").symlink_to(path)
    _new_run(tmp_path / "run", data)
    assert {link.resolve() for link in links.iterdir()} == {path.resolve() for path in split.calibration}


def test_a_folder_of_links_is_the_folder_that_the_run_was_begun_with(tmp_path: Path, data: Path) -> None:
    chosen = tmp_path / "chosen"
    chosen.mkdir()
    for path in (data / "train/good").iterdir():
        (chosen / path.name).symlink_to(path)
    same = ["train", "--data", str(chosen), "--out", str(tmp_path / "run"), "--config", _config_file(tmp_path)]
    assert main(same) == 0
    assert main([*same, "--resume"]) == 0


def test_a_loss_that_is_not_finite_ends_the_training_and_names_the_step(tmp_path: Path, data: Path) -> None:
    run = _new_run(tmp_path / "run", data, denoiser_lr=1e30, segmenter_lr=1e30)
    with pytest.raises(DataError, match=r"^step \d: the loss \w+ is nan; .*optim\.denoiser_lr") as caught:
        _train(run)
    assert "\n" not in str(caught.value)
    assert not (run.path / CHECKPOINT).exists()


def test_weights_that_are_not_finite_do_not_replace_a_checkpoint(tmp_path: Path, data: Path) -> None:
    """The last step spoils them: no loss is computed with them any more."""
    run, real = _new_run(tmp_path / "run", data), loop.update_average
    with _ctrl_c_in(loop, "update_average", call=2), pytest.raises(KeyboardInterrupt):
        _train(run)
    before = sha256_file(run.path / CHECKPOINT)

    def spoils(average: torch.nn.Module, model: torch.nn.Module, decay: float, step: int) -> None:
        real(average, model, decay, step)
        if step == OPTIM["steps"]:
            next(average.parameters()).data.fill_(math.inf)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(DataError, match=r"^step 6: the weights .* not finite"):
        patch.setattr(loop, "update_average", spoils)
        _train(run, resume=True)
    assert sha256_file(run.path / CHECKPOINT) == before


def test_the_time_allowed_holds_until_another_is_given(tmp_path: Path, data: Path) -> None:
    run = _new_run(tmp_path / "run", data)
    for max_minutes, resume, step in ((1e-9, False, 1), (None, True, 1), (math.inf, True, 6)):
        _train(run, max_minutes, resume=resume)
        assert load_checkpoint(run.path)["step"] == step


def test_the_time_allowed_holds_before_there_is_a_checkpoint(tmp_path: Path, data: Path) -> None:
    run = create(tmp_path / "run", tiny_config(optim=OPTIM), split_good(data, 0.25, 0), 0, max_minutes=1e-9)
    _train(open_run(run.path), resume=True)
    assert load_checkpoint(run.path)["step"] == 1
    _train(open_run(run.path), math.inf, resume=True)
    assert load_checkpoint(run.path)["step"] == 6


def test_a_checkpoint_of_old_does_not_say_what_time_was_allowed(tmp_path: Path, data: Path) -> None:
    run = _new_run(tmp_path / "run", data)
    _train(run, 1e-9)
    state = load_checkpoint(run.path)
    del state["max_minutes"]
    save_checkpoint(run.path, state)
    _train(run, resume=True)
    assert load_checkpoint(run.path)["step"] == 6


def test_resuming_what_is_finished_leaves_the_checkpoint_alone(tmp_path: Path, data: Path) -> None:
    """Its SHA-256 is what results know the weights by."""
    run = _new_run(tmp_path / "run", data)
    _train(run)
    before = (run.path / CHECKPOINT).stat()
    _train(run, resume=True)
    after = (run.path / CHECKPOINT).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


@pytest.mark.parametrize(
    "damage", [lambda text: "", lambda text: text[: len(text) // 2], lambda text: "[]", lambda text: '{"train": [1]}']
)
def test_a_list_of_images_that_is_damaged_is_one_line(
    tmp_path: Path, data: Path, damage: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    run = _new_run(tmp_path / "run", data)
    listed = run.path / "images.json"
    listed.write_text(damage(json.dumps(json.loads(listed.read_text()))))
    with pytest.raises(DataError, match="is cut or altered"):
        open_run(run.path)
    assert main(["train", "--out", str(run.path), "--resume"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("hold_out", "copies", "said"),
    [
        (0.25, 0, "images: 6 to train on, 2 held out for calibration"),
        (0.25, 1, "images: 6 to train on, 2 held out for calibration, 1 dropped as duplicate"),
        (0.0, 3, "images: 8 to train on, none held out for calibration, 3 dropped as duplicates; calibrate with good"),
    ],
)
def test_train_says_what_becomes_of_the_images_and_int8_what_to_calibrate_with(
    tmp_path: Path, data: Path, hold_out: float, copies: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    good, run = tmp_path / "good", tmp_path / "run"
    shutil.copytree(data / "train/good", good)
    for i in range(copies):
        shutil.copy(good / "000.png", good / f"copy{i}.png")
    command = ["train", "--data", str(good), "--out", str(run), "--config", _config_file(tmp_path)]
    assert main([*command, "--set", f"data.hold_out={hold_out}"]) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith(said)]
    assert main(["train", "--out", str(run), "--resume"]) == 0
    assert said.split(",", maxsplit=1)[0] in capsys.readouterr().out
    assert main(["export", str(run), "--out", str(tmp_path / "int8"), "--precision", "int8"]) == 2
    refused = capsys.readouterr().err
    assert (str(run / "calibration_split") in refused) == (hold_out > 0)
    assert refused.count("\n") == 1


@pytest.mark.parametrize(
    ("hold_out", "said"),
    [(0.25, "calibration_split"), (0.0, "DIR, a folder of good images from the station: this run has held none out")],
)
def test_export_does_not_advise_to_calibrate_with_no_images(
    tmp_path: Path,
    data: Path,
    hold_out: float,
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = create(tmp_path / "run", tiny_config(), split_good(data, hold_out, 0), 0).path
    written = open_bundle(Path(__file__).parents[2] / "edge_ad" / "demo" / "bundle")
    monkeypatch.setattr("trainer.export.export", lambda *_: written)  # which takes long, and is tested elsewhere
    assert main(["export", str(run), "--out", str(tmp_path / "bundle")]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith(said)


@pytest.mark.parametrize("seed", ["-1", "1" + "0" * 23, "1.5", "x"])
@pytest.mark.parametrize("command", ["train", "preview"])
def test_a_seed_that_cannot_be_is_refused_before_anything_is_made(
    tmp_path: Path, data: Path, command: str, seed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--data", str(data), "--out", str(tmp_path / "out"), "--seed", seed])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "--seed: must be a whole number from 0 to" in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_fewer_snapshots_than_none_are_refused(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--data", str(data), "--out", str(tmp_path / "run"), "--snapshots", "-3"]) == 2
    assert capsys.readouterr().err == "error: --snapshots must be at least 0, got -3\n"
    assert not (tmp_path / "run").exists()


def test_the_commands_that_it_ends_with_can_be_pasted(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, written = tmp_path / "my run", open_bundle(Path(__file__).parents[2] / "edge_ad" / "demo" / "bundle")
    monkeypatch.setattr("trainer.export.export", lambda *_: replace(written, path=tmp_path / "my bundle"))
    assert main(["train", "--data", str(data), "--out", str(run), "--config", _config_file(tmp_path)]) == 0
    assert f"edge-ad-train export '{run}' --out" in capsys.readouterr().out
    assert main(["export", str(run), "--out", str(tmp_path / "my bundle")]) == 0
    said = capsys.readouterr().out.splitlines()[-1]
    assert said == f"next: edge-ad-calibrate fit '{tmp_path}/my bundle' --good '{run}/calibration_split'"


def test_the_largest_seed_trains(tmp_path: Path, data: Path) -> None:
    run = create(tmp_path / "run", configs.parse(TINY, "tiny"), split_good(data, 0.25, 0), configs.SEEDS[-1])
    _train(run)
    assert load_checkpoint(run.path)["step"] == 6
