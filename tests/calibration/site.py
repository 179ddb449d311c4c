"""A small site for tests: images of good parts, and what a bundle's manifest says about its training."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from edge_ad.bundle import MANIFEST, manifest_digest
from edge_ad.images import sha256_file, write_png


def make_good(folder: Path, count: int, seed: int = 1, size: int = 40) -> list[Path]:
    """Write `count` different bright noisy images; none fits the graph's size."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    paths = [folder / f"{i:03d}.png" for i in range(count)]
    for path in paths:
        write_png(path, rng.integers(rng.integers(150, 220), 256, (size, size, 3), dtype=np.uint8))
    return paths


def set_training(bundle: Path, trained_on: list[Path], held_out: list[Path], roi: dict[str, int] | None = None) -> None:
    """Rewrite a bundle's manifest as if it had been trained on these files."""
    path = bundle / MANIFEST
    fields = json.loads(path.read_text())
    fields["training"] |= {
        "images_sha256": [sha256_file(image) for image in trained_on],
        "calibration_sha256": [sha256_file(image) for image in held_out],
        "roi": roi,
    }
    fields["digest"] = manifest_digest(fields)
    path.write_text(json.dumps(fields))
