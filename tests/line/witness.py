"""What an independent subscriber wrote down, every copy of it, against what a station was fed.

Nothing here uses the package: what it says of copies, order and alarms, it says on its own account.
"""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.broker import RUNNING, Broker, needs
from tests.daemons import wait_until

MAY_DIFFER = ("published_ms", "historical")  # between the copies of a message
WITNESS = "witness"  # its client id
LINE_BYTES = 100_000  # longer than any line
OUTBOX_FULL = "outbox_full"
_INSPECTED = {"defect": True, "ok": False, "not_inspected": None}
_RES = {"ok": 1, "defect": 2}

Body = dict[str, Any]


class Witness:
    """mosquitto_sub at the broker's side, in a session that outlives its connection; gone at the end of a block."""

    def __init__(self, folder: Path, broker: Broker) -> None:
        needs("mosquitto_sub")
        self.path = folder / "witness.txt"
        command = [*broker.inside, "mosquitto_sub", "-h", broker.host, "-p", str(broker.port), "-V", "mqttv5"]
        command += ["-i", WITNESS, "-c", "-x", "86400", "-q", "1", "-F", "%U %t %p", "-t", "edge-ad/#"]
        command += ["-D", "connect", "receive-maximum", "65535"]
        with self.path.open("wb") as output:
            self._process = subprocess.Popen(command, stdout=output, stderr=subprocess.DEVNULL)
        wait_until(lambda: WITNESS in followers(broker))

    def __enter__(self) -> Witness:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait(20)

    def last_line(self) -> str:
        """What it wrote down last."""
        with self.path.open("rb") as file:
            file.seek(max(0, self.path.stat().st_size - LINE_BYTES))
            return file.read().decode().rstrip("\n").rpartition("\n")[2]


def followers(broker: Broker) -> set[str]:
    """The ids of all clients that have connected to the broker since its last start."""
    present = broker.logged().rpartition(RUNNING)[2]
    return {line.split(" as ")[1].split(" ")[0] for line in present.splitlines() if "New client connected" in line}


@dataclass(frozen=True)
class Account:
    """What the witness heard.

    Attributes:
        faults: every broken promise, in words; none if all were kept.
        verdicts: parts by verdict.
        outbox_full: parts without a verdict for want of room; those of gap records included.
        gap_parts: of those, parts that only a gap record speaks of.
        copies: messages beyond the first of their number, by the last level of their topic.
        boots: runs of the daemon that were heard of.
        plc_in_time, plc_late: parts whose verdict came on `plc`, and parts of which it only said `late`.
        oldest_verdict_s: the longest time from capture to the arrival of a verdict on `plc`.
        events: events of alarms.
    """

    faults: tuple[str, ...]
    verdicts: dict[str, int]
    outbox_full: int
    gap_parts: int
    copies: dict[str, int]
    boots: int
    plc_in_time: int
    plc_late: int
    oldest_verdict_s: float
    events: int


@dataclass
class _Ledger:
    """The first copy of everything that has a number, in the order of arrival."""

    results: dict[int, Body] = field(default_factory=dict)
    gaps: dict[int, Body] = field(default_factory=dict)
    events: dict[int, Body] = field(default_factory=dict)
    states: dict[str, Body] = field(default_factory=dict)
    plc: dict[int, Body] = field(default_factory=dict)
    copies: Counter[str] = field(default_factory=Counter)
    ages_s: list[float] = field(default_factory=lambda: [0.0])
    faults: list[str] = field(default_factory=list)
    highest: Counter[str] = field(default_factory=Counter)

    def enter(self, book: dict[int, Body], topic: str, number: int, body: Body) -> None:
        kept = {key: value for key, value in body.items() if key not in MAY_DIFFER}
        first = book.setdefault(number, kept)
        if first is not kept:
            self.copies[topic.rpartition("/")[2]] += 1
            if first != kept:
                self.faults.append(f"two copies of {topic} {number} disagree")
        elif number < self.highest[topic]:
            self.faults.append(f"{topic} {number} came after {self.highest[topic]}")
        else:
            self.highest[topic] = number

    def read(self, at_s: float, topic: str, payload: str) -> None:
        kind = topic.rpartition("/")[2]
        if kind == "plc":
            self._read_plc(at_s, json.loads(payload))
        elif kind == "state":
            self.states[topic.split("/")[-2]] = json.loads(payload)
        elif kind == "event":
            body = json.loads(payload)
            self.enter(self.events, topic, body["event_no"], body)
        elif kind == "result":
            body = json.loads(payload)
            first = "seq_from" if "seq_from" in body else "seq"
            self.enter(self.gaps if first == "seq_from" else self.results, topic, body[first], body)

    def _read_plc(self, at_s: float, body: Body) -> None:
        if body["res"] != 0:
            self.ages_s.append(at_s - body["t"] / 1000)
        self.copies["plc"] += body["seq"] in self.plc
        known = self.plc.setdefault(body["seq"], body)
        if known["rsn"] == "late":
            self.plc[body["seq"]] = body
        elif body != known and body["rsn"] != "late":
            self.faults.append(f"two verdicts on plc for {body['seq']}")


def account(path: Path, truth: list[str]) -> Account:
    """Compare what the witness wrote down with the verdicts that parts 1, 2, ... deserve."""
    ledger = _Ledger()
    for line in path.read_text().splitlines():
        at, topic, payload = line.split(" ", 2)
        ledger.read(float(at), topic, payload)
    faults = [*ledger.faults, *_results(ledger, truth), *_alarms(ledger), *_plc(ledger, truth)]
    gap_parts = sum(len(_span(gap)) for gap in ledger.gaps.values())
    late = sum(body["rsn"] == "late" for body in ledger.plc.values())
    everything = [*ledger.results.values(), *ledger.gaps.values(), *ledger.events.values()]
    return Account(
        tuple(faults),
        dict(Counter(result["verdict"] for result in ledger.results.values())),
        gap_parts + sum(result["reason"] == OUTBOX_FULL for result in ledger.results.values()),
        gap_parts,
        dict(ledger.copies),
        len({body["boot_id"] for body in everything}),
        len(ledger.plc) - late,
        late,
        max(ledger.ages_s),
        len(ledger.events),
    )


def _span(gap: Body) -> range:
    return range(gap["seq_from"], gap["seq_to"] + 1)


def _results(ledger: _Ledger, truth: list[str]) -> Iterator[str]:
    """Every part once, under the number that it was played under, with the verdict that it deserves."""
    told = Counter(ledger.results.keys())
    told.update(seq for gap in ledger.gaps.values() for seq in _span(gap))
    wrong = {seq: told[seq] for seq in {*told, *range(1, len(truth) + 1)} if told[seq] != (1 <= seq <= len(truth))}
    if wrong:
        yield f"numbers that are not told once: {dict(sorted(wrong.items())[:20])}"
    for seq, result in ledger.results.items():
        full = (result["verdict"], result["reason"]) == ("not_inspected", OUTBOX_FULL)
        if not full and (result["verdict"], result["reason"]) != (truth[seq - 1], None):
            yield f"part {seq} deserves {truth[seq - 1]}, got {result['verdict']} {result['reason']}"
        if not result["part_id"].endswith(f"#{seq}"):
            yield f"part {result['part_id']} came as {seq}"
    for gap in ledger.gaps.values():
        if gap["reason"] != OUTBOX_FULL:
            yield f"parts {_span(gap)} have no results: {gap['reason']}"
    if not all(body["simulated"] for body in [*ledger.results.values(), *ledger.gaps.values()]):
        yield "a part is not marked as simulated"


def _alarms(ledger: _Ledger) -> Iterator[str]:
    """What the results mean for the alarms is what the events tell, and what the last states are."""
    heard: dict[str, list[tuple[str, int]]] = {}
    for _, body in sorted(ledger.events.items()):
        heard.setdefault(body["alarm"], []).append((body["event"], body["seq"]))
    ordered = [ledger.results[seq] for seq in sorted(ledger.results)]
    signs = {
        "defect": [(each["seq"], _INSPECTED[each["verdict"]]) for each in ordered],
        "outbox": [(each["seq"], each["reason"] == OUTBOX_FULL) for each in ordered],
    }
    meant = {alarm: list(_events(seen)) for alarm, seen in signs.items()}
    for alarm in {*heard, *meant}:
        if heard.get(alarm, []) != meant.get(alarm, []):
            yield f"alarm {alarm}: {len(heard.get(alarm, []))} events, {len(meant.get(alarm, []))} were due"
    for alarm, state in ledger.states.items():
        last = meant[alarm][-1][0] if meant.get(alarm) else "cleared"
        if (state["state"] == "normal") != (last == "cleared"):
            yield f"alarm {alarm} is {state['state']} at the end, its last event was {last}"


def _events(signs: list[tuple[int, bool | None]]) -> Iterator[tuple[str, int]]:
    """The events of an alarm without debounce: (part, is it bad; None: it says nothing)."""
    up = False
    for seq, bad in signs:
        if bad is not None and bad != up:
            up = bad
            yield ("raised" if up else "cleared", seq)


def _plc(ledger: _Ledger, truth: list[str]) -> Iterator[str]:
    """Every part that has a result has a decision, and none has a verdict that it does not deserve."""
    missing = ledger.results.keys() - ledger.plc.keys()
    if missing:
        yield f"no decision on plc for {len(missing)} parts, {min(missing)} the first"
    for seq, body in ledger.plc.items():
        if body["res"] != 0 and body["res"] != _RES[truth[seq - 1]]:
            yield f"plc says {body['res']} of part {seq}, which deserves {truth[seq - 1]}"
