"""A training computes in bfloat16 only where the device does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import trainer.train as loop
from tests.trainer.tiny import make_dataset, one_process, part, tiny_config
from trainer import config as configs
from trainer.cli import main
from trainer.data.samples import Samples, stream
from trainer.precision import computes_bf16
from trainer.run import Run
from trainer.train import Trainer

STEPS = 2
ONE_WAY = ("--only", "one_step", "--out")


@pytest.mark.parametrize(
    ("instructions", "expected"),
    [
        ({"avx2": True, "fma3": True, "avx512_bf16": False}, False),
        ({"avx512_f": True, "avx512_vnni": True, "avx512_bf16": False, "amx_bf16": False}, False),
        ({"avx512_f": True, "avx512_bf16": True}, True),
        ({"amx_bf16": True}, True),
        ({"neon": True, "bf16": True}, True),
        ({"neon": True, "bf16": False}, False),
    ],
)
def test_a_processor_computes_bf16_with_instructions_for_it(
    instructions: dict[str, bool], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: instructions, raising=False)
    assert computes_bf16(torch.device("cpu")) is expected


def test_with_an_older_torch_onednn_says_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert computes_bf16(torch.device("cpu")) is torch.ops.mkldnn._is_mkldnn_bf16_supported()


@pytest.mark.parametrize("native", [True, False])
def test_a_gpu_that_emulates_bf16_does_not_count(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: native or including_emulation)
    assert computes_bf16(torch.device("cuda")) is native


def test_fp32_on_a_gpu_is_not_tf32(tmp_path: Path) -> None:
    """Neither in training nor where a run is measured."""
    data, config = make_dataset(tmp_path / "data"), tmp_path / "tiny.yaml"
    config.write_text(configs.dump(tiny_config()))
    run = tmp_path / "run"
    for command in (
        ["train", "--data", str(data), "--out", str(run), "--config", str(config)],
        ["evaluate", str(run), "--data", str(data)],
        ["ablation", str(run), "--data", str(data), "--results", str(tmp_path / "results"), *ONE_WAY, str(tmp_path)],
    ):
        torch.backends.cudnn.allow_tf32 = True  # as torch has it
        torch.set_float32_matmul_precision("high")
        assert main(command) == 0
        assert not torch.backends.cudnn.allow_tf32
        assert not torch.backends.cuda.matmul.allow_tf32


def _trained(precision: str) -> tuple[Trainer, list[float]]:
    """A few steps of a tiny training, and their losses."""
    optim = {"batch": 4, "steps": STEPS, "denoiser_lr": 1e-3, "segmenter_lr": 1e-3, "precision": precision}
    config = tiny_config(optim=optim)
    trainer = Trainer(Run(Path(), config, (), (), 0, None), one_process())
    trainer.model.train()
    good = np.stack([part(i, 32) for i in range(3)])
    batches = stream(Samples(good, [], config, seed=0), config.optim.batch, 0, STEPS, workers=0)
    steps = [loop._train_step(trainer, batch, config.optim, 0.5) for batch in batches]
    return trainer, [value for losses in steps for value in losses.values()]


def test_where_bf16_is_only_emulated_training_computes_in_fp32_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "computes_bf16", lambda device: True)
    native, rounded = _trained("bf16")
    monkeypatch.setattr(loop, "computes_bf16", lambda device: False)
    without, exact = _trained("bf16")
    wanted, expected = _trained("fp32")
    assert exact == expected
    assert rounded != expected
    assert (native.computes_in(), wanted.computes_in()) == ("bf16", "fp32")
    assert without.computes_in() == "fp32, as this processor has no instructions for bf16"
