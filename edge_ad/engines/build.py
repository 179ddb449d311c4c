"""`edge-ad build`: an engine for this device from a bundle: built, proved on the golden images, put in service."""

from __future__ import annotations

import datetime
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edge_ad.backends.base import prove_golden, tolerance
from edge_ad.backends.tensorrt import TensorRTBackend
from edge_ad.bundle import Bundle, open_bundle
from edge_ad.config import Precision
from edge_ad.cuda.device import DeviceFacts, device_facts
from edge_ad.engines import memory, store
from edge_ad.engines.kernel import provide_kernel
from edge_ad.engines.key import Builder, EngineKey
from edge_ad.engines.onnx_graph import typed_graph
from edge_ad.engines.store import EngineRecord, NoEngineError
from edge_ad.engines.tensorrt import Limits, build_from_onnx, load_tensorrt
from edge_ad.engines.torch_tensorrt import (
    build_from_program,
    compiler_version,
    installed_version,
    load_vendor,
    refuse_unfit,
)
from edge_ad.errors import BackendError, BundleError

Wanted = Literal["auto", "torch_tensorrt", "tensorrt"]


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for.

    Attributes:
        bundle: its directory.
        precision: of the engine.
        builder: "auto" takes Torch-TensorRT where it can build from the bundle's program, else TensorRT's own builder.
        state_dir: where engines are kept; None for the default.
        workspace_mib: scratch memory of one kernel; None for a share of what is free.
        again: build also where an engine is in service, measuring kernels anew, and the kernel for frames with it.
    """

    bundle: Path
    precision: Precision
    builder: Wanted = "auto"
    state_dir: Path | None = None
    workspace_mib: int | None = None
    again: bool = False


def run_build(request: Request, say: Callable[[str], None]) -> EngineRecord:
    """Build what is asked for, saying what is done in lines; returns the record of the engine in service.

    Raises:
        BundleError: the bundle cannot be used, or the new engine misses its golden outputs: it is not put in service.
        BackendError: there is no CUDA or no TensorRT, or the builder refused.
    """
    bundle = open_bundle(request.bundle)
    builder, why = choose(bundle, request.precision, request.builder)
    tolerance(bundle, f"{builder}/{request.precision}")  # before minutes of building
    if why:
        say(why)
    load_tensorrt()
    facts = device_facts()
    folder = store.engines_dir(request.state_dir)
    say(f"GPU: {facts}")
    provide_kernel(folder, facts, bundle.manifest.input.frame_layout(), say, again=request.again)
    key = current_key(bundle, builder, request.precision, facts)
    with store.building(folder, key):
        if request.again:
            store.forget_timings(folder, key)
        found = _in_service(folder, key, say, again=request.again)
        return found or _build(bundle, key, folder, _limits(request, key, folder, facts, say), say)


def choose(bundle: Bundle, precision: Precision, wanted: Wanted) -> tuple[Builder, str]:
    """The builder, and why it is not Torch-TensorRT where that was left open.

    What is installed may still see no GPU or not load, and only loading it shows that: where the choice is ours, it is
    loaded before it is made.

    Raises:
        BundleError, BackendError: Torch-TensorRT was asked for and cannot build this; what would mend it.
    """
    if wanted == "tensorrt":
        return "tensorrt", ""
    try:
        refuse_unfit(bundle, precision)
        if wanted == "auto":
            load_vendor()
    except (BundleError, BackendError) as error:
        if wanted == "torch_tensorrt":
            raise
        return "tensorrt", f"TensorRT's own builder, from ONNX; not Torch-TensorRT: {error}"
    return "torch_tensorrt", ""


def current_key(bundle: Bundle, builder: Builder, precision: Precision, facts: DeviceFacts) -> EngineKey:
    """The key of an engine that would be built here and now; nothing heavy is imported for it.

    Raises:
        BackendError: TensorRT does not load.
    """
    layout = bundle.manifest.input.frame_layout()
    with_torch = builder == "torch_tensorrt"
    return EngineKey(
        bundle=bundle.digest,
        builder=builder,
        precision=precision,
        shape=(layout.tiles, layout.height, layout.width, 3),
        device=facts.name,
        sm=facts.sm,
        multiprocessors=facts.multiprocessors,
        memory_gib=facts.memory_gib,
        cuda=facts.driver_version,
        tensorrt=load_tensorrt().__version__,
        torch=installed_version("torch") if with_torch else None,
        torch_tensorrt=compiler_version() if with_torch else None,
    )


def _in_service(folder: Path, key: EngineKey, say: Callable[[str], None], *, again: bool) -> EngineRecord | None:
    """The engine that is already there, unless another is wanted or needed."""
    try:
        record = store.in_service(folder, key)
        store.read_plan(folder, record)
    except NoEngineError as error:
        say(f"building: {error}")
        return None
    if again:
        say("building again, as asked")
        return None
    say(f"nothing to do: built at {record.built_at} (--again builds anew)")
    return record


def _limits(request: Request, key: EngineKey, folder: Path, facts: DeviceFacts, say: Callable[[str], None]) -> Limits:
    available = memory.available_bytes() if facts.integrated else facts.memory_bytes
    caution = memory.warning(available, key.builder, integrated=facts.integrated)
    if caution:
        say(f"warning: {caution}")
    asked = request.workspace_mib
    workspace = memory.workspace_bytes(available) if asked is None else asked * memory.MIB
    return Limits(workspace, store.timing_cache(folder, key))


def _build(bundle: Bundle, key: EngineKey, folder: Path, limits: Limits, say: Callable[[str], None]) -> EngineRecord:
    """Build, prove, switch; what is in service stays until the new engine has proved itself."""
    started_s = time.monotonic()
    plan = _plan(bundle, key, limits)
    build_s = time.monotonic() - started_s
    store.give_to_owner(limits.timing_cache)
    say(f"built by {key.builder} in {build_s:.0f} s, {len(plan) / 1e6:.1f} MB")
    errors = prove(bundle, key, plan)
    say("golden images: " + ", ".join(f"{name} off by {error:.2g}" for name, error in errors.items()))
    record = _record(key, store.write_plan(folder, key, plan), plan, build_s, errors)
    store.switch(folder, record)
    say(f"in service: backend: {{name: {key.builder}, precision: {key.precision}}}; calibrate in this precision")
    return record


def _plan(bundle: Bundle, key: EngineKey, limits: Limits) -> bytes:
    if key.builder == "torch_tensorrt":
        return build_from_program(bundle, key.precision, key.shape, limits)
    return build_from_onnx(load_tensorrt(), typed_graph(bundle, key.precision), key.shape, limits)


def prove(bundle: Bundle, key: EngineKey, plan: bytes) -> dict[str, float]:
    """Run the golden images through an engine: its largest errors.

    Raises:
        BundleError: one is above the manifest's tolerance.
        BackendError: the engine does not load or run.
    """
    backend = TensorRTBackend(bundle, key.builder, key.precision, plan, None)
    try:
        return prove_golden(bundle, backend)
    finally:
        backend.close()


def _record(key: EngineKey, path: Path, plan: bytes, build_s: float, errors: dict[str, float]) -> EngineRecord:
    return EngineRecord(
        schema="edge-ad/engine/1",
        key=key,
        plan=path.name,
        sha256=hashlib.sha256(plan).hexdigest(),
        bytes=len(plan),
        built_at=datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        build_s=round(build_s, 1),
        golden_errors=errors,
    )
