"""torch itself: the bundle's torch.export program, on the CPU or on CUDA.

The slowest engine, and the reference of the others: it runs the operators that the bundle was trained with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edge_ad.backends.base import INSTEAD, check_input
from edge_ad.bundle import PROGRAM, Bundle
from edge_ad.config import BackendConfig
from edge_ad.errors import BackendError, BundleError, ConfigError, first_line
from edge_ad.records import RawOutput

if TYPE_CHECKING:
    from torch.nn import Module

DEVICES = ("cpu", "cuda")


class TorchBackend:
    """The program in torch, FP32 (implements `Backend`). Its settings hold for torch in the whole process."""

    name = "torch"

    def __init__(self, bundle: Bundle, config: BackendConfig) -> None:
        """Load the program.

        Raises:
            ConfigError: it is a device that torch does not run on.
            BackendError: torch or the device is missing.
            BundleError: the bundle holds no program, or one that this torch cannot load.
        """
        self.precision = config.precision
        self._height, self._width = bundle.manifest.input.height, bundle.manifest.input.width
        if config.device not in DEVICES:
            raise ConfigError(f"torch runs on cpu or cuda, not on {config.device}: set device, {INSTEAD}")
        if PROGRAM not in bundle.manifest.files:
            raise BundleError(f"{bundle.path} holds no {PROGRAM}: {_export_again('torch')}, {INSTEAD}")
        set_up_torch(config)
        self._device = config.device
        self._module: Module | None = load_module(bundle, config.device)

    def run(self, image: NDArray[np.uint8]) -> RawOutput:
        """See `Backend.run`."""
        import torch

        check_input(image, self._height, self._width)
        if self._module is None:
            raise BackendError("this back-end is closed")
        try:
            with torch.inference_mode():
                found = self._module(torch.tensor(image, device=self._device))  # a copy: the input stays as it is
                arrays = [np.ascontiguousarray(output.cpu().numpy()) for output in found]
        except RuntimeError as error:  # the base of torch's own errors
            raise BackendError(f"torch failed on {self._device}: {first_line(error)}") from error
        return RawOutput(*arrays)

    def close(self) -> None:
        """See `Backend.close`."""
        self._module = None


def set_up_torch(config: BackendConfig) -> None:
    """Import torch and fix what its results and speed depend on: FP32 that is FP32, and the same one each time.

    Raises:
        BackendError: torch is missing, or sees no CUDA device where one is asked for.
    """
    try:
        import torch
    except ImportError as error:
        raise BackendError(f"torch does not load ({error}): install edge-ad[train], {INSTEAD}") from error
    if config.device == "cuda" and not torch.cuda.is_available():
        raise BackendError(f"torch {torch.__version__} sees no CUDA device: set device: cpu, {INSTEAD}")
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.set_float32_matmul_precision("highest")  # on the CPU too: oneDNN could take bfloat16
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True


def load_module(bundle: Bundle, device: str) -> Module:
    """The program as a module on a device.

    Raises:
        BundleError: this torch cannot load it.
        BackendError: the device has no room for it.
    """
    import torch
    from torch.export.passes import move_to_device_pass

    path = bundle.path / PROGRAM
    try:
        program = torch.export.load(path)
    except Exception as error:  # a format of another version ends in nearly any exception
        raise BundleError(
            f"torch {torch.__version__} cannot load {path}, written by torch {bundle.manifest.program_torch} "
            f"({first_line(error)}): {_export_again(f'torch {torch.__version__}')}, {INSTEAD}"
        ) from error
    try:
        module: Module = move_to_device_pass(program, device).module()
    except RuntimeError as error:
        raise BackendError(f"torch cannot put {path} on {device}: {first_line(error)}") from error
    return module


def _export_again(torch: str) -> str:
    return f"write it with {torch} by `edge-ad-train export RUN --out NEW_BUNDLE --program`"
