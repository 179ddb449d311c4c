"""A calibrated bundle on a video stream: test images over RTSP -> daemon -> mosquitto -> mosquitto_sub.

    python -m benchmarks.rtsp_line BUNDLE --data DIR [--results 166] [--store DIR]

Counts what the independent subscriber received, and scores the frames that the daemon recorded again, offline: they
must have the same scores and verdicts. Needs mosquitto and the GStreamer RTSP server (make system-packages).
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from edge_ad.core.preprocess import resize
from edge_ad.images import read_image, write_png
from tests.broker import Broker, Subscriber, mqtt_config
from tests.daemons import clean_environment, running_daemon
from tests.line.results import assert_gapless, results
from tests.station import write_config
from trainer.data.folder import list_test

SERVER = Path(__file__).parent.parent / "tests" / "line" / "gst_rtsp_server.py"
FPS = 5
SIDE = 512


def lay_out(data: Path, folder: Path) -> Counter[str]:
    """The test images as numbered frames of one size; returns how many are good and how many show a defect."""
    folder.mkdir()
    images = list_test(data)
    for number, image in enumerate(images):
        write_png(folder / f"{number:04d}.png", resize(read_image(image.path), SIDE, SIDE))
    return Counter("defect" if image.defect else "good" for image in images)


def run_line(work: Path, bundle: Path, store: Path | None, wanted: int) -> Counter[str]:
    """Run the daemon until the subscriber has `wanted` results; returns the verdicts by count."""
    command = ["/usr/bin/python3", str(SERVER), str(work / "video" / "%04d.png"), str(FPS), "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    broker = Broker(work / "broker")
    broker.start()
    subscriber = Subscriber(broker, work / "subscriber")
    try:
        assert server.stdout is not None
        url = f"rtsp://127.0.0.1:{int(server.stdout.readline())}/cam"
        more = {"mqtt": mqtt_config(broker), "record": {"dir": str(work / "frames"), "max_frames": 100_000}}
        if store is not None:
            more["store"] = str(store.absolute())
        config = write_config(work / "station.yaml", bundle, {"kind": "rtsp", "url": url, "open_timeout_s": 20}, more)
        with running_daemon(config, clean_environment()) as daemon:
            subscriber.wait_for(lambda messages: len(messages) >= wanted, "/result")
            assert daemon.terminate() == 0
        subscriber.wait_for(lambda messages: bool(messages) and messages[-1].payload == "stopped", "/status")
        by_seq = results(subscriber.received("/result"))
    finally:
        subscriber.close()
        broker.stop()
        server.kill()
        server.wait()
    assert_gapless(by_seq)
    same = compare(work, bundle, store, {result["frame_id"]: result for result in by_seq.values()})
    print(f"results received by mosquitto_sub: {len(by_seq)}, no gap in seq; scored again offline: {same} the same")
    return Counter(result["verdict"] for result in by_seq.values())


def compare(work: Path, bundle: Path, store: Path | None, of_frame: dict[int, dict[str, object]]) -> int:
    """Score the recorded frames with `edge-ad-train evaluate`; the number with the same score and verdict.

    Raises:
        AssertionError: a frame differs, or has no result.
    """
    scores = work / "scores.csv"
    command = [sys.executable, "-m", "trainer", "evaluate", str(bundle), "--data", str(work / "frames")]
    command += ["--scores", str(scores), *(["--store", str(store)] if store else [])]
    subprocess.run(command, check=True, capture_output=True)
    with scores.open(newline="") as stream:
        rows = {int(Path(row["file"]).stem): row for row in csv.DictReader(stream)}
    assert set(rows) == set(of_frame), "recorded frames and results differ"
    for frame_id, row in rows.items():
        result = of_frame[frame_id]
        assert (float(row["score"]), row["verdict"]) == (result["score"], result["verdict"]), frame_id
    return len(rows)


def main() -> None:
    """Serve, run, count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="MVTec layout; its test images are the video")
    parser.add_argument("--store", type=Path)
    parser.add_argument("--results", type=int, default=166)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        fed = lay_out(arguments.data, work / "video")
        verdicts = run_line(work, arguments.bundle.absolute(), arguments.store, arguments.results)
    print(f"one round of the video: {fed['good']} good, {fed['defect']} with a defect")
    print(f"verdicts: {verdicts['ok']} ok, {verdicts['defect']} defect, {verdicts['not_inspected']} not inspected")


if __name__ == "__main__":
    main()
