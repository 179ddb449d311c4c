"""What this machine's CPU reaches at its best: bare convolutions, in a process of their own.

    python -m edge_ad.bench.ceiling LIBRARY PRECISION SECONDS

Chains of equal 3 x 3 convolutions with channels that every library likes, so that nothing but the convolution counts.
The last line on standard output is JSON: chain -> 1e9 multiply-accumulates a second, or the reason why there is none.
SECONDS is the time for each chain. Threads are the library's own choice: one per core.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_ad.backends.openvino import settings
from edge_ad.config import BackendConfig, Precision
from edge_ad.console import say

LENGTH = 6
WARM_UP = 3
SCALE = 0.05  # of INT8 activations, which the convolutions below leave as large as they are


@dataclass(frozen=True, slots=True)
class Chain:
    """LENGTH convolutions from `channels` to as many, on one image of side x side pixels."""

    channels: int
    side: int

    @property
    def label(self) -> str:
        """For people: channels and pixels."""
        return f"{self.channels} channels at {self.side} x {self.side}"

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the whole chain."""
        return LENGTH * 9 * (self.channels * self.side) ** 2

    def image(self) -> NDArray[np.float32]:
        """(1, channels, side, side) input, in -1..1."""
        shape = (1, self.channels, self.side, self.side)
        return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)

    def weight(self) -> NDArray[np.float32]:
        """(channels, channels, 3, 3); the squares of each output's sum to 1, so values keep their size."""
        bound = (3 / (9 * self.channels)) ** 0.5
        shape = (self.channels, self.channels, 3, 3)
        return np.random.default_rng(1).uniform(-bound, bound, shape).astype(np.float32)


CHAINS = (Chain(64, 64), Chain(128, 64), Chain(128, 32), Chain(256, 32), Chain(512, 16))

Step = Callable[[], object]


def onnx_chain(chain: Chain, precision: Precision) -> bytes:
    """The chain as an ONNX file; for INT8 with symmetric Q/DQ pairs between the convolutions.

    Raises:
        ImportError: onnx is not installed.
    """
    from onnx import NodeProto, TensorProto, helper, numpy_helper

    def pair(name: str) -> list[NodeProto]:
        """Quantise and dequantise `name` to `name`/dq."""
        return [
            helper.make_node("QuantizeLinear", [name, "scale", "zero"], [f"{name}/q"]),
            helper.make_node("DequantizeLinear", [f"{name}/q", "scale", "zero"], [f"{name}/dq"]),
        ]

    int8 = precision == "int8"
    weight = chain.weight()
    constants, nodes, value, read = {"weight": weight}, [], "image", "weight"
    if int8:
        step = np.float32(np.abs(weight).max() / 127)
        codes = np.rint(weight / step).astype(np.int8)
        constants = {"weight": codes, "step": step, "scale": np.float32(SCALE), "zero": np.int8(0)}
        nodes = [*pair("image"), helper.make_node("DequantizeLinear", ["weight", "step", "zero"], ["weight/dq"])]
        value, read = "image/dq", "weight/dq"
    for place in range(LENGTH):
        nodes.append(helper.make_node("Conv", [value, read], [f"conv{place}"], pads=[1, 1, 1, 1]))
        nodes += pair(f"conv{place}") if int8 else []
        value = nodes[-1].output[0]
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, chain.image().shape)],
        [helper.make_tensor_value_info(value, TensorProto.FLOAT, chain.image().shape)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return bytes(model.SerializeToString())


def _onnxruntime(chain: Chain, precision: Precision) -> Step:
    import onnxruntime

    session = onnxruntime.InferenceSession(onnx_chain(chain, precision), providers=["CPUExecutionProvider"])
    image = chain.image()
    return lambda: session.run(None, {"image": image})


def _openvino(chain: Chain, precision: Precision) -> Step:
    import openvino

    config = BackendConfig(name="openvino", precision=precision)
    model = openvino.Core().read_model(onnx_chain(chain, precision))
    request = openvino.Core().compile_model(model, "CPU", settings(config)).create_infer_request()
    request.set_input_tensor(openvino.Tensor(chain.image()))
    step: Step = request.infer
    return step


def _torch(chain: Chain, precision: Precision) -> Step:
    import torch

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    convs = torch.nn.Sequential(
        *(torch.nn.Conv2d(chain.channels, chain.channels, 3, padding=1, dtype=dtype) for _ in range(LENGTH))
    )
    convs.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs miss it
    image = torch.from_numpy(chain.image()).to(dtype=dtype, memory_format=torch.channels_last)

    def step() -> object:
        with torch.inference_mode():
            return convs(image)

    return step


# Which library can do which precision on a CPU, and how.
LIBRARIES: dict[str, tuple[tuple[Precision, ...], Callable[[Chain, Precision], Step]]] = {
    "onnxruntime": (("fp32", "int8"), _onnxruntime),
    "openvino": (("fp32", "bf16", "int8"), _openvino),
    "torch": (("fp32", "bf16"), _torch),
}


def rate(chain: Chain, step: Step, seconds: float) -> float:
    """1e9 multiply-accumulates a second, by the median time over `seconds`."""
    for _ in range(WARM_UP):
        step()
    times: list[float] = []
    started = time.perf_counter()
    while not times or time.perf_counter() - started < seconds:
        before = time.perf_counter()
        step()
        times.append(time.perf_counter() - before)
    return chain.macs / statistics.median(times) / 1e9


def main(library: str, precision: Precision, seconds: str) -> int:
    """Measure and report."""
    _, prepare = LIBRARIES[library]
    try:
        found = {"rates": {c.label: rate(c, prepare(c, precision), float(seconds)) for c in CHAINS}}
    except ImportError as error:
        say(json.dumps({"reason": f"{library} {precision}: {error}"}))
        return 0
    say(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))  # type: ignore[arg-type]  # our own caller gives a precision
