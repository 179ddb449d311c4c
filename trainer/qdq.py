"""Q/DQ pairs in an ONNX graph, where engines fuse them: symmetric INT8, weights per output channel. Pure.

NVIDIA's rules for explicit quantisation, which OpenVINO's fit too:

* the input of a quantised convolution is quantised, its weights are stored as INT8, its bias stays FP32;
* between a convolution and its activation there is nothing, so that both are one kernel;
* where a branch is added to the output of a convolution, the branch is quantised and that output is not: the addition
  joins the convolution's kernel. Of two convolutions it is the later one, whose kernel finds the other's output ready;
* what is enlarged (nearest) is quantised before: a quarter of the values.

A tensor is quantised once, for all who read it quantised.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

CODES = 127  # of each sign
ACTIVATIONS = ("Relu", "Clip")


def convolutions(model: ModelProto) -> dict[str, NodeProto]:
    """Layer -> convolution that can be quantised, in the order of the graph; the layer has the name of its weights."""
    left_out = left_in_fp32(model)
    return {name: node for name, node in _named(model).items() if name not in left_out}


def left_in_fp32(model: ModelProto) -> list[str]:
    """The convolutions that cannot be quantised: those that read a concatenation.

    OpenVINO (2026.4) moves the pair in front of the concatenation, loses it there for a constant operand, and computes
    something else.
    """
    joined = {node.output[0] for node in model.graph.node if node.op_type == "Concat"}
    return [name for name, node in _named(model).items() if node.input[0] in joined]


def _named(model: ModelProto) -> dict[str, NodeProto]:
    """Layer -> convolution with constant weights."""
    constants = {initializer.name for initializer in model.graph.initializer}
    found: dict[str, NodeProto] = {}
    for node in model.graph.node:
        if node.op_type == "Conv" and node.input[1] in constants:
            found[_layer_name(node.input[1], found)] = node
    return found


def _layer_name(weight: str, taken: Collection[str]) -> str:
    """The name of the weights, less what all have in common; a number behind it for a second layer that shares them."""
    name = weight.removeprefix("method.").removesuffix(".weight")
    uses = sum(other == name or other.startswith(f"{name} (") for other in taken)
    return f"{name} ({uses + 1})" if uses else name


def quantised_tensors(model: ModelProto, layers: Collection[str]) -> list[str]:
    """The activations that are quantised when these layers are, in the order of the graph."""
    read = {name for names in _quantised_reads(model, layers).values() for name in names}
    return [name for node in model.graph.node for name in node.output if name in read]


def _quantised_reads(model: ModelProto, layers: Collection[str]) -> dict[str, list[str]]:
    """Who reads what in INT8: the first output of a node -> those of its inputs that it reads quantised."""
    graph = model.graph
    convs = convolutions(model)
    int8 = {node.output[0]: name in layers for name, node in convs.items()}
    reads = {node.output[0]: [node.input[0]] for name, node in convs.items() if name in layers}
    chosen = {name for names in reads.values() for name in names}
    activated = {node.input[0]: node.output[0] for node in graph.node if node.op_type in ACTIVATIONS}
    produced = {name for node in graph.node for name in node.output}  # a constant operand is no branch
    enlarged = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Resize" and _nearest(node)}
    for node in reversed(graph.node):  # an addition that feeds a later one has its turn after it
        if node.op_type == "Add" and {node.output[0], activated.get(node.output[0])} & chosen:
            for name in produced.intersection(_branches(node, int8)):
                reader, read = (name, enlarged[name]) if name in enlarged else (node.output[0], name)
                reads.setdefault(reader, []).append(read)
                chosen.add(read)
    return reads


def _branches(addition: NodeProto, int8: Mapping[str, bool]) -> list[str]:
    """The inputs of an addition that are quantised: all but the output of the last convolution among them.

    None where one of these convolutions is in FP32: the addition is too. `int8` tells it of each output of a
    convolution, in the order of the graph.
    """
    joined = [name for name in int8 if name in addition.input]
    if not all(int8[name] for name in joined):
        return []
    return [name for name in addition.input if name not in joined[-1:]]


def _nearest(resize: NodeProto) -> bool:
    modes = [attribute.s for attribute in resize.attribute if attribute.name == "mode"]
    return modes in ([], [b"nearest"])


def with_outputs(model: ModelProto, tensors: Collection[str]) -> ModelProto:
    """The same graph that also puts out these tensors."""
    probe = ModelProto()
    probe.CopyFrom(model)
    probe.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in tensors)
    return probe


def quantise_graph(
    model: ModelProto,
    ranges: Mapping[str, float],
    layers: Collection[str],
    shifts: Mapping[str, NDArray[np.float32]] | None = None,
) -> ModelProto:
    """The graph with these layers in INT8.

    Args:
        model: FP32, opset 13 or later.
        ranges: tensor -> largest magnitude that INT8 represents, for all of `quantised_tensors`.
        layers: names as in `convolutions`.
        shifts: layer -> (C_out,), added to its bias; for all layers, or None.
    """
    quantised = ModelProto()
    quantised.CopyFrom(model)
    graph = quantised.graph
    del graph.node[:], graph.value_info[:]
    reads = _quantised_reads(model, layers)
    chosen = {name: node for name, node in convolutions(model).items() if name in layers}
    weights = {node.output[0]: node.input[1] for node in chosen.values()}
    shifted = {node.output[0]: (name, shifts[name]) for name, node in chosen.items()} if shifts else {}
    tensors = quantised_tensors(model, layers)
    graph.node.extend(_store_weight(graph, name) for name in sorted(set(weights.values())))
    for node in model.graph.node:
        first = node.output[0]
        copy = _reading(node, {*reads.get(first, []), *([weights[first]] if first in weights else [])})
        if first in shifted:
            _shift(graph, copy, *shifted[first])
        graph.node.append(copy)
        graph.node.extend(pair for name in node.output if name in tensors for pair in _pair(graph, name, ranges[name]))
    _drop_unread(graph)
    return quantised


def _shift(graph: GraphProto, convolution: NodeProto, layer: str, shift: NDArray[np.float32]) -> None:
    """Add to the bias of a convolution; it gets one of its own, as layers may share one."""
    constants = {constant.name: constant for constant in graph.initializer}
    bias = numpy_helper.to_array(constants[convolution.input[2]]) if len(convolution.input) > 2 else np.float32(0)
    convolution.input[2:] = [f"{layer}/shifted"]
    graph.initializer.append(numpy_helper.from_array(np.asarray(bias + shift, np.float32), f"{layer}/shifted"))


def side_by_side(model: ModelProto, ranges: Mapping[str, float], layers: Collection[str]) -> ModelProto:
    """The FP32 graph, which computes these layers once more in INT8, each on its FP32 input.

    Its outputs, one for each layer in their order: (C_out,), how much less INT8 gives, in the mean over all places.
    """
    probe = ModelProto()
    probe.CopyFrom(model)
    graph, convs = probe.graph, convolutions(model)
    axes = numpy_helper.from_array(np.array([0, 2, 3]), "places")
    graph.initializer.append(axes)
    chosen = [convs[name] for name in layers]
    for tensor in dict.fromkeys(node.input[0] for node in chosen):
        graph.node.extend(_pair(graph, tensor, ranges[tensor]))
    graph.node.extend(_store_weight(graph, name) for name in dict.fromkeys(node.input[1] for node in chosen))
    del graph.output[:]
    for name, node in zip(layers, chosen, strict=True):
        again = _reading(node, node.input[:2])
        again.name, again.output[:] = f"{name}/int8", [f"{name}/int8"]
        lost = helper.make_node("Sub", [node.output[0], again.output[0]], [f"{name}/lost"])
        mean = helper.make_node("ReduceMean", [lost.output[0], axes.name], [f"{name}/shift"], keepdims=0)
        graph.node.extend([again, lost, mean])
        graph.output.append(helper.make_tensor_value_info(mean.output[0], TensorProto.FLOAT, [None]))
    return probe


def _reading(node: NodeProto, dequantised: Collection[str]) -> NodeProto:
    """A copy of a node that reads these of its inputs after their Q/DQ pair."""
    copy = NodeProto()
    copy.CopyFrom(node)
    copy.input[:] = [_dequantised(name) if name in dequantised else name for name in node.input]
    return copy


def _dequantised(name: str) -> str:
    return f"{name}/dequantised"


def _pair(graph: GraphProto, name: str, range_: float) -> Iterator[NodeProto]:
    """Quantise and dequantise a tensor."""
    parameters = _parameters(graph, name, scales_of(np.float32(range_)), np.int8(0))
    yield helper.make_node("QuantizeLinear", [name, *parameters], [f"{name}/int8"], f"{name}/quantise")
    yield helper.make_node(
        "DequantizeLinear", [f"{name}/int8", *parameters], [_dequantised(name)], f"{name}/dequantise"
    )


def _store_weight(graph: GraphProto, name: str) -> NodeProto:
    """Store a weight as INT8; the node that makes it FP32 again, which engines take into the convolution."""
    weight = next(numpy_helper.to_array(constant) for constant in graph.initializer if constant.name == name)
    codes, scales = quantise_weight(weight)
    graph.initializer.append(numpy_helper.from_array(codes, f"{name}/int8"))
    parameters = _parameters(graph, name, scales, np.zeros(len(scales), np.int8))
    return helper.make_node(
        "DequantizeLinear", [f"{name}/int8", *parameters], [_dequantised(name)], f"{name}/dequantise", axis=0
    )


def _parameters(
    graph: GraphProto, name: str, scale: NDArray[np.float32] | np.float32, zero: NDArray[np.int8] | np.int8
) -> list[str]:
    """Add scale and zero point of a tensor to the constants; their names."""
    for part, value in (("scale", scale), ("zero", zero)):
        graph.initializer.append(numpy_helper.from_array(np.asarray(value), f"{name}/{part}"))
    return [f"{name}/scale", f"{name}/zero"]


def _drop_unread(graph: GraphProto) -> None:
    """Drop the constants that no node reads any more: the FP32 weights of the quantised layers."""
    read = {name for node in graph.node for name in node.input}
    kept = [constant for constant in graph.initializer if constant.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def scales_of(largest: NDArray[np.float32] | np.float32) -> NDArray[np.float32]:
    """The smallest scales that FP16 holds and that reach these magnitudes; 1 where there is nothing to reach.

    TensorRT gets an INT8 graph with its rest in FP16 (`edge_ad.engines.onnx_graph`), scales too: those of FP32 would
    be rounded there, and its codes would not be ours.
    """
    exact = np.asarray(largest, np.float32) / np.float32(CODES)
    scales = exact.astype(np.float16)
    scales = np.where(scales < exact, np.nextafter(scales, np.float16(np.inf)), scales)
    return np.asarray(np.where(exact > 0, scales, np.float16(1)), np.float32)


def quantise_weight(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """(C_out, ...) weights -> the same as INT8, and the (C_out,) scales that give them back."""
    largest = np.abs(weight).reshape(len(weight), -1).max(axis=1)
    scales = scales_of(largest)
    codes = np.rint(weight / scales.reshape(-1, *[1] * (weight.ndim - 1)))
    return np.clip(codes, -CODES, CODES).astype(np.int8), scales
