"""The station's configuration: one YAML file, owned by the operator, checked as a whole before anything starts.

Paths are relative to the YAML file. Every quantity names its unit. Unknown keys are refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from edge_ad.core.alarm_board import ALARMS, Rules
from edge_ad.core.alarms import AlarmRules, Priority
from edge_ad.errors import ConfigError
from edge_ad.records import Mode, Roi
from edge_ad.sparkplug.session import Address

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,31}$"  # a topic level, a file name and a PLC string at once
Name = Annotated[str, Field(pattern=NAME_PATTERN)]


class Strict(BaseModel):
    """Frozen, and an unknown key is an error: a typo must not silently become a default."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _resolve(path: Path | None, info: ValidationInfo) -> Path | None:
    base = (info.context or {}).get("base", Path())
    try:
        return None if path is None else base / path.expanduser()
    except RuntimeError as error:
        raise ValueError(f"nobody here has the home directory of {path}: give the whole path") from error


class _WithPaths(Strict):
    """Resolves every Path field against the folder of the YAML file."""

    @field_validator("*", mode="after")
    @classmethod
    def _relative_to_file(cls, value: object, info: ValidationInfo) -> object:
        return _resolve(value, info) if isinstance(value, Path) else value


Precision = Literal["fp32", "fp16", "bf16", "int8"]


class BackendConfig(Strict):
    """Which engine runs the graph, and how."""

    name: Literal["onnxruntime", "openvino", "torch", "torch_tensorrt", "tensorrt"] = "onnxruntime"
    precision: Precision = Field(
        "fp32", description="int8 needs a bundle exported with it; fp16 is TensorRT's, bf16 openvino's"
    )
    device: Literal["cpu", "cuda", "tensorrt"] = Field("cpu", description="of onnxruntime, openvino and torch")
    threads: int = Field(0, ge=0, le=256, description="CPU threads of the engine; 0 = one per core")


class _Camera(_WithPaths):
    """What all cameras share."""

    name: Name
    open_timeout_s: float = Field(5.0, gt=0, le=120)
    read_timeout_s: float = Field(2.0, gt=0, le=120, description="without a frame for so long: a camera fault")
    backoff_min_s: float = Field(0.5, gt=0, le=60, description="first wait before reopening; doubles each time")
    backoff_max_s: float = Field(10.0, gt=0, le=600)

    @property
    def read_limit_s(self) -> float:
        """A read that takes longer is a fault, seconds."""
        return self.read_timeout_s

    @property
    def frame_size(self) -> tuple[int, int] | None:
        """(height, width) of all its frames, pixels; None where only a frame tells."""
        return None


class V4l2Camera(_Camera):
    """A USB or MIPI camera as a V4L2 device; prefer /dev/v4l/by-id/..., which survives a replug."""

    kind: Literal["v4l2"]
    device: str
    width: int | None = Field(None, gt=0)
    height: int | None = Field(None, gt=0)
    fps: float | None = Field(None, gt=0)
    fourcc: str | None = Field(None, min_length=4, max_length=4, description="pixel format, e.g. MJPG")
    hardware_trigger: bool = Field(False, description="it gives a frame only when its own trigger input fires")

    @property
    def frame_size(self) -> tuple[int, int] | None:
        """See `_Camera.frame_size`; a camera that gives another than the configured one is refused."""
        return None if self.width is None or self.height is None else (self.height, self.width)

    @property
    def select_timeout_s(self) -> int:
        """The driver waits so long for a frame: OpenCV takes whole seconds."""
        return math.ceil(self.read_timeout_s)

    @property
    def read_limit_s(self) -> float:
        """A camera that waits for its own trigger comes back without a frame after one time-out; that is no fault."""
        return 2.0 * self.select_timeout_s if self.hardware_trigger else self.read_timeout_s


class CsiCamera(_Camera):
    """A Jetson CSI camera through nvarguscamerasrc; needs a cv2 built with GStreamer."""

    kind: Literal["csi"]
    sensor_id: int = Field(0, ge=0)
    width: int = Field(1920, gt=0)
    height: int = Field(1080, gt=0)
    fps: int = Field(30, gt=0)

    @property
    def frame_size(self) -> tuple[int, int]:
        """See `_Camera.frame_size`."""
        return self.height, self.width


class RtspCamera(_Camera):
    """An IP camera. A password belongs into `password_file`, not into the URL.

    Messages show of the URL only scheme, host and port, for cameras take passwords in path and query too.
    """

    kind: Literal["rtsp"]
    url: str
    transport: Literal["tcp", "udp"] = "tcp"
    username: str | None = None
    password_file: Path | None = None

    # Of the whole section: where a single field is refused, the message quotes it, and with it the password.
    @model_validator(mode="after")
    def _no_secret_gets_lost(self) -> RtspCamera:
        if not _is_rtsp(self.url):
            raise ValueError(
                "url must be rtsp://host:port/path; percent-encode what is neither letter nor digit in its user and "
                "password (%2F for /), or give username and password_file"
            )
        if self.password_file is not None and self.username is None:
            raise ValueError("password_file wants username beside it; leave the user out of the url")
        return self


def _is_rtsp(url: str) -> bool:
    """Whether a URL falls into parts as it was meant: in a password, / ? # and [ end the host too early."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises where it is no number
    except ValueError:
        return False
    return bool(re.match("rtsps?://", url) and parts.hostname) and "@" not in parts.path + parts.query + parts.fragment


class FileCamera(_Camera):
    """A video file."""

    kind: Literal["file"]
    path: Path
    pace: Literal["block", "realtime"] = Field(
        "block", description="block: every frame waits for its turn; realtime: at the file's own rate, newest wins"
    )
    at_end: Literal["stop", "repeat"] = "stop"


class FolderCamera(_Camera):
    """A folder of images: replay, commissioning and tests. Inspects each image exactly once.

    In order of name, numbers in it by their value: part-8 before part-10.
    """

    kind: Literal["folder"]
    path: Path
    at_end: Literal["stop", "wait"] = Field("stop", description="stop: the daemon ends; wait: for new files")
    interval_s: float = Field(0.0, ge=0, le=3600, description="pause between two images")


class PlaybackConfig(_WithPaths):
    """What a simulation plays: recorded scores, or frames; from the first again after the last."""

    scores: Path | None = Field(
        None, description="CSV with the columns file and score, as edge-ad-train evaluate --scores writes"
    )
    frames: Path | None = Field(None, description="a folder of images, in order of name")
    rate_hz: float = Field(1.0, gt=0, le=1000, description="parts a second")
    count: int | None = Field(None, ge=1, description="ends after so many parts, restarts included; default: never")
    at_end: Literal["stop", "wait"] = Field("stop", description="stop: the daemon ends; wait: it stays, without parts")

    @model_validator(mode="after")
    def _one_of_them(self) -> PlaybackConfig:
        if (self.scores is None) == (self.frames is None):
            raise ValueError("give either scores or frames")
        return self


class SimulatedCamera(PlaybackConfig, _Camera):
    """No camera: recorded scores or frames, for commissioning and load tests. Every message says `simulated`."""

    kind: Literal["simulated"]


Camera = Annotated[
    V4l2Camera | CsiCamera | RtspCamera | FileCamera | FolderCamera | SimulatedCamera, Field(discriminator="kind")
]


def source_name(camera: Camera) -> str:
    """What a camera's parts come from: its kind, and where they lie, if they lie somewhere."""
    places = (getattr(camera, field, None) for field in ("path", "scores", "frames"))
    return " ".join([camera.kind, *(str(place.absolute()) for place in places if place is not None)])


TriggerKind = Literal["free", "command", "interval", "gpio", "camera"]


class FreeTrigger(Strict):
    """Every frame is a part; of a camera that runs free, the newest frame wins."""

    kind: Literal["free"] = "free"
    timeout_s: ClassVar[float] = 0.0  # nobody waits
    max_waiting: ClassVar[int] = 1


class _Announced(Strict):
    """A part is announced: it gets a result, whatever happens."""

    max_waiting: int = Field(
        8, ge=1, le=64, description="triggers that wait for a frame, frames that wait for inspection; more: overrun"
    )


class _Triggered(_Announced):
    """Something outside asks for the next frame."""

    timeout_s: float = Field(2.0, gt=0, le=600, description="no frame for so long: not_inspected, timeout")


class CommandTrigger(_Triggered):
    """The command `trigger` asks for the next frame."""

    kind: Literal["command"]


class IntervalTrigger(_Triggered):
    """A clock asks for the next frame."""

    kind: Literal["interval"]
    interval_s: float = Field(ge=0.01, le=86_400)


class GpioTrigger(_Triggered):
    """An edge on an input line asks for the next frame; needs the extra `gpio`."""

    kind: Literal["gpio"]
    chip: str = Field("/dev/gpiochip0", description="as gpiodetect lists it")
    line: int | str = Field(description="offset or name, as gpioinfo lists it")
    edge: Literal["rising", "falling"] = "rising"
    pull: Literal["as_is", "up", "down", "off"] = "as_is"
    debounce_ms: float = Field(1.0, ge=0, le=1000)


class CameraTrigger(_Announced):
    """The camera's own trigger input decides: every frame that it gives is a part."""

    kind: Literal["camera"]
    timeout_s: ClassVar[float] = 1.0  # the frame is there when its trigger becomes known


TriggerConfig = Annotated[
    FreeTrigger | CommandTrigger | IntervalTrigger | GpioTrigger | CameraTrigger, Field(discriminator="kind")
]


class RoiConfig(Strict):
    """Region of interest, pixels of the full frame."""

    x: int = Field(ge=0)
    y: int = Field(ge=0)
    w: int = Field(gt=0)
    h: int = Field(gt=0)

    def record(self) -> Roi:
        """The same as the record that the frame path uses."""
        return Roi(self.x, self.y, self.w, self.h)


class RegionConfig(Strict):
    """What of a defect is reported."""

    max_regions: int = Field(16, ge=1, le=256)
    min_area_px: int = Field(1, ge=1, description="smaller regions are left out, in full-frame pixels")


class TlsConfig(_WithPaths):
    """TLS 1.2 or newer to the broker; the certificate and the host name are always verified.

    Each file may be a systemd credential of that name.
    """

    ca_file: Path | None = Field(None, description="default: the system's certificate authorities")
    client_cert_file: Path | None = None
    client_key_file: Path | None = None

    @model_validator(mode="after")
    def _pair(self) -> TlsConfig:
        if (self.client_cert_file is None) != (self.client_key_file is None):
            raise ValueError("client_cert_file and client_key_file go together")
        return self


class MqttConfig(_WithPaths):
    """The broker. The client id is the station's name, with -sparkplug for that: two stations must not share one.

    The files may be systemd credentials of their names.
    """

    host: str = "127.0.0.1"
    port: int = Field(1883, ge=1, le=65535)
    protocol: Literal["5", "3.1.1"] = Field("5", description="3.1.1 cannot say why a publish was refused")
    username: str | None = None
    username_file: Path | None = Field(None, description="instead of username")
    password_file: Path | None = None
    tls: TlsConfig | None = None
    keepalive_s: int = Field(15, ge=5, le=3600)
    backoff_min_s: float = Field(0.5, gt=0, le=60)
    backoff_max_s: float = Field(15.0, gt=0, le=600)
    stall_s: float = Field(
        2.0, ge=0.5, le=60, description="what the network has not carried to the broker for so long ends the connection"
    )
    in_flight: int = Field(20, ge=1, le=1000, description="publishes that wait for the broker's acknowledgement")

    @model_validator(mode="after")
    def _one_user(self) -> MqttConfig:
        if self.username is not None and self.username_file is not None:
            raise ValueError("username and username_file exclude each other")
        return self


class OutboxConfig(Strict):
    """Store-and-forward of results on disk."""

    max_rows: int = Field(200_000, ge=100, description="unsent rows; reached: OK results are dropped, oldest first")
    max_mb: int = Field(512, ge=16, description="size of the database, MB; reached: as max_rows")
    keep_sent_s: float = Field(86_400.0, ge=0, description="how long acknowledged rows stay for a replay")
    historical_after_s: float = Field(10.0, gt=0, description="published so long after capture: historical is true")


class PlcConfig(Strict):
    """The compact topic for controllers."""

    deadline_s: float = Field(1.0, gt=0, le=60, description="after capture; a later verdict is sent as res 0, late")


class CommandsConfig(Strict):
    """Commands over MQTT; who may give them is for the broker's access list to say."""

    enabled: bool = Field(False, description="listen on cmd/<name>, answer on reply/<name>")
    max_shelve_s: float = Field(28_800.0, ge=1, le=604_800, description="an alarm is shelved for at most so long")
    threshold_down: float = Field(
        0.0, ge=0, le=1, description="the image threshold may be set lower than fitted by this share of it"
    )
    threshold_up: float = Field(0.0, ge=0, le=1, description="likewise higher: then more defects pass")
    snapshots_mb: int = Field(256, ge=1, le=1_000_000, description="size of <state_dir>/snapshots; the oldest go first")


SparkplugId = Annotated[str, Field(pattern=r"^[^+/#\x00-\x1f]{1,64}$")]  # a level of a topic


class SparkplugConfig(Strict):
    """The station as an edge node of Eclipse Sparkplug 3.0, with its camera as the device."""

    group_id: SparkplugId
    edge_node_id: SparkplugId | None = Field(None, description="default: the station's name")
    primary_host_id: SparkplugId | None = Field(None, description="births and data wait until this host is online")
    mqtt: MqttConfig | None = Field(None, description="default: the station's broker")
    resend_s: float = Field(
        60.0,
        gt=0,
        le=3600,
        description="sent so shortly before the broker or the host was lost: sent again, as history",
    )

    def address(self, station: str, camera: str) -> Address:
        """Where the station is in Sparkplug's topics."""
        return Address(self.group_id, self.edge_node_id or station, camera)


AlarmId = Literal["defect", "camera", "model", "uncalibrated", "outbox"]


class AlarmConfig(Strict):
    """How an alarm behaves; docs/alarms.md has the states."""

    priority: Priority = "high"
    acknowledge: bool = Field(False, description="an operator must acknowledge it")
    latch: bool = Field(False, description="it stays until it is reset although the cause is gone")
    raises_per_minute: int | None = Field(None, ge=1, le=600, description="raised events; more are held back")
    realarm_s: float | None = Field(None, ge=10, le=86_400, description="announced again while not acknowledged")
    suppressed_by: tuple[AlarmId, ...] = Field((), description="alarms that explain this one")
    out_of_service: bool = Field(False, description="never announced")

    def rules(self) -> AlarmRules:
        """The same as the record that the state machine uses."""
        return AlarmRules(**self.model_dump())


class PartAlarmConfig(AlarmConfig):
    """An alarm that parts raise and clear."""

    raise_parts: int = Field(1, ge=1, le=64, description="so many bad parts ...")
    of_parts: int = Field(1, ge=1, le=64, description="... among the last so many raise it")
    reset_parts: int = Field(1, ge=1, le=1000, description="so many good parts in a row are the end of its cause")

    @model_validator(mode="after")
    def _can_be_raised(self) -> PartAlarmConfig:
        if self.raise_parts > self.of_parts:
            raise ValueError(f"raise_parts {self.raise_parts} cannot be more than of_parts {self.of_parts}")
        return self


class DefectAlarmConfig(PartAlarmConfig):
    """The alarm of defects."""

    hysteresis: float = Field(
        0.0, ge=0, lt=1, description="a part helps to end it only at a score <= (1 - hysteresis) * threshold"
    )


class AlarmsConfig(Strict):
    """The alarms of the station's camera."""

    defect: DefectAlarmConfig = DefectAlarmConfig()
    camera: AlarmConfig = AlarmConfig()
    model: PartAlarmConfig = PartAlarmConfig()
    uncalibrated: PartAlarmConfig = PartAlarmConfig()
    outbox: PartAlarmConfig = PartAlarmConfig()

    def rules(self) -> Rules:
        """Alarm id -> its rules."""
        configs: dict[str, AlarmConfig] = {alarm: getattr(self, alarm) for alarm in ALARMS}
        return {alarm: config.rules() for alarm, config in configs.items()}

    @model_validator(mode="after")
    def _none_suppresses_itself(self) -> AlarmsConfig:
        for alarm, rules in self.rules().items():
            if alarm in rules.suppressed_by:
                raise ValueError(f"{alarm}.suppressed_by names the alarm itself")
        return self


class RecordingConfig(_WithPaths):
    """Keep the decoded frames as PNG, named by frame_id, up to a number; then the oldest goes."""

    dir: Path
    max_frames: int = Field(1000, ge=1)


class LimitsConfig(Strict):
    """How long a stage may take before the watchdog is no longer fed."""

    inference_s: float = Field(5.0, gt=0, le=600)
    commit_s: float = Field(10.0, gt=0, le=600)


class StationConfig(_WithPaths):
    """One station: one camera, one bundle, one broker."""

    station: Name
    state_dir: Path = Field(description="outbox and other state; kept over restarts")
    bundle: Path
    store: Path | None = Field(None, description="calibration store; default: <bundle>.calibration beside it")
    backend: BackendConfig = BackendConfig()
    camera: Camera
    trigger: TriggerConfig = FreeTrigger()
    roi: RoiConfig | None = None
    regions: RegionConfig = RegionConfig()
    mqtt: MqttConfig = MqttConfig()
    outbox: OutboxConfig = OutboxConfig()
    plc: PlcConfig = PlcConfig()
    alarms: AlarmsConfig = AlarmsConfig()
    commands: CommandsConfig = CommandsConfig()
    sparkplug: SparkplugConfig | None = None
    simulate: PlaybackConfig | None = Field(None, description="what mode simulate plays in place of the camera")
    record: RecordingConfig | None = None
    limits: LimitsConfig = LimitsConfig()

    @model_validator(mode="after")
    def _duties_can_be_fulfilled(self) -> StationConfig:
        for alarm, rules in self.alarms.rules().items():
            if (rules.acknowledge or rules.latch) and not self.commands.enabled:
                raise ValueError(f"alarms.{alarm} wants acknowledge or reset commands: set commands.enabled to true")
        return self

    @model_validator(mode="after")
    def _a_dead_connection_is_noticed_in_time(self) -> StationConfig:
        """Without a sign of life for two keep-alive intervals a connection counts as lost."""
        if self.sparkplug is not None:
            silence_s = 2 * (self.sparkplug.mqtt or self.mqtt).keepalive_s
            if self.sparkplug.resend_s <= silence_s:
                raise ValueError(
                    f"sparkplug.resend_s must be more than two keepalive_s, {silence_s} s, or rows get lost"
                )
        return self

    @model_validator(mode="after")
    def _triggers_can_come(self) -> StationConfig:
        if self.trigger.kind == "command" and not self.commands.enabled:
            raise ValueError("trigger.kind command wants commands: set commands.enabled to true")
        by_camera = isinstance(self.camera, V4l2Camera) and self.camera.hardware_trigger
        if (self.trigger.kind == "camera") != by_camera:
            raise ValueError("trigger.kind camera and hardware_trigger of a v4l2 camera go together")
        return self

    @model_validator(mode="after")
    def _one_playback(self) -> StationConfig:
        if self.simulate is not None and isinstance(self.camera, (FileCamera, FolderCamera, SimulatedCamera)):
            raise ValueError(f"simulate is for a station with a real camera: kind {self.camera.kind} is none")
        if self.simulate is not None and self.simulate.count is not None and self.simulate.at_end == "stop":
            raise ValueError(
                "simulate.count would end the daemon, also when it starts again: set simulate.at_end to wait"
            )
        return self

    def source(self, mode: Mode) -> Camera:
        """What parts come from in a mode: the camera, or what plays under its name."""
        if mode != "simulate" or self.simulate is None:
            return self.camera
        return SimulatedCamera(kind="simulated", name=self.camera.name, **self.simulate.model_dump())

    def store_dir(self) -> Path:
        """The calibration store in use."""
        return self.store if self.store is not None else default_store(self.bundle)

    def brokers(self) -> dict[str, MqttConfig]:
        """Section -> the broker that it names."""
        sparkplug = self.sparkplug.mqtt if self.sparkplug is not None else None
        return {"mqtt": self.mqtt} | ({"sparkplug.mqtt": sparkplug} if sparkplug is not None else {})

    def roi_record(self) -> Roi | None:
        """The ROI as the frame path's record."""
        return self.roi.record() if self.roi is not None else None


def default_store(bundle: Path) -> Path:
    """The calibration store that belongs to a bundle unless the configuration names another: an absolute path."""
    place = bundle.absolute()  # `.` has no name
    if place.name == "..":
        place = place.resolve()
    return place.with_name(f"{place.name}.calibration")


class _Loader(yaml.SafeLoader):
    """A key that is there twice is an error: the second would replace the first, a whole section as well."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value} is there twice", key.start_mark)
            if isinstance(key, yaml.ScalarNode):
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def load_yaml(path: Path) -> dict[str, object]:
    """Read a YAML file that holds one mapping, each key once.

    Raises:
        ConfigError: the file is missing, is not YAML, or holds something else.
    """
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506 - a SafeLoader
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: no UTF-8, or no date: 2026-02-30
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold a mapping of keys to values")
    return values


def first_problem(error: ValidationError) -> str:
    """The first problem of a validation as "where: what", on one line; a whole section is not told again.

    An unknown key comes before one that is missing: the former, misspelt, is most often why the latter is.
    """
    problems = error.errors()
    problem = min(problems, key=lambda each: each["type"] != "extra_forbidden")
    what = _what(problem, problems)
    if problem["type"] == "value_error" and not problem["loc"]:  # a rule between sections, which names them itself
        return what[:300]
    where = ".".join(str(part) for part in problem["loc"]) or "the file"
    return f"{where}: {what}"[:300]


def _what(problem: ErrorDetails, problems: Sequence[ErrorDetails]) -> str:
    if problem["type"] != "extra_forbidden":
        got = "" if isinstance(problem["input"], dict) else f" (got {problem['input']!r})"
        return " ".join(problem["msg"].removeprefix("Value error, ").split()) + got
    beside = problem["loc"][:-1]
    missing = [str(p["loc"][-1]) for p in problems if p["type"] == "missing" and p["loc"][:-1] == beside]
    return "no such key" + (f"; missing beside it: {', '.join(missing)}" if missing else "")


def load(path: Path) -> StationConfig:
    """Read a station's configuration.

    Raises:
        ConfigError: naming the file, the key and what is wrong with it.
    """
    try:
        return StationConfig.model_validate(load_yaml(path), context={"base": path.parent.absolute()})
    except ValidationError as error:
        raise ConfigError(f"{path}: {first_problem(error)}") from error
