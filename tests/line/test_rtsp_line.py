"""The line on a video stream: IP camera -> daemon -> broker -> subscriber, and the recorded frames scored again."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_ad.images import list_images, read_image
from tests.broker import Broker, Received, Subscriber, mqtt_config
from tests.bundles import make_bundle
from tests.daemons import clean_environment, running_daemon
from tests.line.results import Result, assert_gapless, results
from tests.line.rtsp import FRAMES, IpCamera, number_of, truth
from tests.station import calibrate, write_config

WANTED = 2 * FRAMES


@pytest.fixture
def ip_camera(tmp_path: Path) -> Iterator[IpCamera]:
    camera = IpCamera(tmp_path / "video")
    yield camera
    camera.close()


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = make_bundle(tmp_path / "bundle")
    calibrate(path)
    return path


def configure(tmp_path: Path, bundle: Path, camera: IpCamera, broker: Broker) -> Path:
    rtsp = {"kind": "rtsp", "url": camera.url, "read_timeout_s": 0.5, "open_timeout_s": 10, "backoff_max_s": 0.5}
    record = {"dir": str(tmp_path / "frames"), "max_frames": 10_000}
    return write_config(tmp_path / "station.yaml", bundle, rtsp, {"mqtt": mqtt_config(broker), "record": record})


def evaluate(bundle: Path, frames: Path, scores: Path) -> dict[str, dict[str, str]]:
    """File name -> row of `edge-ad-train evaluate --scores`."""
    subprocess.run(
        [sys.executable, "-m", "trainer", "evaluate", str(bundle), "--data", str(frames), "--scores", str(scores)],
        check=True,
        capture_output=True,
        env=clean_environment(),
    )
    with scores.open(newline="") as file:
        return {Path(row["file"]).name: row for row in csv.DictReader(file)}


def test_every_result_fits_the_frame_that_was_seen_and_scored_again_offline(
    tmp_path: Path, bundle: Path, ip_camera: IpCamera, broker: Broker, subscriber: Subscriber
) -> None:
    with running_daemon(configure(tmp_path, bundle, ip_camera, broker)) as daemon:
        subscriber.wait_for(lambda messages: len(messages) >= WANTED, "/result")
        assert daemon.terminate() == 0
    subscriber.wait_for(lambda messages: messages[-1:] != [] and messages[-1].payload == "stopped", "/status")
    by_seq = results(subscriber.received("/result"))
    assert_gapless(by_seq)
    of_frame = {result["frame_id"]: result for result in by_seq.values()}
    assert len(of_frame) == len(by_seq)

    frames = {int(path.stem): path for path in list_images(tmp_path / "frames")}
    assert set(frames) == set(of_frame)
    for frame_id, result in of_frame.items():
        assert result["verdict"] == truth(number_of(read_image(frames[frame_id])))
        assert (result["score"] > result["threshold"]) == (result["verdict"] == "defect") == bool(result["regions"])

    offline = evaluate(bundle, tmp_path / "frames", tmp_path / "scores.csv")
    for frame_id, result in of_frame.items():
        again = offline[frames[frame_id].name]
        assert float(again["score"]) == result["score"]
        assert again["verdict"] == result["verdict"]


def camera_states(received: list[Received]) -> list[str]:
    return [json.loads(message.payload)["state"] for message in received]


def results_after(by_seq: dict[int, Result], frame_id: int) -> list[Result]:
    return [result for result in by_seq.values() if result["frame_id"] > frame_id]


def test_a_camera_that_freezes_is_announced_and_inspection_goes_on_when_it_is_back(
    tmp_path: Path, bundle: Path, ip_camera: IpCamera, broker: Broker, subscriber: Subscriber
) -> None:
    with running_daemon(configure(tmp_path, bundle, ip_camera, broker)) as daemon:
        subscriber.wait_for(lambda messages: len(messages) > 5, "/result")
        ip_camera.freeze()
        subscriber.wait_for(lambda messages: camera_states(messages)[-1] == "fault", "/camera/top")
        last = max(result["frame_id"] for result in results(subscriber.received()).values())
        ip_camera.thaw()
        subscriber.wait_for(lambda messages: camera_states(messages)[-1] == "online", "/camera/top")
        subscriber.wait_for(lambda messages: len(results_after(results(messages), last)) > 5, "/result")
        assert daemon.terminate() == 0
    assert_gapless(results(subscriber.received()))
