"""The station under load while everything around it fails; `python -m benchmarks.stress` does it at full length."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.line.ordeal import IN_FLIGHT, Scale, an_ordeal, plan, write_scores
from tests.line.witness import account

SHORT = Scale(9000, 200, daemon_kills=3, broker_kills=1, broker_stops=1, cuts=1, delays=2, disk_full_s=9.0)
SEED = 20261122


@pytest.mark.slow
def test_what_was_fed_arrives_whatever_fails_on_the_way(tmp_path: Path) -> None:
    """Killed daemons, a killed broker, a cut and slow cable, a full disk: every part once, as it deserves, in order."""
    truth = write_scores(tmp_path / "scores.csv", SHORT.parts, SEED)
    happened: list[str] = []
    with an_ordeal(tmp_path, SHORT, happened.append) as ordeal:
        ordeal.run(plan(SHORT, SEED))
        report = ordeal.plc.report()
        heard = account(ordeal.witness.path, truth, SHORT.broker_kills * IN_FLIGHT)
    assert heard.faults == (), happened
    assert (report["ok"], report["faults"]) == (True, {}), happened
    assert heard.outbox_full > 0  # the disk was really full
    assert heard.boots > 1  # a run that is killed before its first part is not heard of
    assert sum("kill daemon" in line for line in happened) == SHORT.daemon_kills
    assert {kind.partition(" s  ")[2] for kind in happened} >= {"kill broker", "stop broker", "fill disk", "cut"}
    told = {part["seq"]: part["verdict"] for part in report["parts"]}
    assert {seq: verdict for seq, verdict in told.items() if verdict != "not_inspected"} == {
        seq: truth[seq - 1] for seq, verdict in told.items() if verdict != "not_inspected"
    }
