"""The arithmetic of area_resize.cu, compiled by the host's compiler: for tests."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_ad.core.preprocess import halvings
from edge_ad.cuda.resize import SOURCE, SPAN_BYTES, axis, source_code

Shrink = Callable[[NDArray[np.uint8], int, int], NDArray[np.uint8]]
HARNESS = Path(__file__).parent / "area_resize_host.cpp"


def on_host(folder: Path, source: str | None = None) -> Shrink:
    """The kernel as a function of (frame, height, width), from its own source or from another one."""
    if shutil.which("g++") is None:
        pytest.skip("no g++ here")
    (folder / SOURCE).write_text(source_code() if source is None else source, encoding="utf-8")
    harness = shutil.copy(HARNESS, folder)  # it includes the source that lies beside it
    library = folder / "area.so"
    options = ["-O2", "-ffp-contract=off", "-Wall", "-Werror", "-shared", "-fPIC"]
    subprocess.run(["g++", *options, "-o", str(library), str(harness)], check=True)
    host = ctypes.CDLL(str(library))

    def spans(target: int, source: int) -> NDArray[np.uint8]:
        found = np.zeros(target * SPAN_BYTES, np.uint8)
        host.area_spans(_pointer(found), target, source, ctypes.c_double(axis(source, target).scale))
        return found

    def run(frame: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
        times = halvings(frame.shape[:2], (height, width))
        source = (frame.shape[0] >> times, frame.shape[1] >> times)
        rows, columns = axis(source[0], height), axis(source[1], width)
        boxes = (rows.box, columns.box) if rows.box and columns.box else (0, 0)
        found = np.zeros((1, height, width, 3), np.uint8)
        tables = (_pointer(spans(height, source[0])), _pointer(spans(width, source[1])))
        host.area_resize(_pointer(frame), frame.strides[0], times, *tables, *boxes, _pointer(found), height, width)
        return found

    return run


def _pointer(array: NDArray[np.uint8]) -> ctypes.c_void_p:
    return array.ctypes.data_as(ctypes.c_void_p)
