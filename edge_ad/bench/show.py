"""`edge-ad bench`, step by step."""

from __future__ import annotations

import os
from pathlib import Path

from edge_ad import doctor
from edge_ad.bench.figures import Workload
from edge_ad.bench.report import as_json, as_lines, bars, report
from edge_ad.bench.rounds import choose, run_rounds
from edge_ad.bundle import open_bundle
from edge_ad.console import make_folder, make_room, say, write_json
from edge_ad.images import list_images, read_image, write_png

FRAMES = 50  # a round
PLOT = "bench.png"
STEERING = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "KMP_BLOCKTIME")  # what of the environment changes the engines' speed


def run_bench(
    path: Path,
    backend: str,
    rounds: int,
    frames: tuple[int, int] | Path,
    json_path: Path | None,
    out: Path | None,
) -> None:
    """Measure a bundle on frames of a (width, height) or on a folder's images, print, write what was asked for.

    Raises:
        EdgeAdError: not a bundle, no such back-end, none could be measured, no images, or a folder where the JSON
            should be.
        OSError: a place that cannot be written.
    """
    bundle = open_bundle(path.absolute())
    engines = choose(bundle, backend)
    workload = images_of(frames) if isinstance(frames, Path) else Workload(FRAMES, *frames)
    if json_path is not None:
        make_room("--json", json_path)  # before the minutes of measuring
    if out is not None:
        make_folder("--out", out)
    facts = machine()
    found = report(bundle, run_rounds(bundle, engines, rounds, workload), rounds, workload, facts)
    for line in as_lines(found):
        say(line)
    if json_path is not None:
        write_json(json_path, as_json(found))
    if out is not None:
        write_png(out / PLOT, bars(found))
        say(f"plot: {out / PLOT}")


def images_of(folder: Path) -> Workload:
    """To show the images of a folder; all of them are read once, before the minutes of measuring.

    Raises:
        DataError: there are none, or one cannot be read.
    """
    shapes = [read_image(path).shape for path in list_images(folder)]
    height, width, _ = shapes[0]
    return Workload(FRAMES, width, height, str(folder.absolute()))


def machine() -> dict[str, dict[str, str]]:
    """What `edge-ad doctor` says, and what else was going on."""
    facts = {title: dict(section()) for title, section in doctor.SECTIONS}
    set_ = {name: os.environ[name] for name in STEERING if name in os.environ}
    return {**facts, "at the start": {"load average, 1 min": f"{os.getloadavg()[0]:.2f}", **set_}}
