"""INT8 for Torch-TensorRT: the pairs of a bundle's INT8 graph, put into its torch.export program.

What is quantised, and by which scales, is said in one place, `model.int8.onnx` (trainer/quantise.py). The program is
the same network before that; its layers are found by the names of their weights, and what lies between them by what it
reads. Torch-TensorRT knows an operator for such pairs, but only beside NVIDIA's modelopt; ours needs nothing, and its
converter is the two layers that it stands for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edge_ad.engines.tensorrt import load_tensorrt
from edge_ad.errors import BackendError

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto
    from torch import Tensor
    from torch.fx import GraphModule, Node

PER_TENSOR = -1
LOWEST, HIGHEST = -128, 127
SMALLEST_FP16 = np.float32(2.0**-24)  # channels of nothing but zeros have smaller scales in bundles of before
# What lies between the convolutions of our graphs: ONNX operator -> how torch.export calls it.
_FOLLOWS = {
    "Relu": "relu",
    "Clip": "hardtanh",
    "Add": "add",
    "Sub": "sub",
    "Mul": "mul",
    "Slice": "slice",
    "Resize": "upsample_nearest2d",
}


@dataclass(frozen=True, slots=True)
class Weight:
    """A convolution's weights in INT8: codes (C_out, ...), and a scale for each output channel (C_out,)."""

    codes: NDArray[np.int8]
    scales: NDArray[np.float32]

    def values(self) -> NDArray[np.float32]:
        """What the codes stand for."""
        return self.codes * self.scales.reshape(-1, *[1] * (self.codes.ndim - 1))


class Int8Graph:
    """What an INT8 ONNX graph says: which tensors and weights are quantised, and who reads them so.

    Attributes:
        nodes: all but the pairs themselves, in order.
        scales: quantised tensor -> its scale.
        weights: name of a weight -> its INT8 form.
    """

    def __init__(self, graph: GraphProto) -> None:
        """Read it."""
        from onnx import numpy_helper

        constants = {constant.name: constant for constant in graph.initializer}
        self._constants = constants
        quantised = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"}
        self._tensor_of: dict[str, str] = {}
        self.scales: dict[str, NDArray[np.float32]] = {}
        self.weights: dict[str, Weight] = {}
        self._weight_of: dict[str, str] = {}
        for node in (node for node in graph.node if node.op_type == "DequantizeLinear"):
            codes, scale = node.input[0], numpy_helper.to_array(constants[node.input[1]])
            if codes in quantised:
                self._tensor_of[node.output[0]] = quantised[codes]
                self.scales[quantised[codes]] = scale
            else:
                name = codes.removesuffix("/int8")
                self._weight_of[node.output[0]] = name
                self.weights[name] = Weight(numpy_helper.to_array(constants[codes]), scale)
        self.nodes = [node for node in graph.node if node.op_type not in ("QuantizeLinear", "DequantizeLinear")]

    def weight(self, convolution: NodeProto) -> str:
        """The name of its weights, quantised or not."""
        name = str(convolution.input[1])
        return self._weight_of.get(name, name)

    def bias(self, convolution: NodeProto) -> NDArray[np.float32] | None:
        """What it adds to each output channel, (C_out,)."""
        from onnx import numpy_helper

        return numpy_helper.to_array(self._constants[convolution.input[2]]) if len(convolution.input) > 2 else None

    def operands(self, node: NodeProto) -> list[str]:
        """The tensors that a node computes on, no constants; those that it reads quantised under their own names."""
        read = node.input[:1] if node.op_type in ("Conv", "Resize", "Slice") else node.input
        return [self._tensor_of.get(name, name) for name in read if name and name not in self._constants]

    def reads_quantised(self, node: NodeProto) -> list[str]:
        """Those of them that it reads quantised."""
        return [self._tensor_of[name] for name in node.input if name in self._tensor_of]


def quantised(module: GraphModule, path: Path) -> GraphModule:
    """An exported program's module with the pairs of an INT8 graph of the same network.

    A convolution in INT8 takes the batch normalisation behind it into its weights, as the INT8 graph has it.

    Raises:
        BackendError: the package `onnx` is missing, or the graph is of another network.
    """
    try:
        import onnx
    except ImportError as error:
        raise BackendError(f"INT8 needs the package onnx ({error}): pip install onnx") from error
    int8 = Int8Graph(onnx.load(path).graph)
    place = _Places(module, int8)
    pairs: dict[Node, Node] = {}
    readers = list(place.readers())
    for node, reader in readers:
        for name in int8.reads_quantised(node):
            value = place.read_by(reader, name)
            if value not in pairs:
                pairs[value] = _add_pair(module, value, int8.scales[name], PER_TENSOR, value.name)
            reader.replace_input_with(value, pairs[value])
    for node, reader in readers:  # only now: normalisations go, and with them what pairs were to stand behind
        if node.op_type == "Conv" and int8.weight(node) in int8.weights:
            _store(module, reader, int8, node)
    module.graph.eliminate_dead_code()
    module.recompile()
    return module


class _Places:
    """Where the tensors of the INT8 graph are in the program."""

    def __init__(self, module: GraphModule, int8: Int8Graph) -> None:
        """Find them.

        Raises:
            BackendError: a convolution is in one of the two only.
        """
        self._int8 = int8
        self._nodes: dict[str, Node] = {}
        self._convolutions: dict[str, Node] = {}
        by_weight: dict[str, list[Node]] = {}
        for node in module.graph.nodes:
            if node.op == "call_function" and "conv2d" in str(node.target):
                by_weight.setdefault(str(node.args[1].target), []).append(node)
        for node in int8.nodes:
            if node.op_type == "Conv":
                self._find_convolution(node, by_weight)
            elif node.op_type in _FOLLOWS:
                self._find_follower(node)

    def of(self, tensor: str) -> Node:
        """The node of a tensor.

        Raises:
            BackendError: it was not found.
        """
        if tensor not in self._nodes:
            raise _other_network(f"{tensor} is not in the program")
        return self._nodes[tensor]

    def read_by(self, reader: Node, tensor: str) -> Node:
        """What a node reads of a tensor: the tensor itself, or what a padding makes of it.

        The program pads in front of a convolution where the INT8 graph has a convolution that pads. Zeros are zeros in
        INT8, so the pair may stand behind the padding, where it is the convolution's own.
        """
        found = self.of(tensor)
        return next((node for node in reader.all_input_nodes if _unpadded(node) is found), found)

    def readers(self) -> Iterator[tuple[NodeProto, Node]]:
        """Each node that reads something quantised, in both graphs.

        Raises:
            BackendError: one is not in the program.
        """
        for node in self._int8.nodes:
            if self._int8.reads_quantised(node):
                first = node.output[0]
                yield node, self._convolutions[first] if node.op_type == "Conv" else self.of(first)

    def _find_convolution(self, node: NodeProto, by_weight: dict[str, list[Node]]) -> None:
        weight = self._int8.weight(node)
        if not by_weight.get(weight):
            raise _other_network(f"no convolution of the program has {weight}")
        found = by_weight[weight].pop(0)
        (source,) = self._int8.operands(node)
        if self._nodes.setdefault(source, _unpadded(found.args[0])) is not _unpadded(found.args[0]):
            raise _other_network(f"the convolution of {weight} reads something else than {source}")
        self._convolutions[node.output[0]] = found
        self._nodes[node.output[0]] = _normalised(found) or found

    def _find_follower(self, node: NodeProto) -> None:
        """By what it reads, the first where several read the same; what reads nothing known is none that matters."""
        read = [self._nodes[name] for name in self._int8.operands(node) if name in self._nodes]
        if read and node.output[0] not in self._nodes:
            name, taken = f"aten.{_FOLLOWS[node.op_type]}.", set(self._nodes.values())
            users = [user for user in read[0].users if str(user.target).startswith(name) and user not in taken]
            found = [user for user in users if set(read) <= set(user.all_input_nodes)]
            if found:
                self._nodes[node.output[0]] = found[0]


def _unpadded(node: Any) -> Node:
    """What a padding pads; any other node itself."""
    unpadded: Node = node.args[0] if str(node.target).startswith("aten.pad.") else node
    return unpadded


def _normalised(convolution: Node) -> Node | None:
    """The output of the batch normalisation behind a convolution; None where there is none."""
    users = list(convolution.users)
    if len(users) != 1 or "batch_norm" not in str(users[0].target):
        return None
    picked = list(users[0].users)
    return picked[0] if picked and "getitem" in str(picked[0].target) else users[0]


def _store(module: GraphModule, convolution: Node, int8: Int8Graph, node: NodeProto) -> None:
    """Give a convolution its INT8 weights; the normalisation behind it is in them."""
    name, bias = int8.weight(node), int8.bias(node)
    weight = int8.weights[name]
    with module.graph.inserting_before(convolution):
        stored = _constant(module, f"{convolution.name}_weight", weight.values())
        pair = _add_pair(module, stored, weight.scales, 0, f"{convolution.name}_weight")
        added = None if bias is None else _constant(module, f"{convolution.name}_bias", bias)
    convolution.args = (convolution.args[0], pair, added, *convolution.args[3:])
    normalised = _normalised(convolution)
    if normalised is not None:
        normalised.replace_all_uses_with(convolution)


def _add_pair(module: GraphModule, value: Node, scale: NDArray[np.float32], axis: int, name: str) -> Node:
    graph = module.graph
    with graph.inserting_after(value):
        constant = _constant(module, f"{name}_scale", np.maximum(scale, SMALLEST_FP16))
    with graph.inserting_after(constant):
        return graph.call_function(operator(), (value, constant, axis))


def _constant(module: GraphModule, name: str, value: NDArray[np.float32]) -> Node:
    import torch

    name = f"int8_{name.replace('.', '_')}"
    module.register_buffer(name, torch.from_numpy(np.array(value, np.float32)))
    return module.graph.get_attr(name)


def _other_network(why: str) -> BackendError:
    return BackendError(f"the bundle's INT8 graph and its program are not of one network: {why}; export it again")


def operator() -> Any:
    """The operator of a pair, edge_ad::quantise_dequantise(value, scale, axis): one for the whole process.

    It says of itself that it is random, so that no compiler computes what it makes of a weight beforehand: the weight
    would be FP32 again, and the convolution with it.
    """
    import torch

    if not hasattr(torch.ops.edge_ad, "quantise_dequantise"):
        schema = "(Tensor value, Tensor scale, int axis) -> Tensor"
        name = "edge_ad::quantise_dequantise"
        torch.library.define(name, schema, tags=(torch.Tag.nondeterministic_seeded,))
        torch.library.impl(name, "default")(_quantise_dequantise)
        torch.library.register_fake(name)(lambda value, *_: torch.empty_like(value))
    return torch.ops.edge_ad.quantise_dequantise.default


def _quantise_dequantise(value: Tensor, scale: Tensor, axis: int) -> Tensor:
    """The codes of a tensor, and what they stand for, in FP32 within.

    Args:
        value: (...), FP32 or FP16.
        scale: () for axis -1; (C,) for the C channels of axis 0.
        axis: -1 or 0.
    """
    step = scale.float() if axis == PER_TENSOR else scale.float().reshape(-1, *[1] * (value.dim() - 1))
    codes = (value.float() / step).round().clamp(LOWEST, HIGHEST)
    return (codes * step).to(value.dtype)


def register_converter(compiler: ModuleType) -> None:
    """Tell Torch-TensorRT what the operator is: a quantising layer and a dequantising one.

    Args:
        compiler: the module torch_tensorrt.
    """
    trt, conversion = load_tensorrt(), compiler.dynamo.conversion
    get_trt_tensor = conversion.converter_utils.get_trt_tensor

    def convert(context: Any, target: object, arguments: Any, keywords: Mapping[str, object], name: str) -> Any:
        del target, keywords
        value, scale, axis = arguments
        value = get_trt_tensor(context, value, f"{name}_value")
        scale = get_trt_tensor(context, scale, f"{name}_scale")
        quantise = context.net.add_quantize(value, scale, trt.DataType.INT8)
        dequantise = context.net.add_dequantize(quantise.get_output(0), scale, value.dtype)
        for layer, what in ((quantise, "quantise"), (dequantise, "dequantise")):
            layer.name = f"{name}_{what}"
            if axis != PER_TENSOR:
                layer.axis = axis
        return dequantise.get_output(0)

    conversion.dynamo_tensorrt_converter(operator(), supports_dynamic_shapes=True)(convert)
