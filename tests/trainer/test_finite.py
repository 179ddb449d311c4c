"""Training never yields NaN: one image or some, constant ones too, with all, some or none of a batch anomalous."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.trainer.tiny import one_process, part, tiny_config
from trainer import train
from trainer.config import TrainConfig
from trainer.data.samples import Samples, stream
from trainer.run import Run
from trainer.train import Trainer, _train_step

STEPS = 4
HALF = STEPS // 2  # the steps at half the size, where there are some
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
        "w": st.sampled_from([0.0, 1.0]),
        "ema": st.sampled_from([0.0, 0.999, 1.0]),
        "grad_clip": st.sampled_from([0.0, 1.0]),
        "half_size": st.sampled_from([0.0, 0.5]),
        "prototypes": st.sampled_from([0, 4]),  # where there is evidence
    }
)


def of_edge(content: str) -> dict[str, Any]:
    """As the profile `edge` trains, on a single image."""
    optim = {"batch": 2, "anomalous": 0.5, "precision": "bf16", "ema": 0.999, "grad_clip": 1.0, "half_size": 0.5}
    loss = {"restore": 1.0, "size_balance": 0.5}
    return {
        "content": content,
        "images": 1,
        **optim,
        "diffusion": {"prediction": "x0"},
        "w": 0.0,
        **loss,
        "prototypes": 4,
    }


@given(trainings)
@example(of_edge("black"))
@settings(max_examples=30)
def test_training_never_yields_nan(case: dict[str, Any]) -> None:
    """Real samples, real steps, and the moving average that is exported."""
    _train(_config(case), _good(case["content"], case["images"]))


@pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite_pytorch") is None, reason="the backbone's package is not installed"
)
@given(trainings)
@example(of_edge("black"))
@example(of_edge("noise"))
@settings(max_examples=10)
def test_training_with_pretrained_evidence_never_yields_nan(case: dict[str, Any]) -> None:
    """The features of constant images have no variance to be brought to 1."""
    nets = {
        "fold": 4,
        "denoiser": {"kind": "edge", "widths": [8] * 3},
        "segmenter": {"kind": "edge", "widths": [8] * 3},
    }
    prototypes = {"count": case["prototypes"], "least": 0.0, "most": 3.0}
    config = _config(case, **nets, evidence="efficientnet-lite0", prototypes=prototypes)
    _train(config, _good(case["content"], case["images"]))


def _config(case: dict[str, Any], **changes: object) -> TrainConfig:
    optim = {name: case[name] for name in ("batch", "anomalous", "precision", "ema", "grad_clip", "half_size")}
    return tiny_config(
        optim={"steps": STEPS, "denoiser_lr": 1e-3, "segmenter_lr": 1e-3, "warmup": 0.0, **optim},
        diffusion={**case["diffusion"], "w": case["w"]},
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
    whole = Samples(good, [], config, seed=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "OBSERVED", 4)
        trainer.observe(whole)
    trainer.model.train()
    phases = [(whole, 0, STEPS)]
    if config.optim.half_size > 0:
        half = Samples(np.ascontiguousarray(good[:, ::2, ::2]), [], config, seed=0)
        phases = [(half, 0, HALF), (whole, HALF, STEPS)]
    for samples, first, last in phases:
        for step, batch in enumerate(stream(samples, config.optim.batch, first, last, workers=0), start=first):
            losses = _train_step(trainer, batch, config.optim, step / STEPS)
            assert all(np.isfinite(value) for value in losses.values()), losses
    for weights in (trainer.model.state_dict(), trainer.average.state_dict()):
        assert all(torch.isfinite(value).all() for value in weights.values())
    with torch.no_grad():
        outputs = trainer.average.eval().graph()(torch.from_numpy(good))
    assert all(torch.isfinite(output).all() for output in outputs)
