"""Time from the daemon's start to its first result, and its resident memory, beside the bare imports.

    python -m benchmarks.startup [--bundle DIR] [--backend openvino] [--precision int8] [--threads 1] [--repeats 5]

Both sides run in turn, each in a process of its own; the bare side imports numpy, cv2 and the engine's library and
ends. The result is received by an independent subscriber (mosquitto_sub) from a real broker. Needs mosquitto. The
daemon has one state directory for all of them: what an engine keeps for its next start, the first one has not yet.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import psutil

from edge_ad.backends.base import PRECISIONS
from edge_ad.bundle import open_bundle
from edge_ad.config import BackendConfig
from edge_ad.console import Parser, run_command
from edge_ad.errors import BackendError
from edge_ad.images import write_png
from tests.broker import Broker, Subscriber, mqtt_config
from tests.daemons import DEADLINE_S, Daemon, clean_environment, running_daemon
from tests.station import write_config

DEMO = Path(__file__).parent.parent / "edge_ad" / "demo" / "bundle"
BARE = "import numpy, cv2, {}, psutil; print(psutil.Process().memory_info().rss)"
LIBRARIES = {"torch_tensorrt": "tensorrt"}  # of the back-ends that are not called as what they import
POLL_S = 0.01


def bare(backend: str) -> tuple[float, float]:
    """Seconds and MB of a process that imports what the device side cannot do without.

    Raises:
        BackendError: the engine's library does not load.
    """
    code = BARE.format(LIBRARIES.get(backend, backend))
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BackendError(f"the bare imports failed: {(done.stderr.strip().splitlines() or ['nothing said'])[-1]}")
    return time.perf_counter() - started, int(done.stdout) / 1e6


def daemon(folder: Path, bundle: Path, engine: BackendConfig, state: Path) -> tuple[float, float]:
    """Seconds to the first received result, and MB of the daemon after ten of them; `state` is its state directory."""
    images = folder / "images"
    images.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(10):
        write_png(images / f"{number:02d}.png", rng.integers(0, 256, (512, 512, 3), dtype=np.uint8))
    broker = Broker(folder / "broker")
    broker.start()
    subscriber = Subscriber(broker, folder / "subscriber")
    camera = {"kind": "folder", "path": str(images), "at_end": "wait"}
    sections = {"mqtt": mqtt_config(broker), "backend": engine.model_dump(mode="json")}
    config = write_config(folder / "station.yaml", bundle, camera, sections)
    try:
        started = time.perf_counter()
        with running_daemon(config, {**clean_environment(), "STATE_DIRECTORY": str(state)}) as process:
            wait_for_result(process, lambda: bool(subscriber.received("/result")))
            seconds = time.perf_counter() - started
            subscriber.wait_for(lambda messages: len(messages) == 10, "/result")
            megabytes = psutil.Process(process.process.pid).memory_info().rss / 1e6
            loaded = Path(f"/proc/{process.process.pid}/maps").read_text()
            assert engine.name == "torch" or "libtorch" not in loaded, "the daemon loaded torch"
    finally:
        subscriber.close()
        broker.stop()
    return seconds, megabytes


def wait_for_result(daemon: Daemon, is_there: Callable[[], bool], deadline_s: float = DEADLINE_S) -> None:
    """Wait for a daemon's first result.

    Raises:
        BackendError: the daemon has ended, or the time is up; it quotes the log's last line.
    """
    deadline = time.perf_counter() + deadline_s
    while not is_there():
        ended = daemon.process.poll()
        if ended is not None or time.perf_counter() > deadline:
            what = f"no result within {deadline_s:.0f} s" if ended is None else f"the daemon ended with {ended}"
            last = daemon.logged().strip().rpartition("\n")[2]
            raise BackendError(f"{what}; the last line of its log: {last}")
        time.sleep(POLL_S)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure both sides in turn and print medians and ratios."""
    parser = Parser(
        prog="benchmarks.startup", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, default=DEMO)
    parser.add_argument("--backend", default="onnxruntime", choices=PRECISIONS)
    parser.add_argument("--precision", default="fp32", choices=("fp32", "fp16", "bf16", "int8"))
    parser.add_argument("--threads", type=int, default=1, help="of the engine; 0: one per core")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args(argv)
    chosen = {"name": arguments.backend, "precision": arguments.precision, "threads": arguments.threads}
    engine = BackendConfig.model_validate(chosen)
    return run_command(lambda: _run(arguments.bundle.absolute(), engine, arguments.repeats))


def _run(bundle: Path, engine: BackendConfig, repeats: int) -> int:
    open_bundle(bundle).model_path(engine.precision)  # what is no such bundle is told here, not by a daemon's end
    rows: dict[str, list[tuple[float, float]]] = {"bare imports": [], "daemon": []}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(repeats):
            rows["bare imports"].append(bare(engine.name))
            rows["daemon"].append(daemon(Path(folder) / str(turn), bundle, engine, Path(folder) / "state"))
    if repeats > 1:
        rows["its first start"] = [rows["daemon"].pop(0)]
    medians = {
        name: [statistics.median(column) for column in zip(*values, strict=True)] for name, values in rows.items()
    }
    for name, (seconds, megabytes) in medians.items():
        print(f"{name:15} {seconds:6.2f} s  {megabytes:6.0f} MB")
    ratios = [mine / base for mine, base in zip(medians["daemon"], medians["bare imports"], strict=True)]
    print(f"{'ratio':15} {ratios[0]:6.2f}    {ratios[1]:6.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
