"""`edge-ad doctor`: the facts about this device that one asks for first when something is wrong."""

from __future__ import annotations

import grp
import importlib.metadata
import os
import platform
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2

from edge_ad import __version__
from edge_ad.backends import onnxruntime, processor
from edge_ad.bundle import open_bundle
from edge_ad.cameras.opencv import videoio
from edge_ad.clock import clock_synchronised
from edge_ad.config import StationConfig, V4l2Camera
from edge_ad.cuda.device import describe
from edge_ad.cuda.resize import find_nvcc
from edge_ad.engines import store
from edge_ad.engines.store import EngineRecord
from edge_ad.errors import BackendError, BundleError

Facts = list[tuple[str, str]]

DISTRIBUTIONS = ("numpy", "paho-mqtt", "torch", "torch-tensorrt", "tensorrt", "pycuda", "openvino")
DEVICE_GROUPS = ("video", "render")
_CLOCK = {True: "synchronised", False: "not synchronised: times in messages may be wrong", None: "not readable"}
_INT8 = {True: "", False: "; no VNNI, so openvino has no INT8"}
GIB = 2**30


def system() -> Facts:
    """Hardware, operating system and the groups that give access to cameras and the GPU."""
    cores = len(os.sched_getaffinity(0))
    groups = {grp.getgrgid(number).gr_name for number in os.getgroups() if _has_name(number)}
    return [
        ("edge-ad", __version__),
        ("device", _first_line(Path("/proc/device-tree/model")) or platform.machine()),
        ("L4T", _first_line(Path("/etc/nv_tegra_release")) or "no (not a Jetson)"),
        ("system", f"{platform.system()} {platform.release()}, Python {platform.python_version()}"),
        ("CPU", f"{processor.name() or platform.machine()}, {cores} cores{_INT8[processor.sums_int8_whole()]}"),
        ("CPU clock", clock(Path("/sys/devices/system/cpu/cpu0/cpufreq"))),
        *((("power mode", mode),) if (mode := _first_line(Path("/var/lib/nvpmodel/status"))) else ()),
        ("memory", f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / GIB:.1f} GiB"),
        ("GPU", describe()),
        ("clock", _CLOCK[clock_synchronised()]),
        ("groups", ", ".join(f"{name} {'yes' if name in groups else 'no'}" for name in DEVICE_GROUPS)),
    ]


def clock(folder: Path) -> str:
    """Governor and frequencies of a core, from its cpufreq folder; a virtual machine has none."""
    governor = _first_line(folder / "scaling_governor")
    khz = [_first_line(folder / name) for name in ("scaling_cur_freq", "scaling_max_freq")]
    if governor is None:
        return "not readable"
    now, most = (f"{int(value) // 1000}" if value else "?" for value in khz)
    return f"{governor}, {now} of {most} MHz"


def libraries() -> Facts:
    """Which libraries run, and from where; nothing heavy is imported to find out."""
    built_with = ", ".join(f"{name} {'yes' if has else 'no'}" for name, has in videoio().items())
    versions = [(name, _version(name)) for name in DISTRIBUTIONS]
    return [
        ("cv2", f"{cv2.__version__} at {cv2.__file__}: {built_with}"),
        ("onnxruntime", onnxruntime.describe()),
        *((name, version) for name, version in versions if version is not None),
        ("nvcc", find_nvcc() or "no: frames are prepared on the CPU"),
        *(("engine", engine) for engine in _engines()),
    ]


def station(config: StationConfig) -> Facts:
    """What a configuration refers to, as far as it can be seen without opening the camera or the broker."""
    return [
        ("station", config.station),
        ("bundle", _bundle(config)),
        ("camera", f"{config.camera.name} ({config.camera.kind})"),
        *([("device", _v4l2(config.camera))] if isinstance(config.camera, V4l2Camera) else []),
        ("state_dir", _disk(config.state_dir)),
        ("broker", f"{config.mqtt.host}:{config.mqtt.port}, MQTT {config.mqtt.protocol}"),
    ]


SECTIONS: Sequence[tuple[str, Callable[[], Facts]]] = (("system", system), ("libraries", libraries))


def _engines() -> list[str]:
    try:
        return [_engine(record) for record in store.records(store.engines_path())]
    except BackendError as error:
        return [str(error)]
    except OSError as error:
        return [f"{error.filename} cannot be read: {error.strerror}"]


def _engine(record: EngineRecord) -> str:
    key = record.key
    return f"{key.slot}: TensorRT {key.tensorrt}, CUDA {key.cuda}, {key.device} ({key.sm}), built at {record.built_at}"


def _first_line(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").splitlines()[0].strip("\0 ")
    except (OSError, IndexError):  # not this kind of device
        return None


def _has_name(number: int) -> bool:
    return any(group.gr_gid == number for group in grp.getgrall())


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _bundle(config: StationConfig) -> str:
    try:
        bundle = open_bundle(config.bundle)
    except BundleError as error:
        return str(error)
    return f"{config.bundle}: {bundle.manifest.method}/{bundle.manifest.profile}, {bundle.digest[:12]}"


def _v4l2(camera: V4l2Camera) -> str:
    return f"{camera.device}: {'present' if Path(camera.device).exists() else 'missing'}"


def _disk(path: Path) -> str:
    try:
        existing = next(parent for parent in (path, *path.parents) if parent.exists())
        return f"{path}: {shutil.disk_usage(existing).free / GIB:.1f} GiB free"
    except OSError as error:  # Python before 3.12 raises where this user may not look
        return f"{path}: {error.strerror}"
