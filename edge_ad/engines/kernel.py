"""The kernel that prepares frames on the GPU: compiled for this device, and kept only if it does what OpenCV does.

Its file is the cubin followed by the SHA-256 of it, which no loader of ELF files minds: so both are written at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from loguru import logger
from numpy.typing import NDArray

from edge_ad.core.layout import Layout
from edge_ad.core.preprocess import MAX_HALVINGS, preprocess
from edge_ad.cuda.buffers import Buffer
from edge_ad.cuda.device import DeviceFacts, PrimaryContext
from edge_ad.cuda.resize import AreaResize, compile_kernel, cubin_path
from edge_ad.durable import write_whole
from edge_ad.errors import BackendError

DIGEST_BYTES = 32

# The proof's frames have a small canvas, for the arithmetic is that of a large one. Its sides are odd, so that what is
# left after the wanted halvings is not halved once more, and there are tiles.
PROOF = Layout(19, 18, rows=2, columns=2, overlap=5)
# What is left of a frame after its halvings, (height, width), for the canvas of 33 x 31: each of the cases that the
# arithmetic has. Each of them is proved after 0, 1, 2 and 3 halvings, as frames of cameras have them.
LEFT = (
    (33, 31),  # nothing more to do
    (99, 93),  # boxes of 3 x 3
    (99, 62),  # boxes of 3 x 2: ties, which go to the even one
    (139, 77),  # weights, both axes
    (33, 77),  # weights, one axis as it is
)
# Boxes of 2 x 2, whose ties go up, are there only once no more halving is done.
LEFT_LAST = ((66, 62),)
# The canvas of the graph itself, for its size and its tiles: by fractions.
FACTORS = (1.7, 2.3)


def provide_kernel(
    folder: Path, facts: DeviceFacts, layout: Layout, say: Callable[[str], None], *, again: bool = False
) -> bytes | None:
    """The kernel in `folder`, compiled and proved first where there is none; None where the CPU prepares frames.

    Args:
        folder: of the engines.
        facts: of the device.
        layout: the graph's canvas and its tiles.
        say: takes one line on who prepares frames here.
        again: compile and prove it also where there is one.
    """
    if layout.fit != "stretch":
        say(f"frames are prepared on the CPU: the kernel does no {layout.fit}")
        return None
    path = cubin_path(folder, facts.sm)
    try:
        cubin = _kept(path)
        if cubin is None or again:
            cubin = _make(path, layout, cubin)
    except (BackendError, OSError) as error:
        say(f"frames are prepared on the CPU: {' '.join(str(error).split())}")
        return None
    say(f"frames are prepared on the GPU: {path}")
    return cubin


def write_kernel(path: Path, cubin: bytes) -> None:
    """Write a kernel that was proved.

    Raises:
        OSError: as of a full disk.
    """
    write_whole(path, cubin + hashlib.sha256(cubin).digest(), as_its_folder=True)


def read_kernel(path: Path) -> bytes:
    """The cubin of a kernel's file.

    Raises:
        FileNotFoundError, OSError: it cannot be read.
        BackendError: it was damaged.
    """
    kept = path.read_bytes()
    cubin, digest = kept[:-DIGEST_BYTES], kept[-DIGEST_BYTES:]
    if hashlib.sha256(cubin).digest() != digest:
        raise BackendError(f"{path} was damaged")
    return cubin


def _kept(path: Path) -> bytes | None:
    try:
        return read_kernel(path)
    except FileNotFoundError:
        return None
    except BackendError as error:
        logger.warning("{}: compiling it anew", error)
        return None


def _make(path: Path, layout: Layout, kept: bytes | None) -> bytes:
    """Compile, prove, keep. Without a compiler the one that was kept, if any, is proved again.

    Raises:
        BackendError: there is no compiler, or the kernel does not do what OpenCV does: then none is kept.
        OSError: no room for the compiler's files.
    """
    context = PrimaryContext()
    try:
        cubin = _compiled(context.facts.sm, kept)
        prove_kernel(context, cubin, layout)
    except (BackendError, context.driver.Error) as error:
        path.unlink(missing_ok=True)
        raise BackendError(str(error)) from error
    finally:
        context.close()
    try:
        write_kernel(path, cubin)
    except OSError as error:  # proved all the same: only the next start must do it again
        logger.warning("{} cannot be written: {}", path, error.strerror)
    return cubin


def _compiled(sm: str, kept: bytes | None) -> bytes:
    try:
        return compile_kernel(sm)
    except BackendError as error:
        if kept is None:
            raise
        logger.warning("the kernel for frames is not compiled again, only proved again: {}", error)
        return kept


def prove_kernel(context: PrimaryContext, cubin: bytes, layout: Layout) -> None:
    """Compare the kernel with `preprocess` on noise: calibration may have seen frames that the CPU prepared.

    Raises:
        BackendError: a pixel differs. OpenCV is free to be built with another rounding.
    """
    for frame, proved in proof_frames(layout):
        expected = preprocess(frame, None, proved)
        differing = int(np.count_nonzero(run_kernel(context, cubin, frame, proved) != expected))
        if differing:
            size = f"{frame.shape[1]}x{frame.shape[0]}"
            raise BackendError(
                f"the kernel differs from this OpenCV in {differing} of {expected.size} values of a frame of {size}"
            )


def proof_frames(layout: Layout) -> Iterator[tuple[NDArray[np.uint8], Layout]]:
    """The frames that prove a kernel, (H, W, 3) noise, each with what it is fitted to."""
    for halvings in range(MAX_HALVINGS + 1):
        for height, width in LEFT + (LEFT_LAST if halvings == MAX_HALVINGS else ()):
            yield _noise(height << halvings, width << halvings), PROOF
    layout = replace(layout, rows=min(layout.rows, 2), columns=min(layout.columns, 2))  # more show nothing more
    for canvas in dict.fromkeys((layout.of(1, 2), layout.of(2, 1))):  # lying and standing, where it turns
        height, width = (round(size * factor) for size, factor in zip(canvas.canvas, FACTORS, strict=True))
        yield _noise(height, width), canvas


def _noise(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)


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
