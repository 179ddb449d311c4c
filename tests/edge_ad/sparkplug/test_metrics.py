"""What a station tells of itself and of its parts, and under which names."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
import yaml

from edge_ad.config import SparkplugConfig
from edge_ad.core.alarm_board import ALARMS, DEFAULT_RULES, NO_ALARMS
from edge_ad.core.health import Health
from edge_ad.core.messages import ResultBody, StationContext, gap_body, result_body
from edge_ad.records import CameraState, Decision, Event, Region, Trigger, Verdict
from edge_ad.sparkplug import metrics
from edge_ad.sparkplug.metrics import Reading
from edge_ad.sparkplug.payload import DataType

DOCS = (Path(__file__).parents[3] / "docs" / "sparkplug.md").read_text(encoding="utf-8")
TYPES = {DataType.INT32: "Int32", DataType.INT64: "Int64", DataType.DOUBLE: "Double", DataType.BOOLEAN: "Boolean"}
TRIGGER = Trigger("trigger-9", "part-21", "order-4", "cap-red")
CONTEXT = StationContext("press-3", "boot-1", "digest", simulated=False)


def result(verdict: Verdict, reason: str | None = None) -> ResultBody:
    regions = (Region(1, 2, 3, 4, 12, 0.75),) if verdict == "defect" else ()
    decision = Decision(verdict, reason, 0.25, 0.5, regions, calibration=4)
    return result_body(CONTEXT, 17, Event("top", 21, "part-21", TRIGGER, 5_000_000, decision))


def test_an_alias_names_one_metric_of_the_edge_node_and_its_device() -> None:
    """tck-id-payloads-alias-uniqueness."""
    every = [*metrics.NODE.values(), *metrics.DEVICE.values()]
    assert len({each.alias for each in every}) == len(every)


def test_no_two_names_differ_only_in_case() -> None:
    """tck-id-case-sensitivity-metric-names."""
    every = [*metrics.NODE, *metrics.DEVICE]
    assert len({name.lower() for name in every}) == len(every)


def test_what_hosts_control_has_no_alias() -> None:
    """tck-id-operational-behavior-data-commands-rebirth-name-aliases."""
    assert metrics.REBIRTH.alias is None
    assert metrics.BDSEQ.alias is None


@pytest.mark.parametrize(("verdict", "code"), [("ok", 1), ("defect", 2), ("not_inspected", 0)])
def test_a_part_is_told_whole_and_never_good_by_silence(verdict: Verdict, code: int) -> None:
    values = metrics.part_values(result(verdict, "late" if verdict == "not_inspected" else None))
    assert values.keys() == metrics.DEVICE.keys()
    assert values["Inspection/Verdict"] == verdict
    assert values["Inspection/Result"] == code
    assert values["Inspection/Seq"] == values["Inspection/Seq From"] == 17
    assert values["Inspection/Part Id"] == "part-21"
    assert values["Inspection/Trigger Id"] == "trigger-9"
    assert (values["Inspection/Job Id"], values["Inspection/Recipe Id"]) == ("order-4", "cap-red")
    assert values["Inspection/Regions"] == (1 if verdict == "defect" else 0)


def test_a_gap_record_says_which_parts_were_not_inspected() -> None:
    values = metrics.part_values(gap_body(CONTEXT, 5, 9, "outbox_full", 0))
    assert values.keys() == metrics.DEVICE.keys()
    assert (values["Inspection/Seq From"], values["Inspection/Seq"]) == (5, 9)
    assert (values["Inspection/Verdict"], values["Inspection/Result"]) == ("not_inspected", 0)
    assert values["Inspection/Score"] is None


def test_all_metrics_of_a_part_have_the_time_of_its_capture() -> None:
    assert {sample.at_ms for sample in metrics.part_samples(result("ok"))} == {5}
    assert all(sample.historical for sample in metrics.part_samples(result("ok"), historical=True))


def test_the_edge_node_tells_every_metric_from_its_first_birth_on() -> None:
    """tck-id-topics-nbirth-metric-reqs: what is not known yet is null."""
    health = Health("0.1.0", "onnxruntime", "fp32", 4, "", 0)
    for known in (None, health):
        camera = CameraState("top", "fault", "unplugged", 7_000_000) if known else None
        readings = {
            **metrics.station_readings(CONTEXT, known, 9),
            **metrics.camera_readings(camera, 9),
            **metrics.alarm_readings(NO_ALARMS, DEFAULT_RULES, 9),
        }
        assert readings.keys() == metrics.NODE.keys()
        assert (readings["Station/Calibration"].value, readings["Camera/State"].value) == (
            (4, "fault") if known else (None, None)
        )
        assert {f"Alarms/{alarm}/State" for alarm in ALARMS} <= readings.keys()


def test_values_are_told_in_the_order_of_their_times() -> None:
    """tck-id-operational-behavior-data-publish-nbirth-order."""
    readings = {
        "Station/Mode": Reading("run", 9),
        "Camera/State": Reading("online", 3),
        "Camera/Detail": Reading("", 9),
    }
    assert [sample.at_ms for sample in metrics.samples(metrics.NODE, readings)] == [3, 9, 9]


def test_only_what_has_changed_is_news() -> None:
    """tck-id-operational-behavior-data-publish-nbirth-change."""
    readings = {"a": Reading(1, 5), "b": Reading(None, 5), "c": Reading(2, 5), "d": Reading(None, 5)}
    told = cast(metrics.Values, {"a": 1, "b": None, "c": 3})
    assert metrics.changed(readings, told).keys() == {"c", "d"}


def documented() -> dict[str, str]:
    """Name -> type, of the tables in docs/sparkplug.md."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in DOCS.splitlines() if line.startswith("| `")]
    metrics_rows = [row for row in rows if "spBv1.0" not in row[0]]
    return {name.strip("` "): kind for names, kind, _ in metrics_rows for name in names.split(", ")}


def test_the_documentation_lists_every_metric_with_its_type() -> None:
    every = {each.name: each for each in (metrics.BDSEQ, metrics.REBIRTH)} | metrics.NODE | metrics.DEVICE
    types = {name: TYPES.get(each.datatype, "String") for name, each in every.items()}
    for alarm in ALARMS:
        types = {name.replace(f"Alarms/{alarm}/", "Alarms/<alarm>/"): kind for name, kind in types.items()}
    assert documented() == types


def test_the_section_of_the_documentation_is_valid() -> None:
    section = yaml.safe_load(DOCS.split("```yaml")[1].split("```")[0])
    assert SparkplugConfig.model_validate(section["sparkplug"]).primary_host_id == "scada"
