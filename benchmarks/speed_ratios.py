"""Whole steps side by side, as ratios in one run: a bundle, the authors' network as they run it, EfficientAD-S.

    python -m benchmarks.speed_ratios BUNDLE [--rounds 3] [--frame 1920x1080] [--json FILE]

Every side gets the same frame, 1920 x 1080 unless told otherwise, through the same pre-processing and decision
(edge_ad.bench.worker), in a process of its own, in turn, round after round; a ratio is taken within a round.

* `paper`: the networks of the profile `paper` in eager torch, FP32, two passes one after the other, then segmentation.
* `efficientad_s`: benchmarks/efficientad.py in ONNX Runtime, FP32, exported from torch.
* the bundle, in every precision on every engine that this machine has.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray

from benchmarks.efficientad import SIZE, EfficientAdS
from edge_ad.bench.figures import Workload
from edge_ad.bench.rounds import choose, label, run_process, run_worker
from edge_ad.bench.worker import measure_steps
from edge_ad.bundle import open_bundle
from edge_ad.config import Precision
from edge_ad.console import add_frame_size, write_json
from edge_ad.core.layout import Layout
from edge_ad.frames import FrameGraph
from edge_ad.records import RawOutput
from trainer.config import profile
from trainer.export import exporter_quiet
from trainer.golden import golden_images
from trainer.macs import count_macs
from trainer.maths.ddpm import q_sample, x0_from_eps
from trainer.maths.guidance import guided_long_form
from trainer.methods.diffusionad.model import DiffusionAD

FRAMES = {"paper": 2, "efficientad_s": 10, "ours": 50}  # a round
PUBLISHED_GMACS = 37.9
NOTHING = np.zeros((1, SIZE, SIZE, 3), np.float32)  # neither of the other sides is asked for a reconstruction


class Paper:
    """The authors' networks in eager torch, as their test script runs them (implements `Backend`)."""

    name = "torch"
    precision: Precision = "fp32"

    def __init__(self) -> None:
        self.method = DiffusionAD(profile("paper")).eval()
        self.generator = torch.Generator().manual_seed(0)

    def run(self, image: NDArray[np.uint8]) -> RawOutput:
        """See `Backend.run`; fresh noise each time, as they have it."""
        d, abar = self.method.config.diffusion, self.method.abar
        with torch.inference_mode():
            x = torch.from_numpy(image).permute(0, 3, 1, 2).float() / 255
            x_b, eps_b = self._denoise(x, d.t_b)
            guide = x0_from_eps(x_b, eps_b, abar[d.t_b]).clamp(-1, 1)
            x_s, eps_s = self._denoise(x, d.t_s)
            guided = guided_long_form(x_s, eps_s, guide, abar[d.t_s], d.w).clamp(-1, 1)
            anomaly_map = torch.sigmoid(self.method.segmenter(x, guided))[:, 0]
            score = torch.topk(anomaly_map.flatten(1), self.method.config.top_k).values.mean(1)
        return RawOutput(anomaly_map.numpy(), score.numpy(), NOTHING)

    def _denoise(self, x: torch.Tensor, t: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The diffused image, and the noise that the network sees in it."""
        x_t = q_sample(x, torch.randn(x.shape, generator=self.generator), self.method.abar[t])
        return x_t, self.method.denoiser(x_t, torch.tensor([t]))

    def close(self) -> None:
        """See `Backend.close`."""


class EfficientAd:
    """EfficientAD-S in ONNX Runtime (implements `Backend`)."""

    name = "onnxruntime"
    precision: Precision = "fp32"

    def __init__(self, path: str) -> None:
        self.session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(self, image: NDArray[np.uint8]) -> RawOutput:
        """See `Backend.run`."""
        return RawOutput(*self.session.run(None, {"image": image}), NOTHING)

    def close(self) -> None:
        """See `Backend.close`."""


def export_efficientad(path: Path) -> None:
    """Write EfficientAD-S with random weights as ONNX.

    Raises:
        AssertionError: it has not the published number of multiply-accumulates.
    """
    torch.manual_seed(0)
    example = torch.zeros((1, SIZE, SIZE, 3), dtype=torch.uint8)
    with exporter_quiet():
        program = torch.onnx.export(
            EfficientAdS().eval(),
            (example,),
            dynamo=True,
            opset_version=18,
            input_names=["image"],
            output_names=["anomaly_map", "score"],
            verbose=False,
        )
    assert program is not None
    gmacs = count_macs(program.model_proto) / 1e9
    assert round(gmacs, 1) == PUBLISHED_GMACS, gmacs
    program.save(str(path))


def measure_side(side: str, path: str, size: tuple[int, int]) -> dict[str, Any]:
    """One of the other sides, in this process."""
    backend = Paper() if side == "paper" else EfficientAd(path)
    graph = FrameGraph(backend, Layout(SIZE, SIZE), top_k=1)
    return measure_steps(graph, golden_images(2, SIZE, SIZE)[-1], Workload(FRAMES[side], *size), 0)


def one_round(bundle: Path, efficientad: Path, size: tuple[int, int]) -> dict[str, float]:
    """Side -> median milliseconds of the whole step."""
    steps: dict[str, float] = {}
    ours = Workload(FRAMES["ours"], *size)
    for side in ("paper", "efficientad_s"):
        body = run_process(["benchmarks.speed_ratios", "--side", side, "--frame", ours.size, str(efficientad)])
        assert not isinstance(body, str), body
        steps[side] = statistics.median(body["ms"]["step"])
    for engine in choose(open_bundle(bundle), "all"):
        sample = run_worker(bundle, engine, ours)
        if not isinstance(sample, str):  # this machine has no such engine
            steps[label(engine)] = statistics.median(sample.ms["step"])
    return steps


def report(rounds: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Side -> median of its step in ms, and of its ratios to the other two sides within a round."""
    return {
        side: {
            "step_ms": statistics.median(steps[side] for steps in rounds),
            **{
                f"times_faster_than_{other}": statistics.median(steps[other] / steps[side] for steps in rounds)
                for other in ("paper", "efficientad_s")
            },
        }
        for side in rounds[0]
    }


def main() -> None:
    """Measure all sides, round after round."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, help="with --side: the ONNX file of EfficientAD-S")
    parser.add_argument("--rounds", type=int, default=3)
    add_frame_size(parser)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--side", choices=("paper", "efficientad_s"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(measure_side(arguments.side, str(arguments.bundle), arguments.frame)))
        return
    with tempfile.TemporaryDirectory() as folder:
        efficientad = Path(folder) / "efficientad_s.onnx"
        export_efficientad(efficientad)
        bundle = arguments.bundle.absolute()
        rounds = [one_round(bundle, efficientad, arguments.frame) for _ in range(arguments.rounds)]
    found = report(rounds)
    print(f"{'':28} {'step ms':>9} {'paper':>8} {'EfficientAD-S':>14}   (times faster than)")
    for side, row in found.items():
        print(
            f"{side:28} {row['step_ms']:9.2f} {row['times_faster_than_paper']:8.1f} "
            f"{row['times_faster_than_efficientad_s']:14.2f}"
        )
    if arguments.json is not None:
        write_json(arguments.json, {"frame": arguments.frame, "rounds": rounds, "medians": found})


if __name__ == "__main__":
    sys.exit(main())
