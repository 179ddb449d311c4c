"""What a TensorRT engine depends on. Pure: the facts come in, the differences go out."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

from edge_ad.config import Precision

Builder = Literal["tensorrt", "torch_tensorrt"]

RECIPE = 1  # counts the changes of our own building code that make older engines obsolete

# Field of a key -> what it is called in a message.
_NAMES = {
    "recipe": "edge-ad's way to build",
    "bundle": "bundle",
    "builder": "builder",
    "precision": "precision",
    "shape": "input shape",
    "device": "GPU",
    "sm": "architecture",
    "multiprocessors": "multiprocessors",
    "memory_gib": "GPU memory in GiB",
    "cuda": "CUDA",
    "tensorrt": "TensorRT",
    "torch": "torch",
    "torch_tensorrt": "Torch-TensorRT",
}
_ONLY_BUILDS = ("torch", "torch_tensorrt")


@dataclass(frozen=True, slots=True)
class EngineKey:
    """All that an engine was built from and for; where one field differs, it is built anew.

    Attributes:
        bundle: digest.
        builder: who builds it; also the name of the back-end that runs it.
        precision: of the graph that the builder was given; none other is ever chosen by the builder.
        shape: of the input, (N, H, W, 3); N is fixed: the tiles of one frame.
        device: the GPU's name.
        sm: its architecture, "sm_87".
        multiprocessors: how many it has. All Jetson Orin modules have one name and one architecture.
        memory_gib: its memory, as `DeviceFacts.memory_gib`.
        cuda: newest CUDA version of the driver, "12.6".
        tensorrt: version.
        torch, torch_tensorrt: versions; None where they are not installed, or TensorRT's own builder needs neither. The
            compiler for TensorRT-RTX, another distribution, has a word before its version: "rtx 2.13.0".
        recipe: `RECIPE` at the time.
    """

    bundle: str
    builder: Builder
    precision: Precision
    shape: tuple[int, int, int, int]
    device: str
    sm: str
    multiprocessors: int
    memory_gib: int
    cuda: str
    tensorrt: str
    torch: str | None
    torch_tensorrt: str | None
    recipe: int = RECIPE

    @property
    def slot(self) -> str:
        """The name of the place that an engine takes: one for each bundle, builder and precision."""
        return f"{self.bundle[:12]}-{self.builder}-{self.precision}"


def differences(built: EngineKey, here: EngineKey, *, to_run: bool = False) -> str:
    """What differs, "TensorRT 10.3.0 -> 10.7.0, CUDA 12.6 -> 12.8"; empty if the engine is for here.

    Args:
        built: the engine's.
        here: one that would be built here and now.
        to_run: the engine need only run here, so what only builders use may be missing.
    """
    was, now = asdict(built), asdict(here)
    missing = {field for field in _ONLY_BUILDS if to_run and now[field] is None}
    differ = [field for field in _NAMES if was[field] != now[field] and field not in missing]
    return ", ".join(f"{_NAMES[field]} {was[field]} -> {now[field]}" for field in differ)
