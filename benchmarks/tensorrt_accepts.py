"""Whether TensorRT's parser and builder take a profile's graph, and how large the engine is. No GPU is needed.

    .venv-engines/bin/python -m benchmarks.tensorrt_accepts paper        # after `make engines-venv`

The weights are untrained. TensorRT-RTX stands for TensorRT (docs/jetson.md says what that shows, and what not).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import onnx
import tensorrt_rtx

from edge_ad.engines.memory import WORKSPACE_MOST
from edge_ad.engines.onnx_graph import half
from edge_ad.engines.tensorrt import Limits, build_from_onnx
from trainer.config import profile
from trainer.export import export_graph
from trainer.methods.base import build_method


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one line a precision."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("profile")
    config = profile(parser.parse_args(arguments).profile)
    shape = (1, config.input.height, config.input.width, 3)
    exported = export_graph(build_method(config, 0).eval(), config)
    with tempfile.TemporaryDirectory() as work:
        path, limits = Path(work) / "model.onnx", Limits(WORKSPACE_MOST, Path(work) / "timing.bin")
        onnx.save(exported.model, str(path))
        for precision, graph in (("FP32", path.read_bytes), ("FP16", lambda: half(path))):
            started_s = time.monotonic()
            plan = build_from_onnx(tensorrt_rtx, graph(), shape, limits)
            took_s = time.monotonic() - started_s
            nodes = len(exported.model.graph.node)
            print(f"{config.profile} {precision}: {nodes} nodes, engine of {len(plan) / 1e6:.1f} MB in {took_s:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
