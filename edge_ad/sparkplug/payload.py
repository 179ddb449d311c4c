"""Sparkplug B payloads: metrics to bytes, and what of a command concerns us back from bytes.

The field numbers are those of the specification's message definition (chapter 6, "Google Protocol Buffer Schema").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from edge_ad.core.payload import MalformedError
from edge_ad.sparkplug import wire

Value = int | float | bool | str

# Payload
_TIMESTAMP, _METRICS, _SEQ = 1, 2, 3
# Payload.Metric
_NAME, _ALIAS, _METRIC_TIMESTAMP, _DATATYPE, _IS_HISTORICAL, _IS_NULL = 1, 2, 3, 4, 5, 7
_INT, _LONG, _DOUBLE, _BOOLEAN, _STRING = 10, 11, 13, 14, 15


class DataType(IntEnum):
    """Those of Sparkplug's data types that we use, under their numbers."""

    INT32 = 3
    INT64 = 4
    DOUBLE = 10
    BOOLEAN = 11
    STRING = 12


@dataclass(frozen=True, slots=True)
class Definition:
    """A metric as its birth declares it.

    Attributes:
        name: with slashes for folders.
        datatype: of its values.
        alias: names it in data messages; None: its name does.
    """

    name: str
    datatype: DataType
    alias: int | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """A value of a metric.

    Attributes:
        metric: of which metric.
        value: None where there is none.
        at_ms: when it was true, milliseconds since the epoch, UTC.
        historical: it is not to be taken for the present value.
    """

    metric: Definition
    value: Value | None
    at_ms: int
    historical: bool = False


def birth(samples: Sequence[Sample], at_ms: int, seq: int | None) -> bytes:
    """A payload that declares its metrics: NBIRTH, DBIRTH, and NDEATH, which has no `seq`.

    Each metric has name, alias, data type and value [tck-id-payloads-alias-birth-requirement,
    tck-id-payloads-metric-datatype-req].
    """
    return _payload(at_ms, [_declared(sample) + _reading(sample) for sample in samples], seq)


def data(samples: Sequence[Sample], at_ms: int, seq: int) -> bytes:
    """A payload with values of metrics that were declared: NDATA and DDATA; DDEATH, without any.

    Each has its alias and neither name nor data type [tck-id-payloads-alias-data-cmd-requirement,
    tck-id-payloads-metric-datatype-not-req].
    """
    return _payload(at_ms, [_named(sample) + _reading(sample) for sample in samples], seq)


def switched_on(command: bytes) -> frozenset[str]:
    """The names of the metrics that an NCMD sets to true.

    Raises:
        MalformedError: it is not a Sparkplug payload.
    """
    metrics = [value for number, value in wire.fields(command) if number == _METRICS]
    return frozenset(name for name, value in map(_name_and_boolean, metrics) if value and name is not None)


def _payload(at_ms: int, metrics: Sequence[bytes], seq: int | None) -> bytes:
    parts = [wire.varint(_TIMESTAMP, at_ms), *(wire.delimited(_METRICS, metric) for metric in metrics)]
    return b"".join(parts) + (wire.varint(_SEQ, seq) if seq is not None else b"")


def _declared(sample: Sample) -> bytes:
    metric = sample.metric
    alias = wire.varint(_ALIAS, metric.alias) if metric.alias is not None else b""
    return b"".join(
        (
            wire.delimited(_NAME, metric.name.encode()),
            alias,
            wire.varint(_METRIC_TIMESTAMP, sample.at_ms),
            wire.varint(_DATATYPE, metric.datatype),
        )
    )


def _named(sample: Sample) -> bytes:
    alias = sample.metric.alias
    name = wire.varint(_ALIAS, alias) if alias is not None else wire.delimited(_NAME, sample.metric.name.encode())
    return name + wire.varint(_METRIC_TIMESTAMP, sample.at_ms)


def _reading(sample: Sample) -> bytes:
    historical = wire.varint(_IS_HISTORICAL, True) if sample.historical else b""
    if sample.value is None:
        return historical + wire.varint(_IS_NULL, True)
    return historical + _value(sample.metric.datatype, sample.value)


def _value(datatype: DataType, value: Value) -> bytes:
    """The value in the field of its type; a negative integer as its two's complement."""
    if datatype is DataType.INT32:
        return wire.varint(_INT, int(value) % 2**32)
    if datatype is DataType.INT64:
        return wire.varint(_LONG, int(value) % wire.UINT64)
    if datatype is DataType.DOUBLE:
        return wire.double(_DOUBLE, float(value))
    if datatype is DataType.BOOLEAN:
        return wire.varint(_BOOLEAN, bool(value))
    return wire.delimited(_STRING, str(value).encode())


def _name_and_boolean(metric: int | bytes) -> tuple[str | None, bool]:
    if isinstance(metric, int):
        raise MalformedError("a metric that is no message")
    name, value = None, False
    for number, field in wire.fields(metric):
        if number == _NAME and isinstance(field, bytes):
            name = field.decode("utf-8", "replace")
        elif number == _BOOLEAN and isinstance(field, int):
            value = bool(field)
    return name, value
