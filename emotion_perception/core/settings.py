"""Every setting of the node and the commands: its default, unit, range and meaning.

The dataclasses below and in `recognizer_settings` are the single source of each default. Their
fields become the ROS parameters of the node, the options `-p NAME:=VALUE` of the commands,
`config/emotion_perception.yaml` and the tables in docs/reference. A setting of a group is named
`group.name`, for example `detector.confidence`. Of `detector` and `recognizer` each variant has a
class of its own, chosen by the setting `name`.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from emotion_perception.core import package_paths
from emotion_perception.core.recognizer_settings import (
    RECOGNIZER_SETTINGS,
    RecognizerSettings,
    VlmSettings,
)
from emotion_perception.core.schema import Setting, Value, build, collect, setting, variants

NODE_NAME = "emotion_node"
"""The name of the node, and of its section in a parameter file."""

ROS_PARAMETERS = ("use_sim_time", "start_type_description_service")
"""Parameters that every ROS node has, besides `qos_overrides.*`."""


UNKNOWN_ENCODING = "unknown"
"""Value of `image_encoding` with which images without a channel order are refused."""

SETTING_ENCODINGS = (
    *("mono8", "bayer_rggb8", "bayer_bggr8", "bayer_gbrg8", "bayer_grbg8"),
    *("uyvy", "yuyv", "rgb8", "bgr8", "rgba8", "bgra8"),
)
"""Meanings that `image_encoding` can give to images without a channel order."""


@dataclass(frozen=True, slots=True)
class DetectorSettings:
    """Settings that every detector has."""

    name: str
    confidence: float = setting(
        0.4,
        "Minimum detection confidence to start a track; weaker detections can only extend one.",
        minimum=0.05,
        maximum=1.0,
    )


@dataclass(frozen=True, slots=True)
class ModelDetectorSettings(DetectorSettings):
    """Settings that every detector with a model has."""

    device: str = setting("auto", "Processor: auto, cpu, cuda, cuda:0, ...")


_PERSON_CLASS = setting(
    "person",
    "Name of the class of people in the model, or class_id in the messages, compared without case; "
    "with `topic`, empty means every box.",
)


@dataclass(frozen=True, slots=True)
class BodyDetectorSettings(ModelDetectorSettings):
    """The model of a detector of whole bodies."""

    model: str = setting(
        "yolo11n.pt",
        "Model; yolo: a file .pt, .onnx or .engine, or yolo11n-seg (from a wheel or fetched); "
        "detr: a folder, or the name of a fetched hub model.",
    )
    person_class: str = _PERSON_CLASS
    image_size: int = setting(
        640,
        "Longer side of the image that the model sees; detr sees a square, rounded down to the "
        "next size that the model can process.",
        unit="px",
        minimum=32,
        maximum=4096,
    )


@dataclass(frozen=True, slots=True)
class YoloSettings(BodyDetectorSettings):
    """Settings of `yolo`."""

    name: str = "yolo"


@dataclass(frozen=True, slots=True)
class DetrSettings(BodyDetectorSettings):
    """Settings of `detr`."""

    name: str = "detr"


@dataclass(frozen=True, slots=True)
class FaceDetectorSettings(ModelDetectorSettings):
    """Settings of `face`."""

    name: str = "face"


@dataclass(frozen=True, slots=True)
class TopicDetectorSettings(DetectorSettings):
    """Settings of `topic`."""

    name: str = "topic"
    source: str = setting(
        "detections",
        "Topic of the boxes: detections (vision_msgs/Detection2DArray on `detections`) or bodies "
        "(ROS4HRI, below `ros4hri.root`).",
        choices=("detections", "bodies"),
        start_only=True,
    )
    ids: str = setting(
        "source",
        "Who tracks people: source (the ids in the messages are kept) or tracker (that of this "
        "node; the messages need no ids).",
        choices=("source", "tracker"),
    )
    person_class: str = _PERSON_CLASS
    wait: float = setting(
        0.5,
        "Time for which an image is held until its boxes arrive; without them it is dropped.",
        unit="s",
        minimum=0.0,
        maximum=10.0,
    )
    tolerance: float = setting(
        0.005,
        "Maximum difference between the stamps of an image and its boxes.",
        unit="s",
        minimum=0.0,
        maximum=1.0,
    )


DETECTOR_SETTINGS: dict[str, type[DetectorSettings]] = {
    "yolo": YoloSettings,
    "detr": DetrSettings,
    "face": FaceDetectorSettings,
    "topic": TopicDetectorSettings,
}
"""Name of a detector to the class of its settings, the default first."""


@dataclass(frozen=True, slots=True)
class DepthSettings:
    """Settings of the depth image."""

    enabled: bool = setting(
        False,
        "Subscribe to `depth/image`, a depth image registered to the camera image, and fill in the "
        "position of each person.",
    )
    tolerance: float = setting(
        0.1,
        "Maximum difference between the stamps of an image and its depth image.",
        unit="s",
        minimum=0.0,
        maximum=10.0,
        live=True,
    )


@dataclass(frozen=True, slots=True)
class TrackerSettings:
    """Settings of the tracker."""

    lost_after: float = setting(
        1.5, "Time without a detection after which a track ends.", unit="s", minimum=0.0,
        maximum=60.0,
    )  # fmt: skip
    confirm_frames: int = setting(
        2,
        "Consecutive frames with a detection that start a track.",
        unit="frames",
        minimum=2,
        maximum=30,
    )
    min_iou: float = setting(
        0.2,
        "Minimum overlap (IoU) of a detection with the predicted box of its track.",
        minimum=0.01,
        maximum=1.0,
    )
    remember: float = setting(
        10.0,
        "Time after the last detection within which a person who comes back and looks the same "
        "gets the same id; 0: the appearance is not used.",
        unit="s",
        minimum=0.0,
        maximum=600.0,
    )


@dataclass(frozen=True, slots=True)
class SchedulerSettings:
    """Settings of the scheduler."""

    refresh: float = setting(
        1.0,
        "Minimum time between two assessments of the same person.",
        unit="s",
        minimum=0.0,
        maximum=3600.0,
        live=True,
    )
    refresh_still: float = setting(
        0.0,
        "Time between two assessments of a person who does not visibly change, at most `max_age` "
        "less two rounds (more if not all people fit into one); 0: the same as `refresh`.",
        unit="s",
        minimum=0.0,
        maximum=3600.0,
        live=True,
    )
    min_change: float = setting(
        10.0,
        "Mean difference of a small part of a person, or of what surrounds the people, that is a "
        "visible change; read with `refresh_still` above 0.",
        unit="grey levels",
        minimum=1.0,
        maximum=255.0,
        live=True,
    )
    max_people: int = setting(
        4,
        "Maximum number of people per round of the recognizer; the others wait for a later round.",
        minimum=1,
        maximum=64,
        live=True,
    )


@dataclass(frozen=True, slots=True)
class VisibilitySettings:
    """Limits below which a person is not assessed."""

    min_height: int = setting(
        40, "Minimum height of the person's box.", unit="px", minimum=0, maximum=4096, live=True
    )
    min_aspect: float = setting(
        0.2,
        "Minimum ratio of width to height of a box at the left or right edge of the frame; a "
        "narrower one is cut off.",
        minimum=0.0,
        maximum=10.0,
        live=True,
    )
    min_sharpness: float = setting(
        4.0,
        "Minimum variance of the Laplacian of the person's crop, scaled to 128 px height; 0: no "
        "minimum.",
        minimum=0.0,
        maximum=10000.0,
        live=True,
    )


@dataclass(frozen=True, slots=True)
class Ros4HriSettings:
    """Settings of the topics of ROS4HRI."""

    enabled: bool = setting(
        False,
        "Publish people as bodies, and as faces where the detector finds faces, in the messages of "
        "hri_msgs.",
        start_only=True,  # it publishes images of people
    )
    root: str = setting("/humans", "Namespace of the topics.")
    id_prefix: str = setting(
        "",
        "Beginning of each id, a letter first; empty: the namespace and name of the node, nothing "
        "for `/emotion_node`.",
    )
    grace: float = setting(
        2.0,
        "Time without the person after which the topics of a person end.",
        unit="s",
        minimum=0.0,
        maximum=60.0,
    )


@dataclass(frozen=True, slots=True)
class PrivacySettings:
    """What of people is shown in images that come out of the package."""

    blur_faces: bool = setting(
        False,
        "Blur faces in debug images, crops, reports, thumbnails and recorded images: those that "
        "are found, and the upper third of each person without one.",
    )


@dataclass(frozen=True, slots=True)
class WatchdogSettings:
    """When a process that no longer works ends itself."""

    hang: float = setting(
        120.0,
        "Duration of a round or of any other step of the node after which the process prints its "
        "stacks and ends; 0: never.",
        unit="s",
        minimum=0.0,
        maximum=86400.0,
    )
    load: float = setting(
        900.0,
        "The same for configure, which loads the models; 0: never.",
        unit="s",
        minimum=0.0,
        maximum=86400.0,
    )


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of one node, replay or evaluation."""

    image_transport: str = setting(
        "raw",
        "Message type of the images: raw (sensor_msgs/Image), compressed (CompressedImage), ffmpeg "
        "(FFMPEGPacket of ffmpeg_image_transport_msgs) or foxglove (CompressedVideo of "
        "foxglove_msgs); all but raw arrive on a topic with this ending, and the last two need "
        "PyAV.",
        choices=("raw", "compressed", "ffmpeg", "foxglove"),
        start_only=True,  # it selects the topic
    )
    image_encoding: str = setting(
        UNKNOWN_ENCODING,
        "Meaning of images in 8UC1, 8UC2, 8UC3 or 8UC4, which have no channel order; unknown: they "
        "are refused.",
        choices=(UNKNOWN_ENCODING, *SETTING_ENCODINGS),
    )
    max_pixels: int = setting(
        50_000_000,
        "Maximum number of pixels of an image; larger ones are refused before they are decoded.",
        unit="px",
        minimum=1,
        maximum=1_000_000_000,
    )
    autostart: bool = setting(
        True, "Configure and activate at start; set to false under a lifecycle manager."
    )
    bond_timeout: float = setting(
        0.0,
        "Time without a heartbeat of the lifecycle manager after which the bond with it is broken, "
        "which /diagnostics reports; 0: no bond. It needs the package bondpy.",
        unit="s",
        minimum=0.0,
        maximum=3600.0,
    )
    max_rate: float = setting(
        0.0,
        "Maximum rate of processed frames; 0: every frame.",
        unit="Hz",
        minimum=0.0,
        maximum=1000.0,
        live=True,
    )
    max_age: float = setting(
        5.0,
        "Age after which an assessment is EXPIRED.",
        unit="s",
        minimum=0.0,
        maximum=3600.0,
        live=True,
    )
    heartbeat: float = setting(
        1.0,
        "Maximum time between two messages, which repeat the estimates if nothing new happened; a "
        "subscriber may ask for a deadline or a lease of twice this time.",
        unit="s",
        minimum=0.05,
        maximum=3600.0,
    )
    smoothing: float = setting(
        1.0,
        "Time constant of the smoothing of each person's scores; 0: none.",
        unit="s",
        minimum=0.0,
        maximum=600.0,
        live=True,
    )
    silence: float = setting(
        3.0,
        "Time without an image that was processed after which all estimates are EXPIRED, and "
        "without a model answer after which /diagnostics warns.",
        unit="s",
        minimum=0.1,
        maximum=3600.0,
        live=True,
    )
    vision_msgs: bool = setting(
        False, "Publish `~/detections` and `~/detection_labels` in the messages of vision_msgs."
    )
    depth: DepthSettings = field(default_factory=DepthSettings)
    detector: DetectorSettings = variants(  # noqa: RUF009 (a dataclass field)
        DETECTOR_SETTINGS,
        "Detector: yolo or detr (whole bodies), face (faces) or topic (boxes of another node).",
    )
    tracker: TrackerSettings = field(default_factory=TrackerSettings)
    scheduler: SchedulerSettings = field(default_factory=SchedulerSettings)
    visibility: VisibilitySettings = field(default_factory=VisibilitySettings)
    ros4hri: Ros4HriSettings = field(default_factory=Ros4HriSettings)
    privacy: PrivacySettings = field(default_factory=PrivacySettings)
    watchdog: WatchdogSettings = field(default_factory=WatchdogSettings)
    recognizer: RecognizerSettings = variants(  # noqa: RUF009
        RECOGNIZER_SETTINGS, "Recognizer, see docs/reference/systems.md; on a robot use vlm."
    )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any] | None = None) -> Settings:
        """Return settings from `{"group.name": value}`; the others keep their defaults.

        A text such as `package://PACKAGE/PATH` becomes the path of that file or folder.

        Raises:
            ValueError: a name does not exist, a value is not allowed, a value that is not the
                default belongs to a detector or recognizer that is not chosen, or there is no such
                package or file.
        """
        values = dict(values or {})
        for name, value in values.items():
            if name not in SETTINGS:
                raise ValueError(f"there is no setting {name!r}{hint(name, value)}")
        valid = {name: SETTINGS[name].validate(value) for name, value in values.items()}
        for name, value in valid.items():
            if isinstance(value, str):
                try:
                    valid[name] = package_paths.resolve(value)
                except ValueError as error:
                    raise ValueError(f"{name}: {error}") from error
        settings: Settings = build(cls, valid)
        return settings

    def to_dict(self) -> dict[str, Value]:
        """Return every value by its full name; the inverse of `from_dict`.

        Settings that the chosen detector or recognizer does not read have their defaults.
        """
        return {name: _lookup(self, name, setting.default) for name, setting in SETTINGS.items()}


def vlm_settings(values: Mapping[str, Any]) -> VlmSettings:
    """Return validated settings of `vlm` from values by names without a prefix.

    Raises:
        ValueError: a value is not allowed, or names another recognizer.
    """
    settings = Settings.from_dict({f"recognizer.{n}": value for n, value in values.items()})
    if not isinstance(settings.recognizer, VlmSettings):
        raise ValueError(
            f"cannot use recognizer.name = {settings.recognizer.name} here: only vlm; remove it"
        )
    return settings.recognizer


def _lookup(settings: Any, name: str, default: Value) -> Value:
    for part in name.split("."):
        settings = getattr(settings, part, default)
    return settings  # type: ignore[no-any-return]


SETTINGS: dict[str, Setting] = collect(Settings)
"""Every setting by its full name, those of all detectors and recognizers included."""

NODE_PARAMETERS: dict[str, Setting] = {
    setting.name: setting
    for setting in (
        Setting(
            "enabled",
            True,
            "Take images once active; false: only after `~/set_enabled` was called with true.",
            read_only=True,
        ),
        Setting(
            "allow_reconfigure",
            False,
            "Allow changes after the start of parameters that choose what is loaded, or where "
            "images come from or go to; otherwise they keep their start values.",
            read_only=True,
        ),
        Setting(
            "allowed_hosts",
            (),
            "Servers that may get images, as `host` or `host:port`; empty: the host of "
            "`recognizer.remote.url` at the start.",
            read_only=True,
        ),
    )
}
"""Parameters of the node only, which no other node can change."""


RENAMED: dict[str, tuple[str, dict[Value, Value]]] = {
    "recognizer.leaf": (
        "recognizer.answer_format",
        {"full": "turn", "short": "continuation"},
    ),
    "recognizer.weights": ("recognizer.quantization", {"full": "none"}),
    "recognizer.calibrate": ("recognizer.subtract_prior", {}),
    "recognizer.ask_for": ("recognizer.label_count", {}),
}
"""Former name of a setting to its present name, and former values to present values."""


def current_names(stored: Mapping[str, Value]) -> dict[str, Value]:
    """Return settings of a recognizer from an older file under their present names and values.

    Args:
        stored: values by names without the prefix `recognizer.`.
    """
    current: dict[str, Value] = {}
    for name, value in stored.items():
        full, values = RENAMED.get(f"recognizer.{name}", (name, {}))
        current[full.removeprefix("recognizer.")] = values.get(value, value)
    return current


def hint(name: str, value: Any = None) -> str:
    """Return what to write instead of an unknown name, empty if no known name is similar."""
    if name in RENAMED:
        current, values = RENAMED[name]
        renamed = isinstance(value, str) and value in values
        instead = f", and {value!r} is now {values[value]!r}" if renamed else ""
        return f": it is now {current!r}{instead}"
    near = difflib.get_close_matches(name, SETTINGS, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def parameter_table() -> str:
    """Return every setting as the Markdown table of docs/reference/parameters.md."""
    rows = [
        "| parameter | default | unit | allowed | changes | read by | meaning |",
        "|---|---|---|---|---|---|---|",
    ]
    for item in (SETTINGS | NODE_PARAMETERS).values():
        rows.append(
            f"| `{item.name}` | `{_as_yaml(item.default)}` | {item.unit} | {item.constraint} "
            f"| {_changes(item)} | {', '.join(item.read_by)} | {item.description} |"
        )
    return "\n".join(rows)


def parameter_file() -> str:
    """Return every setting at its default as the text of config/emotion_perception.yaml."""
    lines = [
        "# Every parameter at its default, generated from emotion_perception/core/settings.py.",
        "# Copy the lines that you change to a file of your own.",
        "# The parameters marked (live) can change while the node runs:",
        "# ros2 param set /emotion_node max_rate 5.0",
        "# Those marked (start) keep their start value unless allow_reconfigure is true.",
        "/**:",
        "  ros__parameters:",
    ]
    open_groups: list[str] = []
    for item in (SETTINGS | NODE_PARAMETERS).values():
        *groups, name = item.name.split(".")
        if groups and groups != open_groups:
            lines.append(f"{'  ' * (len(groups) + 1)}{groups[-1]}:")
        open_groups = groups
        indent = "  " * (len(groups) + 2)
        allowed = f" [{item.constraint}]" if item.constraint else ""
        readers = f" ({', '.join(item.read_by)})" if item.read_by else ""
        changes = f" ({_changes(item)})" if item.live or item.start_only else ""
        lines.append(f"{indent}# {item.description}{allowed}{readers}{changes}")
        lines.append(f"{indent}{name}: {_as_yaml(item.default)}")
    return "\n".join(lines) + "\n"


def _changes(item: Setting) -> str:
    """Return when a parameter of the node can change."""
    if item.live:
        return "live"
    return "never" if item.read_only else "start" if item.start_only else "configure"


def _as_yaml(value: Value) -> str:
    plain = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(plain, default_style=None).removesuffix("...\n").strip() or '""'
