"""The fused kernel of area_resize.cu: compile it where nvcc is, load it where it was compiled, launch it."""

from __future__ import annotations

import hashlib
import math
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import cv2

from edge_ad.core.layout import Layout
from edge_ad.core.preprocess import halvings
from edge_ad.cuda.device import PrimaryContext
from edge_ad.errors import BackendError

SOURCE = "area_resize.cu"
NVCC_OF_JETPACK = "/usr/local/cuda/bin/nvcc"  # on no PATH there
# No fused multiply-add: it rounds once where OpenCV rounds twice.
NVCC_OPTIONS = ("-cubin", "-O3", "--fmad=false")
SPAN_BYTES = 20  # sizeof(struct Span)
BLOCK = (32, 8, 1)  # its threads: x, y
LINE = (128, 1, 1)


@dataclass(frozen=True, slots=True)
class Axis:
    """How OpenCV shrinks one axis.

    Attributes:
        scale: source pixels per target pixel, rounded as OpenCV does.
        box: the same where it is a whole number, else 0.
    """

    scale: float
    box: int


def axis(source: int, target: int) -> Axis:
    """The axis from `source` to `target` pixels, source >= target."""
    scale = 1.0 / (target / source)
    whole = round(scale)
    return Axis(scale, whole if abs(scale - whole) < sys.float_info.epsilon else 0)


def source_code() -> str:
    """The kernel's source."""
    return (resources.files("edge_ad.cuda") / SOURCE).read_text(encoding="utf-8")


def cubin_path(folder: Path, sm: str) -> Path:
    """Where the kernel for an architecture lies, or would.

    Another source has another name, and so has another OpenCV: a kernel is proved against the one that is there.
    """
    sources = hashlib.sha256(f"{source_code()}{NVCC_OPTIONS}{opencv_build()}".encode()).hexdigest()[:12]
    return folder / f"area_resize-{sm}-cv{cv2.__version__}-{sources}.cubin"


def opencv_build() -> str:
    """What decides OpenCV's pixels: its version, how it was built (vendor's routines), which vector code runs here."""
    return f"{cv2.__version__}\n{cv2.getBuildInformation()}\n{cv2.getCPUFeaturesLine()}\n{cv2.useOptimized()}"


def find_nvcc() -> str | None:
    """CUDA's compiler, where this machine has one."""
    return shutil.which("nvcc") or shutil.which(NVCC_OF_JETPACK)


def compile_kernel(sm: str) -> bytes:
    """The kernel's cubin for an architecture.

    Raises:
        BackendError: there is no nvcc, or it refused; the message says what to do.
    """
    nvcc = find_nvcc()
    if nvcc is None:
        raise BackendError("there is no nvcc: install JetPack's cuda-nvcc package and build again")
    with resources.as_file(resources.files("edge_ad.cuda") / SOURCE) as source, tempfile.TemporaryDirectory() as work:
        cubin = Path(work) / "kernel.cubin"
        command = [nvcc, *NVCC_OPTIONS, f"-arch={sm}", "-o", str(cubin), str(source)]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own arguments
        if ended.returncode != 0:
            said = (ended.stderr or ended.stdout).strip().splitlines() or ["nothing said"]
            raise BackendError(f"nvcc refused {SOURCE} for {sm}: {said[-1]}")
        return cubin.read_bytes()


class AreaResize:
    """The kernel, ready for frames of one size; all methods want the context to be current."""

    def __init__(self, context: PrimaryContext, cubin: bytes, source: tuple[int, int], layout: Layout) -> None:
        """Load it for frames of `source` (height, width); neither axis may grow. The canvas is filled: no letterbox."""
        driver, target = context.driver, layout.canvas
        self._pitch = 3 * source[1]
        module = driver.module_from_buffer(cubin)
        self._rows, self._columns = (driver.mem_alloc(SPAN_BYTES * size) for size in target)
        self._halvings = halvings(source, target)
        source = (source[0] >> self._halvings, source[1] >> self._halvings)
        axes = [axis(*sizes) for sizes in zip(source, target, strict=True)]
        for spans, of, source_size, target_size in zip((self._rows, self._columns), axes, source, target, strict=True):
            kernel = module.get_function("area_spans").prepare("Piid")
            kernel.prepared_call((math.ceil(target_size / LINE[0]), 1), LINE, spans, target_size, source_size, of.scale)
        driver.Context.synchronize()  # the tables are filled before another stream reads them
        self._boxes = [of.box if all(other.box for other in axes) else 0 for of in axes]
        self._layout = layout
        self._kernel = module.get_function("area_resize").prepare("PiiPPiiPii")

    def launch(self, source: int, target: int, stream: Any) -> None:
        """Queue it, tile by tile: from the address of (h, w, 3) BGR to that of (N, H, W, 3) RGB, uint8, contiguous.

        A tile is the same resize, begun further down the tables of spans; boxes begin further on in the source instead.
        """
        height, width = self._layout.height, self._layout.width
        grid = (math.ceil(width / BLOCK[0]), math.ceil(height / BLOCK[1]))
        box_y, box_x = self._boxes
        for index, tile in enumerate(self._layout.boxes()):
            corner = source + ((tile.top * box_y * self._pitch + 3 * tile.left * box_x) << self._halvings)
            spans = (int(self._rows) + SPAN_BYTES * tile.top, int(self._columns) + SPAN_BYTES * tile.left)
            place = target + 3 * height * width * index
            sizes = (corner, self._pitch, self._halvings, *spans, box_y, box_x, place, height, width)
            self._kernel.prepared_async_call(grid, BLOCK, stream, *sizes)

    def close(self) -> None:
        """Free the tables; the kernel must not be running."""
        self._rows.free()
        self._columns.free()
