"""TensorRT: runs an engine that `edge-ad build` made on this device, whichever builder made it.

The engine is for the tiles of one frame, the case of a camera: N is fixed, and other numbers of images run in batches
of it. Everything is allocated once, at fixed addresses, and queued on one stream of its own: the frame's way to the
GPU, the kernel that prepares it, the engine, the way back. That is recorded as a CUDA graph, so a frame costs the CPU
one launch and one wait. torch is not loaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_ad.backends.base import check_input
from edge_ad.bundle import Bundle
from edge_ad.config import Precision
from edge_ad.core.preprocess import crop, preprocess
from edge_ad.cuda.buffers import Buffer
from edge_ad.cuda.device import PrimaryContext
from edge_ad.cuda.graph import Work
from edge_ad.cuda.resize import AreaResize
from edge_ad.engines.key import Builder
from edge_ad.engines.tensorrt import load_tensorrt, make_log
from edge_ad.errors import BackendError
from edge_ad.records import RawOutput, Roi

# The graph's outputs, under the names that each builder gives them.
OUTPUTS: Mapping[Builder, tuple[str, str, str]] = {
    "tensorrt": ("anomaly_map", "score", "reconstruction"),
    "torch_tensorrt": ("output0", "output1", "output2"),
}


class TensorRTBackend:
    """One TensorRT engine for one frame's tiles, on CUDA device 0 (implements `Backend` and `TakesFrames`).

    Attributes:
        name: of the builder.
        precision: of the engine.
    """

    def __init__(
        self, bundle: Bundle, builder: Builder, precision: Precision, plan: bytes, cubin: bytes | None
    ) -> None:
        """Load an engine, and the kernel that prepares frames; without one, the CPU prepares them.

        Raises:
            BackendError: TensorRT, pycuda or CUDA is missing, or this TensorRT refuses the engine.
        """
        self.name: str = builder
        self.precision: Precision = precision
        self._layout = bundle.manifest.input.frame_layout()
        batch = (self._layout.tiles, self._layout.height, self._layout.width)
        self._cubin = cubin
        trt = load_tensorrt()
        self._context = PrimaryContext()
        self._open = True
        with self._using_gpu():
            self._stream = self._context.stream()
            self._image = Buffer(self._context, (*batch, 3))
            shapes = (batch, batch[:1], (*batch, 3))
            self._outputs = [Buffer(self._context, shape, np.float32) for shape in shapes]
            self._engine = _Engine(trt, plan)
            self._engine.bind(self._image, dict(zip(OUTPUTS[builder], self._outputs, strict=True)))
            self._of_image = Work(self._stream, self._queue_image)
        self._frames: _FrameInput | None = None
        self._loaded = self._of_image

    def run(self, image: NDArray[np.uint8]) -> RawOutput:
        """See `Backend.run`."""
        check_input(image, self._layout.height, self._layout.width)
        n = self._layout.tiles
        found = [self._run_batch(image[first : first + n]) for first in range(0, len(image), n)]
        return RawOutput(
            np.concatenate([part.anomaly_map for part in found]),
            np.concatenate([part.score for part in found]),
            np.concatenate([part.reconstruction for part in found]),
        )

    def load(self, frame: NDArray[np.uint8], roi: Roi | None) -> None:
        """See `TakesFrames.load`."""
        part = crop(frame, roi)
        with self._using_gpu():
            frames = self._frame_input(part.shape[0], part.shape[1])
        if frames is None:
            preprocess(part, None, self._layout, out=self._image.host)
            self._loaded = self._of_image
        else:
            np.copyto(frames.pixels.host, part)
            self._loaded = frames.work

    def run_loaded(self) -> RawOutput:
        """See `TakesFrames.run_loaded`."""
        with self._using_gpu():
            self._loaded.launch()
            self._stream.synchronize()
            return RawOutput(*(output.host.copy() for output in self._outputs))

    def close(self) -> None:
        """See `Backend.close`."""
        if not self._open:
            return
        with self._using_gpu():
            self._stream.synchronize()
            self._of_image.close()
            self._close_frames()
            for buffer in (self._image, *self._outputs):
                buffer.close()
            del self._engine, self._stream
        self._open = False
        self._context.close()

    @contextmanager
    def _using_gpu(self) -> Iterator[None]:
        """In the block the context is current, and an error of the driver becomes one of ours."""
        if not self._open:
            raise BackendError("this back-end is closed")
        try:
            with self._context.current():
                yield
        except self._context.driver.Error as error:
            raise BackendError(f"the GPU failed: {' '.join(str(error).split())}") from error

    def _run_batch(self, images: NDArray[np.uint8]) -> RawOutput:
        """At most as many images as the engine takes; its other places keep what was there."""
        used = len(images)
        with self._using_gpu():
            np.copyto(self._image.host[:used], images)
            self._loaded = self._of_image
        found = self.run_loaded()
        return RawOutput(found.anomaly_map[:used], found.score[:used], found.reconstruction[:used])

    def _queue_image(self) -> None:
        self._image.upload(self._stream)
        self._queue_engine()

    def _queue_engine(self) -> None:
        self._engine.queue(self._stream)
        for output in self._outputs:
            output.download(self._stream)

    def _frame_input(self, height: int, width: int) -> _FrameInput | None:
        """The way of such frames over the GPU; None where the CPU prepares them.

        There is no kernel, or it cannot do it: it only shrinks, and fills the whole canvas.
        """
        least_height, least_width = self._layout.of(height, width).canvas
        if self._cubin is None or self._layout.fit != "stretch" or height < least_height or width < least_width:
            return None
        if self._frames is None or self._frames.size != (height, width):
            self._close_frames()
            self._frames = self._open_frames((height, width), self._cubin)
        return self._frames

    def _open_frames(self, size: tuple[int, int], cubin: bytes) -> _FrameInput:
        pixels = Buffer(self._context, (*size, 3))
        resize = AreaResize(self._context, cubin, size, self._layout.of(*size))

        def queue() -> None:
            pixels.upload(self._stream)
            resize.launch(pixels.pointer, self._image.pointer, self._stream)
            self._queue_engine()

        return _FrameInput(size, pixels, resize, Work(self._stream, queue))

    def _close_frames(self) -> None:
        if self._frames is not None:
            self._frames.work.close()
            self._frames.resize.close()
            self._frames.pixels.close()
            self._frames, self._loaded = None, self._of_image


@dataclass(frozen=True, slots=True)
class _FrameInput:
    """Frames of one size (height, width): where their pixels go, and what is done with them."""

    size: tuple[int, int]
    pixels: Buffer
    resize: AreaResize
    work: Work


class _Engine:
    """A deserialised engine, ready to be queued; the context must be current for all of it."""

    def __init__(self, trt: ModuleType, plan: bytes) -> None:
        """Load it.

        Raises:
            BackendError: TensorRT refuses it.
        """
        self._trt = trt
        self._log = make_log(trt)
        self._runtime = trt.Runtime(self._log)  # must outlive the engine
        self._engine: Any = self._runtime.deserialize_cuda_engine(plan)
        self._execution: Any = self._engine.create_execution_context() if self._engine is not None else None
        if self._execution is None:
            raise BackendError(
                f"TensorRT {trt.__version__} refuses the engine ({self._log.said}): edge-ad build BUNDLE --again"
            )

    def bind(self, image: Buffer, outputs: Mapping[str, Buffer]) -> None:
        """Tell the engine where its tensors lie, once and for all.

        Raises:
            BackendError: it has other tensors than a bundle's graph.
        """
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        inputs = [name for name in names if self._engine.get_tensor_mode(name) == self._trt.TensorIOMode.INPUT]
        for name in inputs:
            self._execution.set_input_shape(name, image.host.shape)
        expected = {**dict.fromkeys(inputs, image), **outputs}
        for name in names:
            self._bind_tensor(name, expected.get(name))
        if len(inputs) != 1 or set(expected) != set(names):
            raise BackendError(f"the engine has the tensors {', '.join(names)}: it was not built from a bundle's graph")

    def queue(self, stream: Any) -> None:
        """Queue one run.

        Raises:
            BackendError: TensorRT refused.
        """
        if not self._execution.execute_async_v3(int(stream.handle)):
            raise BackendError(f"TensorRT refused to run: {self._log.said}")

    def _bind_tensor(self, name: str, buffer: Buffer | None) -> None:
        shape = tuple(self._execution.get_tensor_shape(name))
        dtype = np.dtype(self._trt.nptype(self._engine.get_tensor_dtype(name)))
        if buffer is None or (shape, dtype) != (buffer.host.shape, buffer.host.dtype):
            raise BackendError(f"the engine's {name} is {dtype} {shape}: it was not built from a bundle's graph")
        self._execution.set_tensor_address(name, buffer.pointer)
