"""The demo, step by step. It calls the commands a user would call, each as a process of its own."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from edge_ad.backends.base import open_backend
from edge_ad.bundle import Bundle, open_bundle
from edge_ad.config import BackendConfig, MqttConfig
from edge_ad.console import say, write_json
from edge_ad.core.messages import Message
from edge_ad.core.preprocess import shown
from edge_ad.demo.broker import embedded_broker
from edge_ad.demo.cells import defective_cells, good_cells, list_cells
from edge_ad.demo.summary import Summary
from edge_ad.errors import DataError, EdgeAdError
from edge_ad.frames import frame_graph
from edge_ad.images import read_image, sha256_file, write_png
from edge_ad.mqtt import Listener, Subscription
from edge_ad.pictures import panel, sheet

STATION = "demo"
FALSE_ALARM_RATE = 0.05
N_DEFECTS = 150
N_PICTURES = 12
RUN_LIMIT_S = 300.0
SETTLE_S = 5.0  # for the last messages to reach the subscriber once the daemon has ended


@dataclass
class Ledger:
    """What the subscriber has received: results by sequence number, and how often each came."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    results: dict[int, dict[str, Any]] = field(default_factory=dict)
    alarms: int = 0
    last: threading.Event = field(default_factory=threading.Event)

    def take(self, message: Message) -> None:
        """Note a message, and print it if it is an alarm."""
        topic, payload = message.topic, message.payload
        if topic.endswith("/status") and payload == b"stopped":
            self.last.set()
        elif topic.endswith("/result"):
            body = json.loads(payload)
            with self.lock:
                self.results[body["seq"]] = body
        elif topic.endswith("/defect/event"):
            body = json.loads(payload)
            if body["event"] == "raised":
                with self.lock:
                    self.alarms += 1
                above = f"score {body['score']:.3f} > {body['threshold']:.3f}"
                say(f"ALARM  seq {body['seq']:<5} {body['part_id']:<28} {above}")


def run_demo(out: Path | None, json_path: Path | None) -> int:
    """Run the demo; returns 0 where every part got exactly one result.

    Raises:
        EdgeAdError: something is not installed, `out` is in use, or a step failed.
    """
    folder = _folder(out)
    with resources.as_file(resources.files("edge_ad") / "demo" / "bundle") as path:
        bundle = open_bundle(path)
        truth = _lay_out(folder, bundle)
        ledger = Ledger()
        with embedded_broker() as port:
            config = _write_station(folder, path, port)
            say(f"calibrating on good cells that training never saw, wish: {FALSE_ALARM_RATE:.0%} false alarms")
            _calibrate(config, folder, path)
            say(f"inspecting {len(truth)} cells; alarms as they arrive over MQTT:")
            heard = Subscription(((f"edge-ad/{STATION}/#", 1),), ledger.take)
            with Listener(MqttConfig(port=port, protocol="3.1.1"), f"{STATION}-show", heard):
                _inspect(config)
                ledger.last.wait(SETTLE_S)
        summary = _summary(truth, ledger)
        pictures = _draw(folder / "pictures", bundle, folder / "camera", ledger)
    _report(summary, ledger, pictures)
    if json_path is not None:
        write_json(json_path, _as_json(summary, ledger))
    return 0 if summary.complete else 1


def _folder(out: Path | None) -> Path:
    if out is None:
        return Path(tempfile.mkdtemp(prefix="edge-ad-demo-"))
    if out.exists() and any(out.iterdir()):
        raise DataError(f"{out} is not empty: give the demo a new folder with --out")
    out.mkdir(parents=True, exist_ok=True)
    return out.absolute()


def _lay_out(folder: Path, bundle: Bundle) -> dict[str, bool]:
    """Link the cells that the daemon will see as its camera's pictures; returns part id -> is it defective."""
    cells = list_cells()
    known = {*bundle.manifest.training.images_sha256, *bundle.manifest.training.calibration_sha256}
    unseen = [path for path in good_cells(cells) if sha256_file(path) not in known]
    order = random.Random(0)  # noqa: S311 - a shuffle, not a secret
    parts = [(path, False) for path in unseen]
    parts += [(path, True) for path in order.sample(defective_cells(cells), N_DEFECTS)]
    order.shuffle(parts)
    camera, good = folder / "camera", folder / "good"
    camera.mkdir()
    good.mkdir()
    truth = {}
    for place, (path, defective) in enumerate(parts):
        name = f"{place:04d}-{'defect' if defective else 'good'}-{path.name}"
        (camera / name).symlink_to(path)
        truth[name] = defective
    for path in good_cells(cells):
        (good / path.name).symlink_to(path)
    return truth


def _write_station(folder: Path, bundle: Path, port: int) -> Path:
    config = folder / "station.yaml"
    values = {
        "station": STATION,
        "state_dir": str(folder / "state"),
        "store": str(folder / "calibration"),
        "bundle": str(bundle),
        "camera": {"kind": "folder", "name": "cells", "path": str(folder / "camera"), "at_end": "stop"},
        "mqtt": {"host": "127.0.0.1", "port": port, "protocol": "3.1.1"},  # the embedded broker speaks no other
    }
    config.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return config


def _calibrate(config: Path, folder: Path, bundle: Path) -> None:
    rate = ["--false-alarm-rate", str(FALSE_ALARM_RATE)]
    good = ["--good", str(folder / "good"), "--held-out"]
    _command("calibration.cli", "fit", str(bundle), "--config", str(config), *good, *rate)


def _inspect(config: Path) -> None:
    _command("edge_ad.cli", "run", str(config))


def _command(module: str, *arguments: str) -> None:
    """Run one of our own commands; its log is shown only where it fails."""
    process = subprocess.Popen(  # noqa: S603 - our own module, our own arguments
        [sys.executable, "-m", module, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        output, _ = process.communicate(timeout=RUN_LIMIT_S)
    except BaseException:
        process.terminate()  # nothing, where Ctrl-C has ended it already
        process.wait(10)
        raise
    if process.returncode != 0:
        raise EdgeAdError(f"{module} {arguments[0]} ended with {process.returncode}: {_last_line(output)}")


def _last_line(output: str) -> str:
    return (output.strip().splitlines() or ["it said nothing"])[-1]


def _summary(truth: dict[str, bool], ledger: Ledger) -> Summary:
    with ledger.lock:
        results = list(ledger.results.values())
    times = Counter(result["part_id"] for result in results)
    alarmed = {result["part_id"] for result in results if result["verdict"] == "defect"}
    return Summary(
        defects=sum(truth.values()),
        good=len(truth) - sum(truth.values()),
        alarms_on_defects=sum(truth[part] for part in alarmed),
        false_alarms=sum(not truth[part] for part in alarmed),
        without_result=sum(part not in times for part in truth),
        results_too_many=sum(count - 1 for count in times.values()),
        wish=FALSE_ALARM_RATE,
    )


def _draw(folder: Path, bundle: Bundle, camera: Path, ledger: Ledger) -> Path:
    """Pictures of the defects with the highest scores: input, reconstruction, anomaly map."""
    folder.mkdir()
    found = sorted((r for r in ledger.results.values() if r["verdict"] == "defect"), key=lambda r: -r["score"])
    backend = open_backend(bundle, BackendConfig())
    graph = frame_graph(backend, bundle.manifest)
    pictures = []
    for result in found[:N_PICTURES]:
        frame = read_image(camera / result["part_id"])
        caption = f"{result['part_id']}  score {result['score']:.3f}"
        pictures.append(panel(shown(frame, None, graph.layout), graph.run(frame, None).joined(), caption))
        write_png(folder / f"{Path(result['part_id']).stem}.png", pictures[-1])
    backend.close()
    if pictures:
        write_png(folder / "overview.png", sheet(pictures, 2))
    return folder


def _report(summary: Summary, ledger: Ledger, pictures: Path) -> None:
    low, high = summary.false_alarm_interval
    say(f"{len(ledger.results)} results, {ledger.alarms} alarms raised")
    say(f"defects found: {summary.alarms_on_defects} of {summary.defects}")
    say(
        f"false alarms:  {summary.false_alarms} of {summary.good} good cells that neither training nor calibration saw "
        f"(95 % interval {low:.1%} to {high:.1%}, wish {summary.wish:.0%})"
    )
    if not summary.complete:
        say(f"parts without a result: {summary.without_result}; results too many: {summary.results_too_many}")
    say(f"pictures of the defects: {pictures}")


def _as_json(summary: Summary, ledger: Ledger) -> dict[str, object]:
    return asdict(summary) | {
        "alarms_raised": ledger.alarms,
        "false_alarm_interval": list(summary.false_alarm_interval),
        "keeps_its_wish": summary.keeps_its_wish,
        "complete": summary.complete,
    }
