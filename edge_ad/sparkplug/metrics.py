"""The metrics of the edge node (the station) and of its device (the camera), and their values.

What belongs to a part is the device's; states and alarms are the edge node's, so that hosts see the alarm of a camera
whose device is dead.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from edge_ad.core.alarm_board import ALARMS, Alarms, Rules
from edge_ad.core.alarms import shown
from edge_ad.core.health import Health
from edge_ad.core.messages import AlarmEventBody, GapBody, ResultBody, StationContext, plain_text
from edge_ad.core.plc import PLC_RESULT
from edge_ad.records import CameraState
from edge_ad.sparkplug.payload import DataType, Definition, Sample, Value

BDSEQ = Definition("bdSeq", DataType.INT64)
# Without an alias [tck-id-operational-behavior-data-commands-rebirth-name-aliases].
REBIRTH = Definition("Node Control/Rebirth", DataType.BOOLEAN)

_STATION = {
    "Properties/Software": DataType.STRING,
    "Properties/Version": DataType.STRING,
    "Properties/Boot Id": DataType.STRING,
    "Properties/Bundle": DataType.STRING,
    "Properties/Backend": DataType.STRING,
    "Properties/Simulated": DataType.BOOLEAN,
    "Station/Mode": DataType.STRING,
    "Station/Calibration": DataType.INT32,
    "Station/Detail": DataType.STRING,
    "Camera/State": DataType.STRING,
    "Camera/Detail": DataType.STRING,
}
_ALARM = {"State": DataType.STRING, "Count": DataType.INT32, "Priority": DataType.STRING}
_PART = {
    "Inspection/Seq": DataType.INT64,
    "Inspection/Seq From": DataType.INT64,
    "Inspection/Verdict": DataType.STRING,
    "Inspection/Result": DataType.INT32,
    "Inspection/Reason": DataType.STRING,
    "Inspection/Score": DataType.DOUBLE,
    "Inspection/Threshold": DataType.DOUBLE,
    "Inspection/Regions": DataType.INT32,
    "Inspection/Part Id": DataType.STRING,
    "Inspection/Trigger Id": DataType.STRING,
    "Inspection/Job Id": DataType.STRING,
    "Inspection/Recipe Id": DataType.STRING,
    "Inspection/Frame Id": DataType.INT64,
    "Inspection/Calibration": DataType.INT32,
    "Inspection/Simulated": DataType.BOOLEAN,
}

Values = Mapping[str, Value | None]  # metric name -> value


@dataclass(frozen=True, slots=True)
class Reading:
    """A value, and since when it is true, milliseconds since the epoch."""

    value: Value | None
    at_ms: int


Readings = Mapping[str, Reading]  # metric name -> reading


def _definitions(types: Mapping[str, DataType], first_alias: int) -> dict[str, Definition]:
    """An alias for each, unique within the edge node [tck-id-payloads-alias-uniqueness]."""
    numbered = enumerate(types.items(), start=first_alias)
    return {name: Definition(name, datatype, alias) for alias, (name, datatype) in numbered}


_ALARM_TYPES = {f"Alarms/{alarm}/{name}": datatype for alarm in ALARMS for name, datatype in _ALARM.items()}
NODE = _definitions(_STATION | _ALARM_TYPES, 1)
DEVICE = _definitions(_PART, 1001)


def part_values(body: ResultBody | GapBody) -> Values:
    """What a stored part, or a gap record, says: a value for each metric of the device."""
    if "seq_from" in body:
        told: dict[str, Value | None] = {
            "Seq": body["seq_to"],
            "Seq From": body["seq_from"],
            "Verdict": "not_inspected",
            "Result": PLC_RESULT["not_inspected"],
        }
    else:
        told = {
            "Seq": body["seq"],
            "Seq From": body["seq"],
            "Verdict": body["verdict"],
            "Result": PLC_RESULT[body["verdict"]],
            "Score": body["score"],
            "Threshold": body["threshold"],
            "Regions": len(body["regions"]),
            "Part Id": body["part_id"],
            "Trigger Id": body["trigger_id"],
            "Job Id": body["job_id"],
            "Recipe Id": body["recipe_id"],
            "Frame Id": body["frame_id"],
            "Calibration": body["calibration"],
        }
    told |= {"Reason": body["reason"], "Simulated": body["simulated"]}
    return dict.fromkeys(DEVICE) | {f"Inspection/{name}": value for name, value in told.items()}


def last_seq(body: ResultBody | GapBody) -> int:
    """The number of the part, or of the last one that a gap record speaks of."""
    return body["seq_to"] if "seq_to" in body else body["seq"]


def station_readings(context: StationContext, health: Health | None, at_ms: int) -> dict[str, Reading]:
    """What the station says of itself; null where it is not known yet."""
    values: dict[str, Value | None] = {
        "Properties/Software": "edge-ad",
        "Properties/Version": health.version if health else None,
        "Properties/Boot Id": context.boot_id,
        "Properties/Bundle": context.bundle,
        "Properties/Backend": f"{health.backend}/{health.precision}" if health else None,
        "Properties/Simulated": context.simulated,
        "Station/Mode": health.mode if health else None,
        "Station/Calibration": health.calibration if health else None,
        "Station/Detail": plain_text(health.detail) if health else None,
    }
    return {name: Reading(value, at_ms) for name, value in values.items()}


def camera_readings(state: CameraState | None, at_ms: int) -> dict[str, Reading]:
    """What the camera is doing; `at_ms` is for what is not known yet."""
    if state is None:
        return {"Camera/State": Reading(None, at_ms), "Camera/Detail": Reading(None, at_ms)}
    since_ms, detail = state.since_ns // 1_000_000, plain_text(state.detail)
    return {"Camera/State": Reading(state.state, since_ms), "Camera/Detail": Reading(detail, since_ms)}


def alarm_readings(alarms: Alarms, rules: Rules, at_ms: int) -> dict[str, Reading]:
    """The present states of the alarms."""
    readings: dict[str, Reading] = {}
    for alarm, state in alarms.items():
        readings |= _alarm(alarm, shown(state, rules[alarm]), state.count, rules[alarm].priority, at_ms)
    return readings


def event_readings(events: Iterable[AlarmEventBody]) -> dict[str, Reading]:
    """What stored alarm events say; of two events of one alarm the last."""
    readings: dict[str, Reading] = {}
    for event in events:
        readings |= _alarm(event["alarm"], event["state"], event["count"], event["priority"], event["captured_ms"])
    return readings


def _alarm(alarm: str, state: str, count: int, priority: str, at_ms: int) -> dict[str, Reading]:
    values: dict[str, Value] = {"State": state, "Count": 0 if state == "normal" else count, "Priority": priority}
    return {f"Alarms/{alarm}/{name}": Reading(value, at_ms) for name, value in values.items()}


def samples(definitions: Mapping[str, Definition], readings: Readings, *, historical: bool = False) -> list[Sample]:
    """Readings as samples, in chronological order [tck-id-operational-behavior-data-publish-nbirth-order]."""
    found = [Sample(definitions[name], each.value, each.at_ms, historical) for name, each in readings.items()]
    return sorted(found, key=lambda sample: sample.at_ms)


def part_samples(body: ResultBody | GapBody, *, historical: bool = False) -> list[Sample]:
    """A part as its device tells it: all metrics, of one time, so that what belongs together stays together."""
    readings = {name: Reading(value, body["captured_ms"]) for name, value in part_values(body).items()}
    return samples(DEVICE, readings, historical=historical)


def no_part_samples(at_ms: int) -> list[Sample]:
    """The same before the first part."""
    return samples(DEVICE, dict.fromkeys(DEVICE, Reading(None, at_ms)))


def changed(readings: Readings, told: Values) -> dict[str, Reading]:
    """The readings whose value is not what was told last: only these are news."""
    return {name: reading for name, reading in readings.items() if name not in told or told[name] != reading.value}
