"""Rules of configs/station: each kind of camera has its example, and each example is a valid configuration."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from edge_ad import config
from edge_ad.cameras.base import KINDS
from edge_ad.errors import ConfigError
from tests.station import config as station_config

EXAMPLES = sorted((Path(__file__).parents[1] / "configs" / "station").iterdir())


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_every_example_loads(path: Path) -> None:
    assert config.load(path).camera.kind == path.stem


def test_each_trigger_that_an_example_offers_is_a_valid_one(tmp_path: Path) -> None:
    text = (EXAMPLES[0].parent / "v4l2.yaml").read_text(encoding="utf-8")
    lines = re.findall(r"^(?:# )?(trigger: \{.*?\})", text, flags=re.MULTILINE)
    offered = [yaml.safe_load(line)["trigger"] for line in lines]
    assert [trigger["kind"] for trigger in offered] == ["free", "command", "gpio", "interval", "camera"]
    for trigger in offered:
        camera = {"kind": "v4l2", "device": "/dev/video0", "hardware_trigger": trigger["kind"] == "camera"}
        loaded = station_config(tmp_path, camera, {"trigger": trigger, "commands": {"enabled": True}})
        assert loaded.trigger.kind == trigger["kind"]


@pytest.mark.parametrize(
    ("sections", "problem"),
    [
        ({"trigger": {"kind": "command"}}, "set commands.enabled to true"),
        ({"trigger": {"kind": "camera"}}, "hardware_trigger"),
        ({"trigger": {"kind": "fly"}}, "trigger"),
        ({"trigger": {"kind": "free", "timeout_s": 1}}, "timeout_s"),
        ({"trigger": {"kind": "gpio"}}, "trigger.gpio.line"),
    ],
)
def test_triggers_that_cannot_come_are_refused(sections: dict[str, Any], problem: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape(problem)):
        station_config(tmp_path, {"kind": "folder", "path": "parts"}, sections)


@pytest.mark.parametrize(
    ("key", "written", "problem"),
    [
        ("camera", "camra", "camra: no such key; missing beside it: camera"),
        ("path", "pth", "camera.folder.pth: no such key; missing beside it: path"),
        ("at_end", "atend", "camera.folder.atend: no such key"),
    ],
)
def test_a_misspelt_key_is_named(key: str, written: str, problem: str, tmp_path: Path) -> None:
    text = (EXAMPLES[0].parent / "folder.yaml").read_text(encoding="utf-8")
    path = tmp_path / "station.yaml"
    path.write_text(re.sub(rf"^( *){key}:", rf"\1{written}:", text, flags=re.MULTILINE), encoding="utf-8")
    with pytest.raises(ConfigError, match=re.escape(f"{path}: {problem}") + "$"):
        config.load(path)


def test_every_kind_of_camera_has_its_example_and_its_opener() -> None:
    union, _ = get_args(config.Camera)
    kinds = {get_args(camera.model_fields["kind"].annotation)[0] for camera in get_args(union)}
    assert kinds == {path.stem for path in EXAMPLES} == set(KINDS)


@pytest.mark.parametrize(
    ("alarms", "problem"),
    [
        ({"defect": {"raise_parts": 3, "of_parts": 2}}, "raise_parts 3 cannot be more than of_parts 2"),
        ({"defect": {"suppressed_by": ["defect"]}}, "defect.suppressed_by names the alarm itself"),
        ({"camera": {"raise_parts": 2}}, "alarms.camera.raise_parts"),
        ({"camera": {"latch": True}}, "set commands.enabled to true"),
    ],
)
def test_alarm_rules_that_cannot_hold_are_refused(alarms: dict[str, Any], problem: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape(problem)):
        station_config(tmp_path, {"kind": "folder", "path": "parts"}, {"alarms": alarms})


@pytest.mark.parametrize(
    ("added", "problem"),
    [
        ("mqtt:\n  keepalive_s: 30\n", "mqtt is there twice"),
        ("plc: {deadline_s: 1, deadline_s: 2}\n", "deadline_s is there twice"),
        ("job: 2026-02-30\n", "day"),
        ("job: " + "[" * 2000, "not YAML"),
    ],
)
def test_a_key_that_is_there_twice_and_what_is_no_value_are_refused_in_one_line(
    added: str, problem: str, tmp_path: Path
) -> None:
    text = (EXAMPLES[0].parent / "folder.yaml").read_text(encoding="utf-8")
    (tmp_path / "station.yaml").write_text(text + "\n" + added, encoding="utf-8")
    with pytest.raises(ConfigError, match=problem) as refused:
        config.load(tmp_path / "station.yaml")
    assert "\n" not in str(refused.value)


def test_a_home_directory_that_nobody_has_is_named(tmp_path: Path) -> None:
    text = (EXAMPLES[0].parent / "folder.yaml").read_text(encoding="utf-8")
    changed = re.sub(r"^bundle: \S+", "bundle: ~nobody-of-that-name/bundle", text, flags=re.MULTILINE)
    (tmp_path / "station.yaml").write_text(changed, encoding="utf-8")
    with pytest.raises(ConfigError, match="bundle: nobody here has the home directory"):
        config.load(tmp_path / "station.yaml")
