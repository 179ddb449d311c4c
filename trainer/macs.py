"""Count the multiply-accumulates of an exported graph: Conv, Gemm and MatMul, for one image."""

from __future__ import annotations

import math
from dataclasses import dataclass

from onnx import ModelProto, NodeProto, shape_inference


@dataclass(frozen=True, slots=True)
class Layer:
    """One convolution or matrix product, for one image.

    Attributes:
        name: of its node.
        macs: multiply-accumulates.
        elements: of its inputs and output together, weights included.
    """

    name: str
    macs: int
    elements: int


def count_macs(model: ModelProto) -> int:
    """MACs of a graph at N = 1.

    Raises:
        ValueError: a shape that the count needs cannot be inferred.
    """
    return sum(layer.macs for layer in layers(model))


def layers(model: ModelProto, images: int = 1) -> list[Layer]:
    """The layers that multiply, in the order of the graph, with N images at once.

    Raises:
        ValueError: a shape that the count needs cannot be inferred.
    """
    fixed = ModelProto()
    fixed.CopyFrom(model)
    for value in [*fixed.graph.input, *fixed.graph.output]:
        dims = value.type.tensor_type.shape.dim
        if dims and dims[0].dim_param:
            dims[0].dim_value = images
    fixed.graph.ClearField("value_info")  # recorded with N free; inferred anew with N given
    fixed = shape_inference.infer_shapes(fixed, data_prop=True)
    shapes = _shapes(fixed)
    return [_layer(node, shapes) for node in fixed.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]


def _shapes(model: ModelProto) -> dict[str, list[int]]:
    graph = model.graph
    shapes = {initializer.name: list(initializer.dims) for initializer in graph.initializer}
    for value in [*graph.value_info, *graph.input, *graph.output]:
        shapes[value.name] = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
    return shapes


def _layer(node: NodeProto, shapes: dict[str, list[int]]) -> Layer:
    known = [shapes.get(name, []) for name in [*node.input, *node.output] if name]
    if any(not shape or 0 in shape for shape in known):
        raise ValueError(f"no shape for {node.op_type} {node.name}: {known}")
    return Layer(node.name, _node_macs(node, shapes), sum(map(math.prod, known)))


def _node_macs(node: NodeProto, shapes: dict[str, list[int]]) -> int:
    out, operand = shapes[node.output[0]], shapes[node.input[1]]
    if node.op_type == "Conv":
        return math.prod(out) * math.prod(operand[1:])  # (C_out, C_in / groups, kh, kw)
    transposed = node.op_type == "Gemm" and any(a.name == "transB" and a.i for a in node.attribute)
    return math.prod(out) * operand[-1 if transposed else -2]
