"""The kernel that prepares frames on the GPU: compiled for this device, and kept only if it does what OpenCV does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_ad.core.layout import Layout
from edge_ad.core.preprocess import preprocess
from edge_ad.cuda.buffers import Buffer
from edge_ad.cuda.device import PrimaryContext
from edge_ad.cuda.resize import AreaResize, compile_kernel, cubin_path
from edge_ad.errors import BackendError

# Shrinking by (3, 2), (2, 2) and (4.2, 7.5): each of the cases that the arithmetic has.
FACTORS = ((3.0, 2.0), (2.0, 2.0), (4.2, 7.5))


def provide_kernel(folder: Path, layout: Layout) -> str:
    """Compile and prove the kernel unless it lies in `folder`; returns one line on who prepares frames here.

    Args:
        folder: of the engines.
        layout: the graph's canvas and its tiles.
    """
    if layout.fit != "stretch":
        return f"frames are prepared on the CPU: the kernel does no {layout.fit}"
    context = PrimaryContext()
    path = cubin_path(folder, context.facts.sm)
    try:
        if not path.exists():
            cubin = compile_kernel(context.facts.sm)
            prove_kernel(context, cubin, layout)
            written = path.with_suffix(".new")
            written.write_bytes(cubin)
            written.replace(path)
    except (BackendError, context.driver.Error) as error:
        return f"frames are prepared on the CPU: {' '.join(str(error).split())}"
    finally:
        context.close()
    return f"frames are prepared on the GPU: {path}"


def prove_kernel(context: PrimaryContext, cubin: bytes, layout: Layout) -> None:
    """Compare the kernel with `preprocess` on noise: calibration may have seen frames that the CPU prepared.

    Raises:
        BackendError: a pixel differs. OpenCV is free to be built with another rounding.
    """
    layout = replace(layout, rows=min(layout.rows, 2), columns=min(layout.columns, 2))  # more show nothing more
    for factors in FACTORS:
        height, width = (round(size * factor) for size, factor in zip(layout.canvas, factors, strict=True))
        frame = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
        expected = preprocess(frame, None, layout)
        differing = int(np.count_nonzero(run_kernel(context, cubin, frame, layout) != expected))
        if differing:
            raise BackendError(f"the kernel differs from this OpenCV in {differing} of {expected.size} values")


def run_kernel(context: PrimaryContext, cubin: bytes, frame: NDArray[np.uint8], layout: Layout) -> NDArray[np.uint8]:
    """One frame through the kernel: (N, H, W, 3) RGB."""
    with context.current():
        stream = context.stream()
        pixels, image = Buffer(context, frame.shape), Buffer(context, (layout.tiles, layout.height, layout.width, 3))
        resize = AreaResize(context, cubin, (frame.shape[0], frame.shape[1]), layout)
        np.copyto(pixels.host, frame)
        pixels.upload(stream)
        resize.launch(pixels.pointer, image.pointer, stream)
        image.download(stream)
        stream.synchronize()
        found: NDArray[np.uint8] = image.host.copy()
        for used in (resize, pixels, image):
            used.close()
    return found
