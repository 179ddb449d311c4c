"""Rules of INT8 in a torch.export program: it computes what the bundle's INT8 graph says, and nothing else."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper
from torch.fx import Graph, GraphModule

import edge_ad.demo
from edge_ad.backends.base import OUTPUTS
from edge_ad.bundle import MODEL_FILE, PROGRAM, open_bundle
from edge_ad.engines.quantised_program import operator, quantised
from edge_ad.engines.torch_tensorrt import load_program, with_batch_norm_weights
from edge_ad.errors import BackendError
from tests.quantising import images_of, int8_graph, run_plainly
from tests.trainer.tiny import tiny_config
from trainer.config import TrainConfig, profile
from trainer.export import export_graph, save_program
from trainer.methods.base import build_method


@dataclass(frozen=True)
class Network:
    """One network in both forms."""

    model: ModelProto
    program: Path

    def module(self) -> GraphModule:
        return with_batch_norm_weights(load_program(self.program).run_decompositions({}).module())

    def int8(self, every: int) -> tuple[GraphModule, bytes]:
        """Each, or each second, third ... convolution in INT8: the program's module, and the graph."""
        path = int8_graph(self.model, self.program.with_name(MODEL_FILE["int8"]), every)
        return quantised(self.module(), path), path.read_bytes()


def export(config: TrainConfig, folder: Path) -> Network:
    method = build_method(config, 0).eval()
    save_program(folder / PROGRAM, method.graph().eval(), config)
    return Network(export_graph(method, config).model, folder / PROGRAM)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Network:
    return export(tiny_config(), tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Network:
    """All that a graph of ours can hold."""
    return export(profile("edge"), tmp_path_factory.mktemp("edge"))


@pytest.fixture(scope="module", params=["tiny", pytest.param("edge", marks=pytest.mark.slow)])
def network(request: pytest.FixtureRequest) -> Network:
    found: Network = request.getfixturevalue(request.param)
    return found


def pairs(module: GraphModule) -> int:
    """Those that somebody reads."""
    return sum(node.target is operator() and bool(node.users) for node in module.graph.nodes)


def run(module: GraphModule, image: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    with torch.inference_mode():
        return [output.numpy() for output in module(torch.from_numpy(image))]


@pytest.mark.parametrize("every", [1, 3])
def test_the_program_says_what_the_int8_graph_says(network: Network, every: int) -> None:
    """Each pair once, and outputs nearer to that graph's than FP32 is.

    Not equal ones: a sum in another order now and then rounds to the next code, and each layer behind makes more of it.
    """
    image = images_of(network.model)
    module, graph = network.int8(every)
    wanted_pairs = [node for node in onnx.load_from_string(graph).graph.node if node.op_type == "DequantizeLinear"]
    assert pairs(module) == len(wanted_pairs)
    found, wanted = run(module, image), run_plainly(graph, image, OUTPUTS)
    fp32 = run_plainly(network.model.SerializeToString(), image, OUTPUTS)
    for ours, theirs, exact in list(zip(found, wanted, fp32, strict=True))[::2]:  # maps; two scores say little
        assert np.abs(ours - theirs).mean() <= 0.75 * np.abs(exact - theirs).mean()


def test_normalisations_stay_only_behind_what_is_not_quantised(network: Network) -> None:
    def norms(module: GraphModule) -> int:
        return sum("batch_norm" in str(node.target) for node in module.graph.nodes)

    assert 0 <= norms(network.int8(1)[0]) < norms(network.int8(3)[0]) < norms(network.module())


def test_an_int8_graph_of_another_network_is_refused(tiny: Network, tmp_path: Path) -> None:
    demo = onnx.load(open_bundle(Path(edge_ad.demo.__file__).parent / "bundle").model_path("fp32"))
    path = int8_graph(demo, tmp_path / MODEL_FILE["int8"])
    with pytest.raises(BackendError, match=r"not of one network: .*; export it again") as refused:
        quantised(tiny.module(), path)
    assert "\n" not in str(refused.value)


def test_without_onnx_the_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(BackendError, match="INT8 needs the package onnx"):
        quantised(GraphModule({}, Graph()), tmp_path / MODEL_FILE["int8"])


def onnx_pair(value: NDArray[np.float32], scale: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """QuantizeLinear and DequantizeLinear, as ONNX Runtime has them."""
    constants = {"scale": scale, "zero": np.zeros_like(scale, np.int8)}
    nodes = [
        helper.make_node("QuantizeLinear", ["value", "scale", "zero"], ["codes"], axis=axis),
        helper.make_node("DequantizeLinear", ["codes", "scale", "zero"], ["result"], axis=axis),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, value.shape) for name in ("value", "result")]
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "pair", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: NDArray[np.float32] = session.run(None, {"value": value})[0]
    return found


@given(
    hnp.arrays(np.float32, (3, 5), elements=st.floats(-(2.0**10), 2.0**10, width=32)),
    hnp.arrays(np.float32, 3, elements=st.floats(2.0**-10, 4, width=32)),
    st.sampled_from([-1, 0]),
)
def test_the_operator_is_onnxs_pair(value: NDArray[np.float32], scales: NDArray[np.float32], axis: int) -> None:
    """Halves to even, and what is beyond the last code at it."""
    scale = scales if axis == 0 else scales[0]
    found = operator()(torch.from_numpy(value), torch.from_numpy(np.asarray(scale)), axis)
    assert (found.numpy() == onnx_pair(value, np.asarray(scale), max(axis, 0))).all()
