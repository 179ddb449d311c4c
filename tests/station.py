"""A small station for tests: parts to look at, a calibration, and the configuration file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from edge_ad import calibration_store as stores
from edge_ad.bundle import open_bundle
from edge_ad.config import RoiConfig, StationConfig, default_store, load
from edge_ad.images import write_png
from edge_ad.records import Verdict
from edge_ad.thresholds import CalibrationRecord

HEIGHT, WIDTH = 48, 64
THRESHOLD = 0.5  # the test bundle scores a good part about 0.25 and one with a blob above 0.8


def part(seed: int, *, defect: bool, height: int = HEIGHT, width: int = WIDTH) -> NDArray[np.uint8]:
    """A bright noisy part, (height, width, 3) BGR; a defect is a dark blob somewhere on it."""
    rng = np.random.default_rng(seed)
    image = rng.integers(190, 230, (height, width, 3), dtype=np.uint8)
    if defect:
        size = height // 4
        y, x = int(rng.integers(0, height - size)), int(rng.integers(0, width - size))
        image[y : y + size, x : x + size] = 10
    return image


def write_parts(folder: Path, count: int, every: int = 4) -> dict[str, Verdict]:
    """Write `count` parts, every `every`-th a defect; file name -> the verdict that it deserves."""
    folder.mkdir(parents=True, exist_ok=True)
    truth: dict[str, Verdict] = {}
    for number in range(count):
        name = f"part-{number:04d}.png"
        truth[name] = "defect" if number % every == 0 else "ok"
        write_png(folder / name, part(number, defect=truth[name] == "defect"))
    return truth


def calibrate(
    bundle: Path,
    threshold: float = THRESHOLD,
    roi: RoiConfig | None = None,
    backend: str = "onnxruntime",
    precision: str = "fp32",
    store: Path | None = None,
    camera: str | None = None,
) -> CalibrationRecord:
    """Put a calibration record for the bundle in force, in the store beside it where no other is given."""
    draft = CalibrationRecord(
        schema="edge-ad/calibration",
        number=1,
        image_threshold=threshold,
        pixel_threshold=threshold,
        false_alarm_rate=0.05,
        confidence=0.95,
        rank=59,
        n_images=59,
        images_sha256=(),
        bundle=open_bundle(bundle).digest,
        backend=backend,
        precision=precision,
        camera=camera,
        roi=roi,
        created_at="2026-01-01T00:00:00Z",
        created_by="test",
    )
    return stores.add(store or default_store(bundle), draft, np.zeros((2, 2, 3), np.uint8))


def write_config(path: Path, bundle: Path, camera: dict[str, Any], changes: dict[str, Any] | None = None) -> Path:
    """Write a station's YAML file; `changes` replaces whole top-level keys."""
    fields: dict[str, Any] = {
        "station": "cell-7",
        "state_dir": str(path.parent / "state"),
        "bundle": str(bundle),
        "backend": {"threads": 1},
        "camera": {"name": "top", **camera},
    }
    path.write_text(yaml.safe_dump({**fields, **(changes or {})}), encoding="utf-8")
    return path


def config(tmp_path: Path, camera: dict[str, Any], changes: dict[str, Any] | None = None) -> StationConfig:
    """The configuration of a station whose bundle need not exist."""
    return load(write_config(tmp_path / "station.yaml", tmp_path / "bundle", camera, changes))
