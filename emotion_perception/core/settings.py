"""Every setting, once: its default, unit, range and meaning.

The dataclasses below are the single home of a default. Their fields become the ROS parameters of
the node, the options of the commands and the table in docs/reference/parameters.md. A setting of
a group is addressed as `group.name`, for example `detector.confidence`.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml

Value = bool | int | float | str

NODE_NAME = "emotion_node"
"""The name of the node, and of its section in a parameter file."""

ROS_PARAMETERS = ("use_sim_time", "start_type_description_service")
"""Parameters that every node has, beside `qos_overrides.*`."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What is known about one setting beside its name."""

    name: str
    default: Value
    description: str
    unit: str
    minimum: float | None
    maximum: float | None
    choices: tuple[str, ...]
    live: bool
    """Can be changed while the node is active; the others wait for the next configure."""

    @property
    def type(self) -> Any:
        return type(self.default)

    @property
    def constraint(self) -> str:
        """The allowed values in words, empty where anything goes."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        low, high = self.minimum, self.maximum
        if low is not None and high is not None:
            return f"{low:g} to {high:g}{self.unit and ' ' + self.unit}"
        if low is not None:
            return f"at least {low:g}{self.unit and ' ' + self.unit}"
        return ""

    def validate(self, value: Any) -> Value:
        """The value in the setting's own type.

        Raises:
            ValueError: the value has the wrong type, is not finite, or is out of range.
        """
        wanted = self.type
        if wanted is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if type(value) is not wanted:
            raise ValueError(
                f"{self.name} = {value!r} is of type {type(value).__name__}, "
                f"expected {wanted.__name__}{self.constraint and ': ' + self.constraint}"
            )
        if wanted is float and not math.isfinite(value):
            raise ValueError(f"{self.name} = {value} is not a finite number")
        too_low = self.minimum is not None and value < self.minimum
        too_high = self.maximum is not None and value > self.maximum
        if too_low or too_high or (self.choices and value not in self.choices):
            raise ValueError(f"{self.name} = {value!r} is not allowed: {self.constraint}")
        result: Value = value
        return result


def setting(
    default: Value,
    description: str,
    *,
    unit: str = "",
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[str, ...] = (),
    live: bool = False,
) -> Any:
    """A dataclass field that is also a documented setting."""
    return field(
        default=default,
        metadata={
            "description": description,
            "unit": unit,
            "minimum": minimum,
            "maximum": maximum,
            "choices": choices,
            "live": live,
        },
    )


@dataclass(frozen=True, slots=True)
class DetectorSettings:
    name: str = setting(
        "yolo",
        "how people are found: yolo (whole bodies) or face (faces)",
        choices=("yolo", "face"),
    )
    model: str = setting("yolo11n.pt", "yolo only: a .pt, .onnx or .engine file")
    confidence: float = setting(
        0.4,
        "a person begins with a box at least as sure; weaker ones only keep somebody in view",
        minimum=0.05,
        maximum=1.0,
    )
    image_size: int = setting(
        640,
        "yolo only: the longer side of the picture it sees",
        unit="px",
        minimum=32,
        maximum=4096,
    )
    device: str = setting("auto", "auto, cpu, cuda, cuda:0, ...")


@dataclass(frozen=True, slots=True)
class TrackerSettings:
    lost_after: float = setting(
        1.5, "a person unseen for so long is gone", unit="s", minimum=0.0, maximum=60.0
    )
    confirm_frames: int = setting(
        2,
        "frames in a row until a detection counts as a person",
        unit="frames",
        minimum=2,
        maximum=30,
    )
    min_iou: float = setting(
        0.2, "least overlap of a box with where its track is expected", minimum=0.01, maximum=1.0
    )


@dataclass(frozen=True, slots=True)
class SchedulerSettings:
    refresh: float = setting(
        1.0,
        "a person is not asked about again sooner",
        unit="s",
        minimum=0.0,
        maximum=3600.0,
        live=True,
    )
    max_people: int = setting(
        4,
        "people per round of the model; the rest wait their turn",
        minimum=1,
        maximum=64,
        live=True,
    )


@dataclass(frozen=True, slots=True)
class VisibilitySettings:
    """A person who is shown worse than this is not judged."""

    min_height: int = setting(
        40, "least height of the person's box", unit="px", minimum=0, maximum=4096, live=True
    )
    min_aspect: float = setting(
        0.2,
        "a box at the left or right edge, narrower than this share of its height, is cut off",
        minimum=0.0,
        maximum=10.0,
        live=True,
    )
    min_sharpness: float = setting(
        4.0,
        "least variance of the Laplacian of the person, scaled to 128 px height; 0: any",
        minimum=0.0,
        maximum=10000.0,
        live=True,
    )


@dataclass(frozen=True, slots=True)
class RemoteSettings:
    """The server behind the remote recognizer; its key is read from the environment only."""

    url: str = setting(
        "http://127.0.0.1:8000/v1",
        "remote only: an OpenAI-compatible server; a key for it is taken from OPENAI_API_KEY",
    )
    concurrency: int = setting(
        4, "remote only: requests under way at a time, at most", minimum=1, maximum=256
    )
    timeout: float = setting(
        30.0, "remote only: a request without an answer fails", unit="s", minimum=0.1, maximum=600.0
    )
    retries: int = setting(
        3, "remote only: a failed request is sent again so often", minimum=0, maximum=20
    )


SYSTEMS = (
    "vlm", "face", "clip", "narracap", "caption", "llm", "remote", "emotic-cnn", "two-stream",
    "single-stream", "majority", "rand6", "rand6-weighted",
)  # fmt: skip
"""What can judge people; docs/reference/systems.md tells them apart."""


@dataclass(frozen=True, slots=True)
class RecognizerSettings:
    name: str = setting(
        "vlm", "what judges people: see docs/reference/systems.md; on a robot vlm", choices=SYSTEMS
    )
    model: str = setting(
        "Qwen/Qwen3-VL-2B-Instruct",
        "the model that looks: a hub name that was fetched, or a folder; for remote its name there",
    )
    text_model: str = setting(
        "Qwen/Qwen3-1.7B",
        "narracap, caption and llm: the model that reads what was seen; a hub name or a folder",
    )
    captions: str = setting("", "llm only: a CSV file of person keys and what is seen of them")
    words: str = setting(
        "", "narracap only: a folder with who.txt, where.txt, what.txt, how.txt; empty: our own"
    )
    adapter: str = setting(
        "", "vlm, llm, narracap, caption: a folder with a fine-tuned PEFT adapter; empty: none"
    )
    calibration: str = setting(
        "beside",
        "a YAML file of `emotion-perception calibrate`; beside: the one in the folder of the "
        "adapter or model, if there is one; none",
    )
    device: str = setting("auto", "auto, cpu, cuda, cuda:0, ...")
    dtype: str = setting(
        "auto",
        "auto (bfloat16 on a GPU, float32 on a CPU) or one of them",
        choices=("auto", "float32", "bfloat16", "float16"),
    )
    quantization: str = setting(
        "none",
        "vlm, llm, caption: quantization of the language model's weights; 8bit and 4bit need less "
        "memory and bitsandbytes, and are not faster",
        choices=("none", "8bit", "4bit"),
    )
    person_view: str = setting(
        "both",
        "vlm, remote: the scene with the person in a red box (mark), the person alone (crop), or "
        "one plain scene for everybody and each person's crop (both)",
        choices=("mark", "crop", "both"),
    )
    definitions: str = setting(
        "glossary",
        "vlm, llm, remote: where the meanings of the labels stand: once in front, in each "
        "question, or nowhere",
        choices=("glossary", "question", "none"),
    )
    scoring: str = setting(
        "yes_no",
        "vlm, llm, remote: a yes/no question per label (independent probabilities), or one "
        "question for all, answered by a letter or by the label itself (relative to the other "
        "labels; faster); generate: the labels that the model writes down, as in the paper; head, "
        "vlm only: a linear head on its states, from `emotion-perception head`",
        choices=("yes_no", "letters", "labels", "generate", "head"),
    )
    label_count: int = setting(
        0,
        "generate only: number of labels to ask for; 0: the top labels",
        minimum=0,
        maximum=26,
    )
    answer_format: str = setting(
        "turn",
        "vlm, llm: each question is a chat turn of its own (turn), or one question serves all "
        "labels and each answer begins with the label's name (continuation): fewer tokens, but "
        "further from what models are trained on",
        choices=("turn", "continuation"),
    )
    subtract_prior: bool = setting(
        False,
        "vlm only: subtract the model's prior, measured on a grey image (always on for `scoring: "
        "labels`)",
    )
    compile: bool = setting(
        False,
        "vlm only: compile the language model when it warms up; takes minutes and is faster after",
    )
    compile_people: int = setting(
        4,
        "compile only: made ready for up to so many people at once; a larger round would wait "
        "until it is compiled",
        minimum=1,
        maximum=64,
    )
    rationale: bool = setting(
        False,
        "vlm only: put a short reason in words into every answer; slow, for offline use",
    )
    scene_size: int = setting(
        448,
        "vlm, remote, encoders: the longer side of the scene they see",
        unit="px",
        minimum=32,
        maximum=4096,
    )
    crop_size: int = setting(
        224,
        "vlm, remote: the longer side of the crop they see",
        unit="px",
        minimum=32,
        maximum=4096,
    )
    remote: RemoteSettings = field(default_factory=RemoteSettings)


@dataclass(frozen=True, slots=True)
class Settings:
    image_transport: str = setting(
        "raw", "raw: sensor_msgs/Image; compressed: CompressedImage", choices=("raw", "compressed")
    )
    autostart: bool = setting(
        True, "configure and activate by itself; false under a lifecycle manager"
    )
    max_rate: float = setting(
        0.0,
        "at most so many frames are looked at; 0: every one",
        unit="Hz",
        minimum=0.0,
        maximum=1000.0,
        live=True,
    )
    max_age: float = setting(
        5.0, "an older answer is EXPIRED", unit="s", minimum=0.0, maximum=3600.0, live=True
    )
    smoothing: float = setting(
        1.0,
        "time constant of the smoothing of a person's scores; 0: none",
        unit="s",
        minimum=0.0,
        maximum=600.0,
        live=True,
    )
    silence: float = setting(
        3.0,
        "no image, or no answer of the model, for so long is reported",
        unit="s",
        minimum=0.1,
        maximum=3600.0,
        live=True,
    )
    detector: DetectorSettings = field(default_factory=DetectorSettings)
    tracker: TrackerSettings = field(default_factory=TrackerSettings)
    scheduler: SchedulerSettings = field(default_factory=SchedulerSettings)
    visibility: VisibilitySettings = field(default_factory=VisibilitySettings)
    recognizer: RecognizerSettings = field(default_factory=RecognizerSettings)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any] | None = None) -> Settings:
        """Settings from `{"group.name": value}`; what is not named keeps its default.

        Raises:
            ValueError: a name does not exist, or a value is not allowed.
        """
        values = dict(values or {})
        for name, value in values.items():
            if name not in SETTINGS:
                raise ValueError(f"there is no setting {name!r}{hint(name, value)}")
        checked = {name: SETTINGS[name].validate(value) for name, value in values.items()}
        settings: Settings = _build(cls, "", checked)
        return settings

    def to_dict(self) -> dict[str, Value]:
        """The inverse of `from_dict`: every value by its full name."""
        return {name: _lookup(self, name) for name in SETTINGS}


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
    """Every setting as the Markdown table of docs/reference/parameters.md."""
    rows = [
        "| parameter | default | unit | allowed | live | meaning |",
        "|---|---|---|---|---|---|",
    ]
    for setting in SETTINGS.values():
        default = str(setting.default).lower() if setting.type is bool else setting.default
        live = "yes" if setting.live else ""
        rows.append(
            f"| `{setting.name}` | `{default}` | {setting.unit} | {setting.constraint} | {live} "
            f"| {setting.description} |"
        )
    return "\n".join(rows)


def read_parameter_file(path: Path | str) -> dict[str, Any]:
    """What a ROS parameter file says to the node, with the groups flattened to `group.name`.

    Sections for other nodes, and parameters that ROS itself knows, are left out.

    Raises:
        ValueError: the file is not such a file, or has no section for the node.
    """
    try:
        content = yaml.safe_load(Path(path).read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    sections = content if isinstance(content, dict) else {}
    ours = [name for name in sections if name == "/**" or name.split("/")[-1] == NODE_NAME]
    if not ours:
        raise ValueError(
            f"{path} has no section for the node, `/**` or `{NODE_NAME}`, "
            f"but {', '.join(map(str, sections)) or 'none'}"
        )
    values: dict[str, Any] = {}
    for name in ours:
        section = sections[name]
        parameters = section.get("ros__parameters") if isinstance(section, dict) else None
        if not isinstance(parameters, dict):
            raise ValueError(f"{path} has no `ros__parameters` with names and values in {name}")
        values |= dict(_flatten(parameters))
    return {
        name: value
        for name, value in values.items()
        if name not in ROS_PARAMETERS and not name.startswith("qos_overrides.")
    }


def _flatten(section: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for name, value in section.items():
        full = f"{prefix}{name}"
        pairs += _flatten(value, full + ".") if isinstance(value, dict) else [(full, value)]
    return pairs


def _collect(settings: Any, prefix: str = "") -> dict[str, Setting]:
    found: dict[str, Setting] = {}
    for item in fields(settings):
        value = getattr(settings, item.name)
        full = prefix + item.name
        if is_dataclass(value):
            found |= _collect(value, full + ".")
        else:
            found[full] = Setting(name=full, default=value, **item.metadata)
    return found


def _build(cls: Any, prefix: str, values: Mapping[str, Value]) -> Any:
    arguments: dict[str, Any] = {}
    for item in fields(cls):
        full = prefix + item.name
        if not item.metadata:
            arguments[item.name] = _build(item.default_factory, full + ".", values)
        elif full in values:
            arguments[item.name] = values[full]
    return cls(**arguments)


def _lookup(settings: Any, name: str) -> Value:
    for part in name.split("."):
        settings = getattr(settings, part)
    return settings  # type: ignore[no-any-return]


SETTINGS: dict[str, Setting] = _collect(Settings())
"""Every setting by its full name, in the order of the classes above."""
