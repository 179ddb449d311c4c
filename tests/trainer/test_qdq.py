"""Where Q/DQ pairs stand, and that they are symmetric INT8: what TensorRT takes and engines fuse."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from trainer.qdq import (
    convolutions,
    left_in_fp32,
    quantise_graph,
    quantise_weight,
    quantised_tensors,
    scales_of,
    side_by_side,
    with_outputs,
)

LAYERS = ["stem", "first", "second", "up", "head"]
SIDE = 8


@pytest.fixture(scope="module")
def model() -> ModelProto:
    """A residual block, a level below it that is enlarged and added, and a head: all that the edge networks have."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Neg", ["image"], ["pixels"]),
        _conv("pixels", "stem", "a"),
        helper.make_node("Relu", ["a"], ["stem_out"]),
        _conv("stem_out", "first", "b"),
        helper.make_node("Relu", ["b"], ["first_out"]),
        _conv("first_out", "second", "c"),
        helper.make_node("Add", ["stem_out", "c"], ["joined"]),
        helper.make_node("Relu", ["joined"], ["block_out"]),
        helper.make_node("MaxPool", ["block_out"], ["small"], kernel_shape=[2, 2], strides=[2, 2]),
        _conv("small", "up", "d"),
        helper.make_node("Relu", ["d"], ["up_out"]),
        helper.make_node("Resize", ["up_out", "", "scales"], ["large"], mode="nearest"),
        helper.make_node("Add", ["large", "block_out"], ["merged"]),
        _conv("merged", "head", "result"),
    ]
    constants = {f"method.{name}.weight": rng.normal(size=(4, 4, 3, 3)).astype(np.float32) for name in LAYERS}
    constants["scales"] = np.array([1, 1, 2, 2], np.float32)
    shape = ["N", 4, SIDE, SIDE]
    graph = helper.make_graph(
        nodes,
        "block",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("result", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    found = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(found, full_check=True)
    return found


def _conv(source: str, layer: str, target: str) -> NodeProto:
    return helper.make_node("Conv", [source, f"method.{layer}.weight"], [target], pads=[1, 1, 1, 1])


def an_image() -> NDArray[np.float32]:
    return np.random.default_rng(1).normal(size=(1, 4, SIDE, SIDE)).astype(np.float32)


def widest(model: ModelProto) -> dict[str, float]:
    """Ranges as wide as what one image gives."""
    tensors = quantised_tensors(model, LAYERS)
    found = run(with_outputs(model, tensors), an_image(), tensors)
    return {name: float(np.abs(value).max()) for name, value in zip(tensors, found, strict=True)}


def quantised(model: ModelProto, layers: list[str], shifts: dict[str, NDArray[np.float32]] | None = None) -> ModelProto:
    result = quantise_graph(model, widest(model), layers, shifts)
    onnx.checker.check_model(result, full_check=True)
    return result


def run(model: ModelProto, image: NDArray[np.float32], outputs: list[str]) -> list[NDArray[np.float32]]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: list[NDArray[np.float32]] = session.run(outputs, {"image": image})
    return found


def node_of(model: ModelProto, output: str) -> NodeProto:
    return next(node for node in model.graph.node if output in node.output)


def test_a_layer_has_the_name_of_its_weights_in_the_order_of_the_graph(model: ModelProto) -> None:
    assert list(convolutions(model)) == LAYERS


def test_layers_that_share_weights_are_told_apart(model: ModelProto) -> None:
    twice = ModelProto()
    twice.CopyFrom(model)
    node_of(twice, "b").input[1] = "method.stem.weight"
    assert list(convolutions(twice)) == ["stem", "stem (2)", "second", "up", "head"]
    assert quantised_tensors(twice, ["stem", "stem (2)"]) == ["pixels", "stem_out"]
    onnx.checker.check_model(
        quantise_graph(twice, {"pixels": 1.0, "stem_out": 1.0}, ["stem", "stem (2)"]), full_check=True
    )


def test_a_layer_that_reads_a_concatenation_stays_in_fp32(model: ModelProto) -> None:
    """OpenVINO would compute something else."""
    joined = ModelProto()
    joined.CopyFrom(model)
    node_of(joined, "pixels").CopyFrom(helper.make_node("Concat", ["image"], ["pixels"], axis=1))
    assert list(convolutions(joined)) == LAYERS[1:]
    assert left_in_fp32(joined) == LAYERS[:1]


def test_every_pair_is_symmetric_int8(model: ModelProto) -> None:
    """TensorRT refuses a zero point that is not 0, and knows no uint8."""
    result = quantised(model, LAYERS)
    constants = {constant.name: numpy_helper.to_array(constant) for constant in result.graph.initializer}
    zeros = [constants[node.input[2]] for node in result.graph.node if node.op_type.endswith("eLinear")]
    assert zeros
    assert all(zero.dtype == np.int8 and not zero.any() for zero in zeros)


def test_weights_have_a_scale_for_each_output_channel_and_activations_one(model: ModelProto) -> None:
    result = quantised(model, LAYERS)
    constants = {constant.name: numpy_helper.to_array(constant) for constant in result.graph.initializer}
    for conv in (node for node in result.graph.node if node.op_type == "Conv"):
        of_input, of_weight = (node_of(result, name) for name in conv.input[:2])
        assert constants[of_weight.input[1]].shape == (4,)
        assert [attribute.i for attribute in of_weight.attribute] == [0]
        if of_input.op_type == "DequantizeLinear":
            assert constants[of_input.input[1]].shape == ()


def test_nothing_stands_between_a_convolution_and_its_activation(model: ModelProto) -> None:
    result = quantised(model, LAYERS)
    convs = {node.output[0] for node in result.graph.node if node.op_type == "Conv"}
    readers = {name: node.op_type for node in result.graph.node for name in node.input if name in convs}
    assert set(readers.values()) == {"Relu", "Add"}


def test_a_branch_is_quantised_and_the_convolution_it_joins_is_not(model: ModelProto) -> None:
    assert list(node_of(quantised(model, LAYERS), "joined").input) == ["stem_out/dequantised", "c"]


@pytest.mark.parametrize("swapped", [False, True])
def test_of_two_convolutions_that_are_added_the_later_one_takes_the_addition(
    model: ModelProto, *, swapped: bool
) -> None:
    """Its kernel finds the other's output ready; the other way round nothing fuses."""
    linear = ModelProto()
    linear.CopyFrom(model)
    node_of(linear, "joined").input[:] = ["c", "a"] if swapped else ["a", "c"]
    result = quantise_graph(linear, dict.fromkeys(quantised_tensors(linear, LAYERS), 1.0), LAYERS)
    onnx.checker.check_model(result, full_check=True)
    assert set(node_of(result, "joined").input) == {"a/dequantised", "c"}


def test_a_constant_that_is_added_is_no_branch(model: ModelProto) -> None:
    added = ModelProto()
    added.CopyFrom(model)
    node_of(added, "joined").input[0] = "shift"
    added.graph.initializer.append(numpy_helper.from_array(np.ones((1, 4, 1, 1), np.float32), "shift"))
    result = quantise_graph(added, dict.fromkeys(quantised_tensors(added, LAYERS), 1.0), LAYERS)
    onnx.checker.check_model(result, full_check=True)
    assert list(node_of(result, "joined").input) == ["shift", "c"]


def test_what_is_enlarged_is_quantised_before(model: ModelProto) -> None:
    result = quantised(model, LAYERS)
    assert node_of(result, "large").input[0] == "up_out/dequantised"
    assert list(node_of(result, "merged").input) == ["large", "block_out/dequantised"]


def test_a_layer_that_stays_in_fp32_keeps_its_inputs_and_weights(model: ModelProto) -> None:
    result = quantised(model, ["stem", "first"])
    assert list(node_of(result, "c").input) == ["first_out", "method.second.weight"]
    assert list(node_of(result, "joined").input) == ["stem_out", "c"]
    names = {constant.name for constant in result.graph.initializer}
    assert "method.second.weight" in names
    assert "method.first.weight" not in names


@given(layers=st.sets(st.sampled_from(LAYERS)))
def test_any_choice_of_layers_needs_only_ranges_that_were_observed_for_all(model: ModelProto, layers: set[str]) -> None:
    assert set(quantised_tensors(model, layers)) <= set(quantised_tensors(model, LAYERS))


@pytest.mark.parametrize("layers", [LAYERS, LAYERS[:2], []])
def test_int8_is_near_fp32_on_what_its_ranges_are_from(model: ModelProto, layers: list[str]) -> None:
    [found], [expected] = (run(graph, an_image(), ["result"]) for graph in (quantised(model, layers), model))
    assert np.abs(found - expected).max() <= (0.05 if layers else 0) * np.abs(expected).max()


def lost(model: ModelProto) -> dict[str, NDArray[np.float32]]:
    """What `side_by_side` says of each layer, for one image."""
    probe = side_by_side(model, widest(model), LAYERS)
    onnx.checker.check_model(probe, full_check=True)
    return dict(zip(LAYERS, run(probe, an_image(), [output.name for output in probe.graph.output]), strict=True))


@pytest.mark.parametrize(("layer", "output"), [("stem", "a"), ("second", "c"), ("up", "d")])
def test_what_a_layer_loses_in_int8_is_measured_on_its_fp32_input(model: ModelProto, layer: str, output: str) -> None:
    """The graph with that layer alone in INT8 says the same: the mean over a channel's places."""
    alone = quantise_graph(model, widest(model), [layer])
    [expected], [found] = (run(with_outputs(graph, [output]), an_image(), [output]) for graph in (model, alone))
    mean = (expected - found).mean(axis=(0, 2, 3))
    assert np.abs(mean).max() > 0
    assert lost(model)[layer] == pytest.approx(mean, abs=1e-5)


def test_a_shift_is_added_to_the_bias_of_its_layer_alone(model: ModelProto) -> None:
    """Also where two layers share one, and where there was none."""
    biased = ModelProto()
    biased.CopyFrom(model)
    biased.graph.initializer.append(numpy_helper.from_array(np.ones(4, np.float32), "shared"))
    for output in ("a", "b"):
        node_of(biased, output).input.append("shared")
    shifts = {name: np.full(4, index, np.float32) for index, name in enumerate(LAYERS)}
    result = quantised(biased, ["first", "second"], shifts)
    constants = {constant.name: numpy_helper.to_array(constant) for constant in result.graph.initializer}
    assert node_of(result, "a").input[2] == "shared"
    assert (constants[node_of(result, "b").input[2]] == 1 + 1).all()
    assert (constants[node_of(result, "c").input[2]] == 2).all()
    assert len(node_of(result, "d").input) == 2


def test_with_its_shift_a_layer_loses_nothing_in_the_mean(model: ModelProto) -> None:
    shifted = quantised(model, ["stem"], lost(model))
    [expected], [found] = (run(with_outputs(graph, ["a"]), an_image(), ["a"]) for graph in (model, shifted))
    assert (expected - found).mean(axis=(0, 2, 3)) == pytest.approx(np.zeros(4), abs=1e-5)


@given(hnp.arrays(np.float32, (3, 2, 3, 3), elements=st.integers(-(2**20), 2**20)))
def test_a_stored_weight_is_off_by_half_a_step_at_most(weight: NDArray[np.float32]) -> None:
    codes, scales = quantise_weight(weight)
    assert (scales == scales.astype(np.float16)).all()
    restored = codes * scales.reshape(-1, 1, 1, 1)
    assert codes.min() >= -127
    assert (np.abs(restored - weight) <= 0.5001 * scales.reshape(-1, 1, 1, 1)).all()


@given(hnp.arrays(np.float32, 20, elements=st.floats(0, 2.0**20, width=32)))
def test_a_scale_is_the_next_that_fp16_holds(largest: NDArray[np.float32]) -> None:
    scales = scales_of(largest)
    assert (scales == scales.astype(np.float16)).all()
    exact = largest / np.float32(127)
    assert (scales[exact == 0] == 1).all()
    exact, found = exact[exact > 0], scales[exact > 0].astype(np.float16)
    assert (found >= exact).all()
    assert (np.nextafter(found, np.float16(0)) < exact).all()
