"""What we encode is what protobuf reads, by the specification's own message definition."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("google.protobuf", reason="protobuf, the reference to check against, is not installed")

from edge_ad.core.payload import MalformedError
from edge_ad.sparkplug import payload, wire
from edge_ad.sparkplug.payload import DataType, Definition, Sample, Value
from tests.edge_ad.sparkplug.definition import DATA_TYPES, Payload, decode

MILLISECONDS = st.integers(0, 2**63)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
VALUES: dict[DataType, st.SearchStrategy[Any]] = {
    DataType.INT32: st.integers(-(2**31), 2**31 - 1),
    DataType.INT64: st.integers(-(2**63), 2**63 - 1),
    DataType.DOUBLE: st.floats(),
    DataType.BOOLEAN: st.booleans(),
    DataType.STRING: NAMES | st.just(""),
}
FIELDS = {
    DataType.INT32: "int_value",
    DataType.INT64: "long_value",
    DataType.DOUBLE: "double_value",
    DataType.BOOLEAN: "boolean_value",
    DataType.STRING: "string_value",
}


@st.composite
def samples(draw: st.DrawFn) -> Sample:
    datatype = draw(st.sampled_from(list(DataType)))
    definition = Definition(draw(NAMES), datatype, draw(st.none() | st.integers(0, 2**64 - 1)))
    return Sample(definition, draw(st.none() | VALUES[datatype]), draw(MILLISECONDS), draw(st.booleans()))


def value_of(metric: Any, datatype: DataType) -> Value | None:
    """The value of a metric as a host reads it: integers are two's complement."""
    field = metric.WhichOneof("value")
    if field is None:
        assert metric.is_null
        return None
    assert field == FIELDS[datatype]
    value: Value = getattr(metric, field)
    bits = {DataType.INT32: 32, DataType.INT64: 64}.get(datatype)
    if bits is not None and isinstance(value, int) and value >= 2 ** (bits - 1):
        return value - 2**bits
    return value


def same(value: Value | None, expected: Value | None) -> bool:
    if isinstance(expected, float) and math.isnan(expected):
        return isinstance(value, float) and math.isnan(value)
    return value == expected and type(value) is type(expected)


@given(st.lists(samples(), max_size=5), MILLISECONDS, st.integers(0, 255))
def test_a_birth_declares_each_metric_with_its_value(found: list[Sample], at_ms: int, seq: int) -> None:
    read = decode(payload.birth(found, at_ms, seq))
    assert (read.timestamp, read.seq) == (at_ms, seq)
    assert len(read.metrics) == len(found)
    for metric, sample in zip(read.metrics, found, strict=True):
        declared = sample.metric
        assert (metric.name, metric.datatype) == (declared.name, int(declared.datatype))
        assert metric.HasField("alias") == (declared.alias is not None)
        assert metric.alias == (declared.alias or 0)
        assert metric.timestamp == sample.at_ms
        assert metric.is_historical == sample.historical
        assert same(value_of(metric, declared.datatype), sample.value)


@given(st.lists(samples(), max_size=5), MILLISECONDS, st.integers(0, 255))
def test_data_names_a_metric_by_its_alias_alone(found: list[Sample], at_ms: int, seq: int) -> None:
    """tck-id-payloads-alias-data-cmd-requirement, tck-id-payloads-metric-datatype-not-req."""
    read = decode(payload.data(found, at_ms, seq))
    assert (read.timestamp, read.seq) == (at_ms, seq)
    for metric, sample in zip(read.metrics, found, strict=True):
        has_alias = sample.metric.alias is not None
        assert metric.HasField("alias") == has_alias
        assert metric.HasField("name") == (not has_alias)
        assert not metric.HasField("datatype")
        assert metric.timestamp == sample.at_ms
        assert same(value_of(metric, sample.metric.datatype), sample.value)


def test_a_payload_has_a_sequence_number_only_where_one_is_given() -> None:
    """tck-id-payloads-ndeath-seq; number 0 is a number."""
    assert not decode(payload.birth([], 1, None)).HasField("seq")
    assert decode(payload.birth([], 1, 0)).HasField("seq")


def test_the_data_types_have_the_numbers_of_the_specification() -> None:
    assert {each.name: int(each) for each in DataType} == {
        name.upper(): number for name, number in DATA_TYPES.items() if name != "Float"
    }


@given(st.dictionaries(NAMES, st.booleans() | st.integers(0, 9) | st.text(max_size=3), max_size=5))
def test_a_command_switches_on_what_it_sets_to_true(written: dict[str, Any]) -> None:
    command = Payload(timestamp=1)
    for name, value in written.items():
        metric = command.metrics.add(name=name, timestamp=2, datatype=11)
        field = {bool: "boolean_value", int: "int_value", str: "string_value"}[type(value)]
        setattr(metric, field, value)
    wanted = {name for name, value in written.items() if value is True}
    assert payload.switched_on(command.SerializeToString()) == wanted


@given(st.binary(max_size=200))
def test_whatever_comes_as_a_command_is_read_or_refused(command: bytes) -> None:
    """And what protobuf refuses for its form, we never take for a command."""
    try:
        payload.switched_on(command)
    except MalformedError:
        return


@given(st.binary(max_size=60), st.data())
def test_a_command_that_was_cut_is_refused(text: bytes, data: st.DataObject) -> None:
    whole = wire.delimited(2, wire.delimited(1, text) + wire.varint(14, 1))
    cut = data.draw(st.integers(1, len(whole) - 1))
    with pytest.raises(MalformedError):
        payload.switched_on(whole[:cut])


def test_a_number_that_no_field_can_hold_is_refused() -> None:
    for value in (-1, 2**64):
        with pytest.raises(ValueError, match="unsigned 64-bit"):
            wire.varint(1, value)
