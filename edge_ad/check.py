"""`edge-ad check`: everything that a station needs, tried once, before the line relies on it."""

from __future__ import annotations

import json
import os
import queue
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict

import cv2

from edge_ad.backends.base import open_backend
from edge_ad.broker_check import examine_broker
from edge_ad.broker_state import explain_exposure
from edge_ad.bundle import Manifest, open_bundle
from edge_ad.calibration_watch import applicable, why_restart
from edge_ad.cameras.capture import HUNG_FACTOR, Capture
from edge_ad.cameras.opencv import videoio
from edge_ad.collect import next_shot, running, taken
from edge_ad.config import Camera as CameraConfig
from edge_ad.config import SparkplugConfig, StationConfig
from edge_ad.core.payload import MalformedError
from edge_ad.core.preprocess import crop
from edge_ad.errors import BackendError, BundleError, CameraError, ConfigError, DataError, PublishError, TriggerError
from edge_ad.finding import Finding
from edge_ad.lock import LOCK_FILE, in_use
from edge_ad.mqtt import Listener, Subscription
from edge_ad.outbox import RESERVE
from edge_ad.outbox_file import problem_of
from edge_ad.publisher import OUTBOX_FILE
from edge_ad.records import Frame, Scored
from edge_ad.sparkplug.session import host_state, state_topic
from edge_ad.thresholds import service_of
from edge_ad.trigger_sensor import open_sensor

SCHEMA = "edge-ad/check/1"
EXIT_CODE = 2
HOST_S = 2.0  # a retained STATE comes with the subscription; so long we wait for it


def examine(config: StationConfig) -> list[Finding]:
    """Try each part of a station; a part that fails does not keep the others from being tried."""
    return [
        Finding("configuration", "ok", f"station {config.station}"),
        _cv2(),
        *_folders(config),
        *_bundle(config),
        _camera(config),
        *_trigger(config),
        *examine_broker(config),
        *([_sparkplug(config, config.sparkplug)] if config.sparkplug is not None else []),
    ]


def all_right(findings: Sequence[Finding]) -> bool:
    """Whether the station can run."""
    return all(finding.state != "failed" for finding in findings)


def as_lines(findings: Sequence[Finding]) -> Iterator[str]:
    """For people."""
    return (f"{finding.state:<7}  {finding.name}: {finding.detail}" for finding in findings)


def as_json(findings: Sequence[Finding]) -> Iterator[str]:
    """For programs: one line."""
    body = {"schema": SCHEMA, "ok": all_right(findings), "findings": [asdict(finding) for finding in findings]}
    yield json.dumps(body)


def _cv2() -> Finding:
    has = ", ".join(f"{name} {'yes' if built_in else 'no'}" for name, built_in in videoio().items())
    return Finding("cv2", "ok", f"{cv2.__version__} at {cv2.__file__}: {has}")


def _folders(config: StationConfig) -> Iterator[Finding]:
    """What the daemon writes into; a folder that is missing is made by it, so the one above is looked at."""
    wanted = {"state_dir": config.state_dir, **({"record.dir": config.record.dir} if config.record is not None else {})}
    for name, folder in wanted.items():
        existing = next((parent for parent in (folder, *folder.parents) if os.path.lexists(parent)), folder)
        if not existing.is_dir():
            yield Finding(name, "failed", f"{folder}: {existing} is no folder")
        elif not os.access(existing, os.W_OK | os.X_OK):
            yield Finding(name, "failed", f"{folder}: this user may not write into {existing}")
        else:
            problem = _problem_within(config) if name == "state_dir" else ""
            yield Finding(name, "failed" if problem else "ok", problem or str(folder))


def _problem_within(config: StationConfig) -> str:
    """What of an earlier run keeps the daemon from using its state directory; empty if nothing does."""
    outbox = config.state_dir / OUTBOX_FILE
    for path in (config.state_dir / LOCK_FILE, outbox, outbox.with_suffix(RESERVE)):
        if path.exists() and not os.access(path, os.R_OK | os.W_OK):
            return f"{path}: this user may not write it; chown it to the user that the daemon runs as"
    return problem_of(outbox, config.station)


def _bundle(config: StationConfig) -> list[Finding]:
    """The bundle in its engine, and the calibration for it."""
    try:
        bundle = open_bundle(config.bundle)
        backend = open_backend(bundle, config.backend)
    except (BundleError, BackendError, ConfigError) as error:
        return [Finding("bundle", "failed", str(error))]
    engine = f"{backend.name}/{backend.precision}"
    backend.close()
    proved = Finding("bundle", "ok", f"{bundle.digest[:12]} gives its golden outputs on {engine}")
    return [proved, *_roi(config, bundle.manifest), _calibration(config, bundle.digest)]


def _roi(config: StationConfig, manifest: Manifest) -> Iterator[Finding]:
    """Whether the networks were trained on another cut of the frame; images that were cut before tell nothing."""
    trained, here = manifest.training.roi, config.roi
    if trained is not None and trained != here:
        shown = "the whole frame" if here is None else f"roi {here.x}, {here.y}, {here.w} x {here.h}"
        was = f"{trained.x}, {trained.y}, {trained.w} x {trained.h}"
        yield Finding("roi", "warning", f"the bundle was trained on {was} of each image, and is shown {shown}")


def _calibration(config: StationConfig, digest: str) -> Finding:
    thresholds, problem = applicable(config.store_dir(), service_of(config, digest))
    if thresholds is None:
        return Finding("calibration", "warning", f"every part will be not_inspected: {problem}")
    restart = why_restart(config, digest)
    if restart:
        return Finding("calibration", "warning", f"record {thresholds.record} waits: {restart}")
    return Finding("calibration", "ok", f"record {thresholds.record}: a defect is a score above {thresholds.image:g}")


def _camera(config: StationConfig) -> Finding:
    """Open the camera and take one frame, each within its time-out; on a line that stands, there may be none."""
    who = f"{config.camera.name} ({config.camera.kind})"
    if taken(config):
        return Finding("camera", "warning", f"the running daemon has {who}: not tried; stop it, and check again")
    try:
        with running(config.camera) as capture:
            shot = _first_shot(capture, config.camera)
        if shot is None:
            return Finding(
                "camera", "warning", f"{who} is online, no part came: its picture and the ROI were not tried"
            )
        if not isinstance(shot, Frame):
            return Finding("camera", "ok", f"{who} plays recorded scores")
        crop(shot.image, config.roi_record())
    except (CameraError, ConfigError, DataError) as error:
        return Finding("camera", "failed", str(error))
    height, width = shot.image.shape[:2]
    return Finding("camera", "ok", f"{who} delivers {width}x{height}")


def _first_shot(capture: Capture, camera: CameraConfig) -> Frame | Scored | None:
    """The first frame or recorded score, within the camera's time-outs; None if it is online and none came.

    Raises:
        CameraError: it failed, ended without a frame, or did not answer in time.
    """
    deadline = time.monotonic() + camera.open_timeout_s + HUNG_FACTOR * camera.read_timeout_s
    while time.monotonic() < deadline:
        shot = next_shot(capture, camera.name)
        if shot is not None:
            return shot
        state = capture.state()
        if state.state == "fault":
            raise CameraError(f"camera {camera.name}: {state.detail}")
    if capture.state().state == "online":
        return None
    raise CameraError(f"camera {camera.name} delivered nothing within its time-outs")


def _trigger(config: StationConfig) -> list[Finding]:
    """The sensor that announces parts, where there is one."""
    if config.trigger.kind == "gpio" and in_use(config.state_dir, if_unknown=False):
        return [Finding("trigger", "warning", "the running daemon has the input line: not tried")]
    try:
        sensor = open_sensor(config.trigger)
    except (ConfigError, TriggerError) as error:
        return [Finding("trigger", "failed", str(error))]
    if sensor is None:
        return []
    sensor.close()
    return [Finding("trigger", "ok", f"{config.trigger.kind} can announce parts")]


def _sparkplug(config: StationConfig, options: SparkplugConfig) -> Finding:
    """Connect and subscribe as the edge node does, without its last will; and hear whether the host is there."""
    heard: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    address, host_id = options.address(config.station, config.camera.name), options.primary_host_id
    topic = address.commands() if host_id is None else state_topic(host_id)
    subscription = Subscription(((topic, 1),), lambda message: heard.put(message.payload))
    try:
        with Listener(options.mqtt or config.mqtt, f"{config.station}-sparkplug-check", subscription):
            problem = _host_problem(host_id, heard) if host_id is not None else ""
    except (PublishError, ConfigError) as error:
        return Finding("sparkplug", "failed", str(error))
    if problem:
        return Finding("sparkplug", "warning", f"births and data wait for primary host {host_id}: {problem}")
    exposure = explain_exposure(options.mqtt, "sparkplug.mqtt") if options.mqtt is not None else ""
    if exposure:
        return Finding("sparkplug", "warning", exposure)
    return Finding("sparkplug", "ok", f"{address.group_id}/{address.node_id} is accepted; hosts: {host_id or 'any'}")


def _host_problem(host_id: str, heard: queue.SimpleQueue[bytes]) -> str:
    """Why the edge node would wait for its primary host; empty if it would not."""
    try:
        said = host_state(heard.get(timeout=HOST_S))
    except queue.Empty:
        return f"nothing is retained on {state_topic(host_id)}"
    except MalformedError as error:
        return f"{state_topic(host_id)} is not as Sparkplug 3.0 has it: {error}"
    return "" if said.online else "it is offline"
