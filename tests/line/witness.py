"""What an independent subscriber wrote down, every copy of it, against what a station was fed.

A broker that is killed loses what it holds in memory. `Clerk` reads along, sees the holes, and asks the station for
them once more, as docs/mqtt.md tells a consumer to do; what comes is written down as everything else is.

Nothing here uses the package: what it says of copies, order and alarms, it says on its own account.
"""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.broker import RUNNING, Broker, needs
from tests.daemons import wait_until

MAY_DIFFER = ("published_ms", "historical")  # between the copies of a message
WITNESS = "witness"  # its client id
MOST_ASKED = 1000  # by one command; a station takes up to 10,000
SETTLE_S = 2.0  # what is missing for so long is asked for
AGAIN_S = 5.0  # and again after so long
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
        with self.path.open("wb") as output:
            self._process = subprocess.Popen(command, stdout=output, stderr=subprocess.DEVNULL)
        wait_until(lambda: WITNESS in _followers(broker))

    def __enter__(self) -> Witness:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait(20)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """For the length of a block it reads nothing; the broker holds for it what comes."""
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)


def _followers(broker: Broker) -> set[str]:
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
        replayed: results, gap records and alarm events whose first copy came by a replay.
        boots: runs of the daemon that were heard of.
        plc_in_time, plc_late: parts whose verdict came on `plc`, and parts of which it only said `late`.
        plc_lost: parts that have a result and no decision: the broker has lost it, and it is not repeated.
        oldest_verdict_s: the longest time from capture to the arrival of a verdict on `plc`.
        events: events of alarms.
    """

    faults: tuple[str, ...]
    verdicts: dict[str, int]
    outbox_full: int
    gap_parts: int
    copies: dict[str, int]
    replayed: int
    boots: int
    plc_in_time: int
    plc_late: int
    plc_lost: int
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
    asked: dict[str, set[int]] = field(default_factory=lambda: {"parts": set(), "events": set()})
    replayed: int = 0
    counted: dict[str, int] = field(default_factory=lambda: {"parts": 0, "events": 0})

    def enter(self, book: dict[int, Body], topic: str, number: int, body: Body) -> None:
        """First copies come in order, but for those that somebody has asked for once more."""
        kept = {key: value for key, value in body.items() if key not in MAY_DIFFER}
        first = book.setdefault(number, kept)
        if first is not kept:
            self.copies[topic.rpartition("/")[2]] += 1
            if first != kept:
                self.faults.append(f"two copies of {topic} {number} disagree")
            return
        asked = self._was_asked_for(body)
        self.replayed += asked
        if number < self.highest[topic] and not asked:
            self.faults.append(f"{topic} {number} came after {self.highest[topic]}")
        self.highest[topic] = max(number, self.highest[topic])

    def _was_asked_for(self, body: Body) -> bool:
        if "event_no" in body and body["event_no"] in self.asked["events"]:
            return True
        if body.get("seq", 0) is None:  # an alarm event between the parts
            return bool(self.asked["parts"])
        return not self.asked["parts"].isdisjoint(_span(body) if "seq_from" in body else [body["seq"]])

    def missing(self) -> dict[str, list[int]]:
        """What is not there, of what the station says that it has counted."""
        told = {*self.results, *(seq for gap in self.gaps.values() for seq in _span(gap))}
        missing_parts = [seq for seq in range(1, self.counted["parts"] + 1) if seq not in told]
        missing_events = [number for number in range(1, self.counted["events"] + 1) if number not in self.events]
        return {"parts": missing_parts, "events": missing_events}

    def read(self, at_s: float, topic: str, payload: str) -> None:
        kind = topic.rpartition("/")[2]
        if topic.endswith("/cmd/replay"):
            body = json.loads(payload)
            self.asked[body["of"]].update(range(body["from"], body["to"] + 1))
        elif kind == "health":
            outbox = json.loads(payload)["outbox"]
            if outbox["unsent"] == 0:
                self._count(outbox["last_seq"], outbox["last_event"])
        elif kind == "plc":
            self._read_plc(at_s, json.loads(payload))
        elif kind == "state":
            self.states[topic.split("/")[-2]] = json.loads(payload)
        elif kind == "event":
            body = json.loads(payload)
            self._count(0, body["event_no"])
            self.enter(self.events, topic, body["event_no"], body)
        elif kind == "result":
            body = json.loads(payload)
            first, last = ("seq_from", "seq_to") if "seq_from" in body else ("seq", "seq")
            self._count(body[last], 0)
            self.enter(self.gaps if first == "seq_from" else self.results, topic, body[first], body)

    def read_line(self, line: str) -> None:
        """Of the witness's file."""
        at, topic, payload = line.split(" ", 2)
        self.read(float(at), topic, payload)

    def _count(self, parts: int, events: int) -> None:
        self.counted = {"parts": max(parts, self.counted["parts"]), "events": max(events, self.counted["events"])}

    def _read_plc(self, at_s: float, body: Body) -> None:
        if body["res"] != 0:
            self.ages_s.append(at_s - body["t"] / 1000)
        self.copies["plc"] += body["seq"] in self.plc
        known = self.plc.setdefault(body["seq"], body)
        if known["rsn"] == "late":
            self.plc[body["seq"]] = body
        elif body != known and body["rsn"] != "late":
            self.faults.append(f"two verdicts on plc for {body['seq']}")


class Clerk:
    """Reads what the witness writes, and asks the station for what is missing, by a client of its own."""

    def __init__(self, witness: Witness, broker: Broker, station: str) -> None:
        self._witness = witness
        self._broker = broker
        self._station = station
        self._ledger = _Ledger()
        self._read_bytes = 0
        self._missing: dict[tuple[str, int], float] = {}  # (kind, number) -> missing since, or asked for at
        self.asked = 0
        self._last_line = ""

    def mend(self) -> bool:
        """Read on, and ask for what has been missing for some time; whether nothing is missing."""
        self._read_on()
        missing = [(of, number) for of, numbers in self._ledger.missing().items() for number in numbers]
        now_s = time.monotonic()
        self._missing = {each: self._missing.get(each, now_s + SETTLE_S) for each in missing}
        due = [each for each, due_s in self._missing.items() if due_s <= now_s]
        for of in ("parts", "events"):
            numbers = [number for kind, number in due if kind == of]
            if numbers:
                first = min(numbers)
                last = max(number for number in numbers if number < first + MOST_ASKED)
                self._ask(of, first, last)
                asked = [(of, number) for number in numbers if number <= last]
                self._missing.update(dict.fromkeys(asked, now_s + AGAIN_S))
        return not missing

    def has_all(self, parts: int) -> bool:
        """Whether nothing is missing, of so many parts and of what the station has counted."""
        self._read_on()
        return self._ledger.counted["parts"] == parts and not any(self._ledger.missing().values())

    def has_read(self, ending: str) -> bool:
        """Whether the last line ends like this."""
        self._read_on()
        return self._last_line.endswith(ending)

    def _read_on(self) -> None:
        with self._witness.path.open("rb") as file:
            file.seek(self._read_bytes)
            lines = file.read()
        whole = lines.rpartition(b"\n")[0] + b"\n" if b"\n" in lines else b""
        self._read_bytes += len(whole)
        for line in whole.decode().splitlines():
            self._ledger.read_line(line)
            self._last_line = line

    def _ask(self, of: str, first: int, last: int) -> None:
        self.asked += 1
        body = {"correlation_id": f"clerk-{self.asked}", "from": first, "to": last, "of": of}
        command = [*self._broker.inside, "mosquitto_pub", "-h", self._broker.host, "-p", str(self._broker.port)]
        command += ["-q", "1", "-t", f"edge-ad/{self._station}/cmd/replay", "-m", json.dumps(body)]
        with suppress(subprocess.TimeoutExpired):  # no broker at the moment: it is asked again later
            subprocess.run(command, capture_output=True, timeout=2)


def account(path: Path, truth: list[str], most_lost: int) -> Account:
    """Compare what the witness wrote down with the verdicts that parts 1, 2, ... deserve.

    `most_lost`: so many decisions at most may a broker have lost that was killed.
    """
    ledger = _Ledger()
    for line in path.read_text().splitlines():
        ledger.read_line(line)
    lost = ledger.results.keys() - ledger.plc.keys()
    faults = [*ledger.faults, *_results(ledger, truth), *_alarms(ledger), *_plc(ledger, truth)]
    if len(lost) > most_lost:
        faults.append(f"no decision on plc for {len(lost)} parts, {min(lost)} the first")
    gap_parts = sum(len(_span(gap)) for gap in ledger.gaps.values())
    late = sum(body["rsn"] == "late" for body in ledger.plc.values())
    everything = [*ledger.results.values(), *ledger.gaps.values(), *ledger.events.values()]
    return Account(
        tuple(faults),
        dict(Counter(result["verdict"] for result in ledger.results.values())),
        gap_parts + sum(result["reason"] == OUTBOX_FULL for result in ledger.results.values()),
        gap_parts,
        dict(ledger.copies),
        ledger.replayed,
        len({body["boot_id"] for body in everything}),
        len(ledger.plc) - late,
        late,
        len(lost),
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
    """No decision has a verdict that its part does not deserve."""
    for seq, body in ledger.plc.items():
        if body["res"] != 0 and body["res"] != _RES[truth[seq - 1]]:
            yield f"plc says {body['res']} of part {seq}, which deserves {truth[seq - 1]}"
