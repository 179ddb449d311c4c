"""Training never yields NaN: one image or some, constant ones too, with all, some or none of a batch anomalous."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.trainer.tiny import one_process, part, tiny_config
from trainer.config import TrainConfig
from trainer.data.samples import Samples, stream
from trainer.run import Run
from trainer.train import Trainer, _train_step

STEPS = 3
CONSTANT = {"black": 0, "grey": 127, "white": 255}
DIFFUSIONS = ({"prediction": "x0"}, {"prediction": "eps"}, {"prediction": "x0", "diffuse": False})

trainings = st.fixed_dictionaries(
    {
        "content": st.sampled_from([*CONSTANT, "parts", "noise"]),
        "images": st.sampled_from([1, 3]),
        "batch": st.integers(2, 4),
        "anomalous": st.sampled_from([0.0, 0.5, 1.0]),
        "precision": st.sampled_from(["fp32", "bf16"]),
        "diffusion": st.sampled_from(DIFFUSIONS),
        "restore": st.sampled_from([0.0, 1.0]),
        "size_balance": st.sampled_from([0.0, 0.5, 1.0]),
    }
)


@given(trainings)
@settings(max_examples=25)
def test_training_never_yields_nan(case: dict[str, Any]) -> None:
    """Real samples, real steps, and the moving average that is exported."""
    _train(_config(case), _good(case["content"], case["images"]))


@pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite_pytorch") is None, reason="the backbone's package is not installed"
)
@given(trainings)
@settings(max_examples=6)
def test_training_with_pretrained_evidence_never_yields_nan(case: dict[str, Any]) -> None:
    """The features of constant images have no variance to be brought to 1."""
    nets = {
        "fold": 4,
        "denoiser": {"kind": "edge", "widths": [8] * 3},
        "segmenter": {"kind": "edge", "widths": [8] * 3},
    }
    config = _config(case, **nets, evidence="efficientnet-lite0")
    _train(config, _good(case["content"], case["images"]))


def _config(case: dict[str, Any], **changes: object) -> TrainConfig:
    optim = {name: case[name] for name in ("batch", "anomalous", "precision")}
    return tiny_config(
        optim={"steps": STEPS, "denoiser_lr": 1e-3, "segmenter_lr": 1e-3, "warmup": 0.0, **optim},
        diffusion=case["diffusion"],
        loss={"restore": case["restore"], "features": case["restore"], "size_balance": case["size_balance"]},
        **changes,
    )


def _good(content: str, images: int) -> NDArray[np.uint8]:
    if content in CONSTANT:
        return np.full((images, 32, 32, 3), CONSTANT[content], np.uint8)
    if content == "noise":
        return np.random.default_rng(0).integers(0, 256, (images, 32, 32, 3), dtype=np.uint8)
    return np.stack([part(i, 32) for i in range(images)])


def _train(config: TrainConfig, good: NDArray[np.uint8]) -> None:
    trainer = Trainer(Run(Path(), config, (), (), 0, None), one_process())
    trainer.model.train()
    batches = stream(Samples(good, [], config, seed=0), config.optim.batch, 0, STEPS, workers=0)
    for step, batch in enumerate(batches):
        losses = _train_step(trainer, batch, config.optim, step / STEPS)
        assert all(np.isfinite(value) for value in losses.values()), losses
    for weights in (trainer.model.state_dict(), trainer.average.state_dict()):
        assert all(torch.isfinite(value).all() for value in weights.values())
