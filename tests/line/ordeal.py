"""A station that plays known scores at a fixed rate, while everything around it fails at random times.

    station host                       cable                    broker's host
    daemon (simulated camera) ------ cut, delayed ------ mosquitto --+-- plc-sim
    outbox on a small disk                                           +-- witness (mosquitto_sub, every copy to a file)

A broker that is killed in the middle of the traffic loses what it has acknowledged and holds in memory for its
consumers. Both notice, and ask the station for it once more: plc-sim by `--replay`, the witness by its clerk. The
station has it still, unless its disk is full, when there is no room for what was sent: the broker is not killed then.

`plan` draws the faults from a seed, `Ordeal.run` makes them happen, and tests/line/witness.py compares what the witness
wrote down with what was played.
"""

from __future__ import annotations

import csv
import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tests.broker import Broker, mqtt_config
from tests.bundles import make_bundle
from tests.daemons import Daemon, wait_until
from tests.disk import fill_up, free, small_disk
from tests.line.witness import Clerk, Witness
from tests.network import Cable, two_hosts
from tests.plc import PlcSim
from tests.station import THRESHOLD, calibrate, write_config

STATION = "cell-7"
PLC = "virtual-plc"  # its client id
DISK_MB = 48
DEFECTS = 0.05  # of all parts
AROUND = 0.02  # of a run, at its begin and end, without faults
KEPT_S = 60.0  # for so long the station keeps what it has sent
MEND_S = 1.0  # so often the clerk looks for what is missing
BEFORE_FULL_S = 10.0  # what was lost by then is healed before the disk is full
AFTER_FULL_S = 3.0  # for the station to find out that there is room again
LAST_S = 300.0  # for what is not yet played, and for all to arrive when all is well again; far beyond what it takes
TRIES = 1000  # to find times for everything
IN_FLIGHT = 200  # messages between station and broker
PATIENCE = ("--stall-s", "60", "--deadline-s", "10")  # a loaded machine is no fault of the line

Act = Literal[
    "kill daemon", "kill broker", "stop broker", "start broker", "cut", "delay", "mend", "fill disk", "free disk"
]


@dataclass(frozen=True, order=True)
class Step:
    """What happens at a time, seconds after the start; `value`: of a delay, seconds."""

    at_s: float
    act: Act
    value: float = 0.0


@dataclass(frozen=True)
class Scale:
    """How much is played, and how much fails."""

    parts: int
    rate_hz: float
    daemon_kills: int
    broker_kills: int
    broker_stops: int
    cuts: int
    delays: int
    disk_full_s: float


def plan(scale: Scale, seed: int) -> list[Step]:
    """The faults of a run, in order of time."""
    chance = random.Random(seed)
    length_s = scale.parts / scale.rate_hz
    full_s = chance.uniform(0.3, 0.6) * length_s
    steps = [Step(full_s, "fill disk"), Step(full_s + scale.disk_full_s, "free disk")]
    # While the disk is full, the cable is cut, so that the outbox needs room; and the daemon has to start on that disk.
    steps += [Step(full_s, "cut"), Step(full_s + 0.9 * scale.disk_full_s, "mend")]
    steps += [Step(full_s + 0.6 * scale.disk_full_s, "kill daemon")]
    for slot in _slots(scale.daemon_kills - 1, length_s):
        steps.append(Step(chance.uniform(*slot), "kill daemon"))
    full = (full_s - BEFORE_FULL_S, full_s + scale.disk_full_s + AFTER_FULL_S)
    for at_s, act in _ends_of_broker(scale, chance, full):
        steps += [Step(at_s, act), Step(at_s + chance.uniform(0.2, 3.0), "start broker")]
    links: list[Act] = ["cut"] * scale.cuts + ["delay"] * scale.delays
    chance.shuffle(links)
    for act, (begin_s, end_s) in zip(links, _slots(len(links), length_s), strict=True):
        at_s = chance.uniform(begin_s, (begin_s + end_s) / 2)
        until_s = min(at_s + chance.uniform(0.3, 8.0), end_s)
        if until_s < full_s or at_s > full_s + scale.disk_full_s:
            steps += [Step(at_s, act, chance.uniform(0.02, 0.6)), Step(until_s, "mend")]
    return sorted(steps)


def _ends_of_broker(scale: Scale, chance: random.Random, full: tuple[float, float]) -> list[tuple[float, Act]]:
    """When it ends, one end in each piece of the run, and how: not killed while the disk is `full`, (from, to)."""
    slots = _slots(scale.broker_kills + scale.broker_stops, scale.parts / scale.rate_hz)
    for _ in range(TRIES):
        times = [chance.uniform(begin_s, (begin_s + end_s) / 2) for begin_s, end_s in slots]
        outside = [at_s for at_s in times if not full[0] <= at_s <= full[1]]
        if len(outside) >= scale.broker_kills:
            kills = chance.sample(outside, scale.broker_kills)
            return [(at_s, "kill broker" if at_s in kills else "stop broker") for at_s in times]
    raise ValueError("the run is too short for so much to fail in it")


def _slots(count: int, length_s: float) -> list[tuple[float, float]]:
    """The run but its ends, cut into equal pieces: (begin, end)."""
    begin_s, width_s = AROUND * length_s, (1 - 2 * AROUND) * length_s / max(count, 1)
    return [(begin_s + number * width_s, begin_s + (number + 1) * width_s) for number in range(count)]


def write_scores(path: Path, count: int, seed: int) -> list[str]:
    """Write so many scores as evaluate does; the verdict that each deserves. The last part is a defect."""
    chance = random.Random(seed)
    defects = [chance.random() < DEFECTS for _ in range(count - 1)] + [True]
    scores = [chance.uniform(0.51, 0.99) if defect else chance.uniform(0.01, 0.5) for defect in defects]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "label", "score", "verdict"])
        for number, score in enumerate(scores, start=1):
            writer.writerow([f"part-{number:06d}.png", "unlabelled", repr(score), ""])
    return ["defect" if score > THRESHOLD else "ok" for score in scores]


@dataclass
class Ordeal:
    """The run of one station.

    Attributes:
        folder: where everything goes but the outbox.
        disk: the small file system that the outbox is on.
        scale: how much is played.
        broker, cable, plc, witness, clerk: what surrounds the station.
        told: is called with each fault, as it happens.
        daemons: the daemon's runs, the present one last.
    """

    folder: Path
    disk: Path
    scale: Scale
    broker: Broker
    cable: Cable
    plc: PlcSim
    witness: Witness
    clerk: Clerk
    inside: tuple[str, ...]
    told: Callable[[str], None]
    daemons: list[Daemon] = field(default_factory=list)

    def run(self, steps: list[Step]) -> None:
        """Let the steps happen in their order; the daemon is started again whenever it was killed, and ends at last."""
        self._start_daemon()
        begun_s = time.monotonic()
        for step in steps:
            self._wait_until(begun_s + step.at_s)
            self._act(step)
            self.told(f"{time.monotonic() - begun_s:7.1f} s  {step.act} {step.value or ''}".rstrip())
        self._end()

    def _wait_until(self, at_s: float) -> None:
        while time.monotonic() < at_s:
            if at_s - time.monotonic() > MEND_S:
                self.clerk.mend()
            time.sleep(max(0.0, min(MEND_S, at_s - time.monotonic())))

    def _act(self, step: Step) -> None:
        match step.act:
            case "kill daemon":
                self._kill_daemon()
            case "kill broker":
                self.broker.kill()
            case "stop broker":
                self.broker.stop()
            case "start broker":
                self.broker.start()
            case "cut":
                self.cable.cut()
            case "delay":
                self.cable.delay(step.value)
            case "mend":
                self.cable.mend()
            case "fill disk":
                fill_up(self.disk)
            case "free disk":
                free(self.disk)

    def _start_daemon(self) -> None:
        log = f".{len(self.daemons):02d}.log"
        self.daemons.append(Daemon(self.folder / "station.yaml", inside=self.inside, log=log))

    def _kill_daemon(self) -> None:
        daemon = self.daemons[-1]
        assert daemon.process.poll() is None, daemon.logged()[-2000:]
        daemon.kill()
        self._start_daemon()

    def _end(self) -> None:
        """Wait until all is played and both consumers have all of it."""
        until_s = time.monotonic() + LAST_S
        while self.plc.process.poll() is None or not self.clerk.has_all(self.scale.parts):
            assert time.monotonic() < until_s, f"not all has arrived\n{self.plc.said()[-2000:]}"
            self.clerk.mend()
            time.sleep(MEND_S)
        assert self.daemons[-1].terminate() == 0, self.daemons[-1].logged()[-2000:]
        wait_until(lambda: self.clerk.has_read("/status stopped"))


@contextmanager
def an_ordeal(folder: Path, scale: Scale, told: Callable[[str], None]) -> Iterator[Ordeal]:
    """Everything but the daemon set up, and everything gone at the end of the block.

    Skips the test where network namespaces or a small file system cannot be had.
    """
    with ExitStack() as stack:
        here, there, cable = stack.enter_context(two_hosts())
        disk = stack.enter_context(small_disk(folder / "disk", DISK_MB))
        broker = Broker(folder / "broker", options="autosave_interval 5", at=there, verbose=False)
        stack.callback(broker.kill)
        broker.start()
        witness = stack.enter_context(Witness(folder, broker))
        arguments = (STATION, "--count", str(scale.parts), "--client-id", PLC, "--replay", *PATIENCE)
        plc = stack.enter_context(PlcSim(folder, broker, *arguments))
        wait_until(lambda: "broker   online" in plc.said())
        broker.restart()  # from here on, both sessions are on the broker's disk
        _write_station(folder, disk, broker, scale)
        clerk = Clerk(witness, broker, STATION)
        ordeal = Ordeal(folder, disk, scale, broker, cable, plc, witness, clerk, here.inside, told)
        stack.callback(lambda: [daemon.kill() for daemon in ordeal.daemons])
        yield ordeal


def _write_station(folder: Path, disk: Path, broker: Broker, scale: Scale) -> None:
    bundle = make_bundle(folder / "bundle")
    calibrate(bundle)
    camera = {"kind": "simulated", "scores": "scores.csv", "rate_hz": scale.rate_hz, "count": scale.parts}
    camera["at_end"] = "wait"
    sections: dict[str, Any] = {
        "station": STATION,
        "state_dir": str(disk / "state"),
        "mqtt": mqtt_config(broker, keepalive_s=5, in_flight=IN_FLIGHT),
        "outbox": {"max_mb": DISK_MB // 2, "keep_sent_s": KEPT_S, "historical_after_s": 2.0},
        "commands": {"enabled": True},
    }
    write_config(folder / "station.yaml", bundle, camera, sections)
