"""The demo is the product's own commands on real cells: what it prints has to be true."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("elpv_dataset") is None, reason="elpv-dataset is not installed"),
    pytest.mark.skipif(importlib.util.find_spec("amqtt") is None, reason="amqtt is not installed"),
]


def _demo(out: Path, *more: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "edge_ad.cli", "demo", "--out", str(out), *more]
    return subprocess.run(command, capture_output=True, text=True, timeout=280)


def test_the_demo_finds_real_defects_and_keeps_its_wish(tmp_path: Path) -> None:
    """At least 20 alarms on defects, and no more false alarms than the wish within their Clopper-Pearson interval."""
    done = _demo(tmp_path / "demo", "--json", str(tmp_path / "figures.json"))
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["complete"]
    assert figures["alarms_on_defects"] >= 20
    assert figures["false_alarm_interval"][0] <= 0.05
    assert done.stdout.count("ALARM") == figures["alarms_raised"]
    assert (tmp_path / "demo/pictures/overview.png").is_file()


def test_the_demo_refuses_a_folder_in_use(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("do not touch")
    done = _demo(tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
