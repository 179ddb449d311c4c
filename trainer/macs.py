"""Count the multiply-accumulates of an exported graph: Conv, Gemm and MatMul, for one image."""

from __future__ import annotations

import math

from onnx import ModelProto, NodeProto, shape_inference


def count_macs(model: ModelProto) -> int:
    """MACs of a graph at N = 1.

    Raises:
        ValueError: a shape that the count needs cannot be inferred.
    """
    fixed = ModelProto()
    fixed.CopyFrom(model)
    for value in [*fixed.graph.input, *fixed.graph.output]:
        dims = value.type.tensor_type.shape.dim
        if dims and dims[0].dim_param:
            dims[0].dim_value = 1
    fixed.graph.ClearField("value_info")  # recorded with N free; inferred anew with N = 1
    fixed = shape_inference.infer_shapes(fixed, data_prop=True)
    shapes = _shapes(fixed)
    return sum(_node_macs(node, shapes) for node in fixed.graph.node)


def _shapes(model: ModelProto) -> dict[str, list[int]]:
    graph = model.graph
    shapes = {initializer.name: list(initializer.dims) for initializer in graph.initializer}
    for value in [*graph.value_info, *graph.input, *graph.output]:
        shapes[value.name] = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
    return shapes


def _node_macs(node: NodeProto, shapes: dict[str, list[int]]) -> int:
    if node.op_type not in ("Conv", "Gemm", "MatMul"):
        return 0
    out, operand = shapes.get(node.output[0]), shapes.get(node.input[1])
    if not out or not operand or 0 in out or 0 in operand:
        raise ValueError(f"no shape for {node.op_type} {node.name}: {out}, {operand}")
    if node.op_type == "Conv":
        return math.prod(out) * math.prod(operand[1:])  # (C_out, C_in / groups, kh, kw)
    transposed = node.op_type == "Gemm" and any(a.name == "transB" and a.i for a in node.attribute)
    return math.prod(out) * operand[-1 if transposed else -2]
