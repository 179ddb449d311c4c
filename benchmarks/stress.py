"""A station under load while everything around it fails: 100,000 parts at 200 a second, and what became of each.

    python -m benchmarks.stress [--parts 100000] [--rate 200] [--broker-kills 4] [--seed N] [--work DIR]

Plays known scores through the real daemon. At times that the seed decides, the broker is killed in the middle of the
traffic and started again, the cable is cut or delays everything, the daemon is killed with SIGKILL ten times, and its
disk is filled once. What was fed is compared with what two consumers heard, which both ask for what a killed broker has
lost: edge-ad plc-sim --replay, and mosquitto_sub, whose every copy is counted. Exit code 0 only if every promise was
kept. Root, mosquitto, iproute2 and /dev/net/tun; about 10 minutes, mostly waiting.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from tests.line.ordeal import IN_FLIGHT, Scale, an_ordeal, plan, write_scores
from tests.line.witness import Account, account


def run(folder: Path, scale: Scale, seed: int) -> tuple[Account, dict[str, Any]]:
    """What the witness heard, and the report of the virtual PLC."""
    folder.mkdir(parents=True, exist_ok=True)
    truth = write_scores(folder / "scores.csv", scale.parts, seed)
    with an_ordeal(folder, scale, lambda line: print(line, flush=True)) as ordeal:
        ordeal.run(plan(scale, seed))
        return account(ordeal.witness.path, truth, scale.broker_kills * IN_FLIGHT), ordeal.plc.report()


def show(heard: Account, report: dict[str, Any]) -> bool:
    """Print the figures; whether every promise was kept."""
    verdicts = ", ".join(f"{verdict} {count}" for verdict, count in sorted(heard.verdicts.items()))
    copies = ", ".join(f"{kind} {count}" for kind, count in sorted(heard.copies.items()))
    print(f"parts         {verdicts}; without room {heard.outbox_full}, {heard.gap_parts} of them in gap records")
    print(f"raw copies    {copies or 'none'}; runs of the daemon {heard.boots}, alarm events {heard.events}")
    print(f"by replay     {heard.replayed} first copies at the witness, {report['replayed']} at edge-ad plc-sim")
    print(f"questions     of edge-ad plc-sim: {json.dumps(report['replays'])}")
    print(f"plc           {heard.plc_in_time} in time, {heard.plc_late} late, {heard.plc_lost} lost with the broker")
    print(f"plc           oldest verdict on arrival {heard.oldest_verdict_s:.2f} s after its capture")
    print(f"witness       {len(heard.faults)} broken promises")
    for fault in heard.faults[:20]:
        print(f"  {fault}")
    print(f"edge-ad plc-sim  ok {report['ok']}, faults {json.dumps(report['faults'])}")
    for detail in report["details"][:20]:
        print(f"  {detail}")
    return not heard.faults and report["ok"]


def main() -> int:
    """Play, break, count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", type=int, default=100_000)
    parser.add_argument("--rate", type=float, default=200.0, help="parts a second")
    parser.add_argument("--broker-kills", type=int, default=4)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    parser.add_argument("--work", type=Path, help="a new folder, which is kept")
    arguments = parser.parse_args()
    scale = Scale(arguments.parts, arguments.rate, 10, arguments.broker_kills, 4, cuts=12, delays=12, disk_full_s=20.0)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # through the clean-up, as Ctrl-C does
    print(f"seed {arguments.seed}: {scale.parts} parts at {scale.rate_hz:g} a second")
    began_s = time.monotonic()
    try:
        with tempfile.TemporaryDirectory() as folder:
            heard, report = run(arguments.work or Path(folder), scale, arguments.seed)
    except pytest.skip.Exception as reason:
        parser.error(str(reason))
    print(f"took          {time.monotonic() - began_s:.0f} s")
    return 0 if show(heard, report) else 1


if __name__ == "__main__":
    sys.exit(main())
