"""The settings of each recognizer: one class per system, composed of shared groups.

A class lists exactly the settings that its recognizer reads. `fixed` fields cannot be set; they
give a shared function, such as the wording of a prompt, the value that this system implies.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from emotion_perception.core.schema import Value, setting, unread_error

_URL_PATTERN = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[0-9a-f:.]+\]|[\w.-]+)(:(?P<port>\d{1,5}))?(/[\w.~%:+/-]*)?",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """Where a URL of a server leads."""

    host: str
    port: int
    encrypted: bool

    @classmethod
    def of(cls, url: str) -> ServerAddress:
        """Return the address in a URL.

        Raises:
            ValueError: The URL is not of the form http://host:port/path. The message does not show
                the URL, which may contain a password.
        """
        match = _URL_PATTERN.fullmatch(url)
        if not match or int(match["port"] or 0) >= 2**16:
            raise ValueError(
                "is not of the form http://host:port/v1, without user, password, ? and #"
            )
        encrypted = match["scheme"] == "https"
        port = int(match["port"] or (443 if encrypted else 80))
        return cls(match["host"].lower(), port, encrypted)

    @property
    def is_local(self) -> bool:
        """Whether it is this computer."""
        with contextlib.suppress(ValueError):
            return ipaddress.ip_address(self.host.strip("[]")).is_loopback
        return self.host == "localhost"


def _fixed(value: Value) -> Any:
    return field(default=value, init=False)


def _answer_format() -> Any:
    return setting(
        "turn",
        "turn: each question is a chat turn of its own; continuation: one question serves all "
        "labels, and each answer begins with the label's name (fewer tokens, but further from "
        "what models are trained on).",
        choices=("turn", "continuation"),
    )


@dataclass(frozen=True)
class RecognizerSettings:
    """Settings that every recognizer has."""

    name: str = "vlm"
    timeout: float = setting(
        30.0,
        "Duration of a round after which /diagnostics of the node reports an error.",
        unit="s",
        minimum=0.1,
        maximum=86400.0,
        live=True,
    )

    @property
    def generates(self) -> bool:
        """Return whether the model writes labels down instead of being scored."""
        return getattr(self, "scoring", "") == "generate"

    def changed(self) -> dict[str, Any]:
        """Return the values that differ from the defaults of all recognizers, ready for JSON."""
        return {k: v for k, v in asdict(self).items() if v != _DEFAULTS[k]}


@dataclass(frozen=True)
class ModelSettings(RecognizerSettings):
    """The model of a recognizer that sees images, or what it has in place of a model."""

    model: str = setting(
        "Qwen/Qwen3-VL-2B-Instruct",
        "Model that sees the images: a folder, or the name of a fetched hub model; `remote`: its "
        "name on the server; `majority` and `rand6-weighted`: a JSON file of label frequencies.",
    )


@dataclass(frozen=True)
class CalibrationSettings(RecognizerSettings):
    """The calibration of a recognizer's scores."""

    calibration: str = setting(
        "beside",
        "A YAML file of `emotion-perception calibrate`; `beside`: the file in the folder of the "
        "adapter or model, if there is one; `none`: uncalibrated scores.",
    )


@dataclass(frozen=True)
class DeviceSettings(RecognizerSettings):
    """The processor of a recognizer that runs on this computer."""

    device: str = setting("auto", "Processor: auto, cpu, cuda, cuda:0, ...")


@dataclass(frozen=True)
class DtypeSettings(DeviceSettings):
    """The processor and the number format of a model of transformers."""

    dtype: str = setting(
        "auto",
        "Number format of the weights; auto: bfloat16 on a GPU, float32 on a CPU, where the live "
        "node takes bfloat16 if it measures that to be faster; float16: on a GPU only.",
        choices=("auto", "float32", "bfloat16", "float16"),
    )


@dataclass(frozen=True)
class LanguageModelSettings(DtypeSettings):
    """How a language model is loaded."""

    adapter: str = setting(
        "", "Folder of a fine-tuned PEFT adapter of the language model; empty: none."
    )
    quantization: str = setting(
        "none",
        "Quantization of the language model. 8bit, 4bit: the weights need less memory and are not "
        "faster, with the library bitsandbytes; int8: weights and activations on a CPU, faster "
        "than float32, and not than bfloat16 where the CPU has it, with the library torchao.",
        choices=("none", "8bit", "4bit", "int8"),
        start_only=True,
    )


@dataclass(frozen=True)
class PromptSettings(RecognizerSettings):
    """How a language model is asked about a person."""

    definitions: str = setting(
        "glossary",
        "Where the prompt defines the labels: once before the questions (glossary), in each "
        "question (question), or nowhere (none).",
        choices=("glossary", "question", "none"),
    )
    scoring: str = setting(
        "yes_no",
        "yes_no: one yes/no question per label (independent probabilities); letters, labels: one "
        "question for all labels, answered by a letter or by the label itself (probabilities "
        "relative to the other labels; faster); generate: the labels that the model writes, as in "
        "the paper; head (vlm only): a linear head on the model's states, from "
        "`emotion-perception head`.",
        choices=("yes_no", "letters", "labels", "generate", "head"),
        start_only=True,  # `head` loads a file
    )
    label_count: int = setting(
        0,
        "`scoring: generate` only: number of labels to ask for; 0: the top labels.",
        minimum=0,
        maximum=26,
    )
    answer_format: str = _fixed("turn")
    person_view: str = _fixed("both")


@dataclass(frozen=True)
class ImageSettings(RecognizerSettings):
    """The size of the scene image that a model sees."""

    scene_size: int = setting(
        448,
        "Longer side of the scene image that the model sees; `remote` does not enlarge a smaller "
        "one.",
        unit="px",
        minimum=32,
        maximum=4096,
    )


@dataclass(frozen=True)
class ImagePromptSettings(PromptSettings, ImageSettings):
    """What a vision-language model is shown and asked."""

    person_view: str = setting(
        "both",
        "mark: the scene image with the person in a red box; crop: the crop of the person; both: "
        "one plain scene image for all people and the crop of each person.",
        choices=("mark", "crop", "both"),
    )
    crop_size: int = setting(
        224, "Longer side of the crop that the model sees.", unit="px", minimum=32, maximum=4096
    )


@dataclass(frozen=True)
class VlmSettings(ImagePromptSettings, LanguageModelSettings, CalibrationSettings, ModelSettings):
    """Settings of `vlm`."""

    answer_format: str = _answer_format()
    subtract_prior: bool = setting(
        False,
        "Subtract the model's prior, measured on a grey image (always on for `scoring: labels`).",
    )
    compile: bool = setting(
        False,
        "Compile the language model at warm-up, which takes minutes; on a CPU the live node does "
        "so only if it measures that to be faster.",
        start_only=True,
    )
    compile_people: int = setting(
        4,
        "`compile` only: largest number of people per round to compile for at warm-up; a larger "
        "round waits for its own compilation.",
        minimum=1,
        maximum=64,
    )
    rationale: bool = setting(
        False, "Add a short reason in words to every assessment; slow, for offline use."
    )


@dataclass(frozen=True)
class FaceSettings(DeviceSettings):
    """Settings of `face`."""

    name: str = "face"


@dataclass(frozen=True)
class ClipSettings(DtypeSettings, CalibrationSettings, ModelSettings):
    """Settings of `clip`."""

    name: str = "clip"


@dataclass(frozen=True)
class TextSettings(PromptSettings, LanguageModelSettings, CalibrationSettings):
    """Settings of a text model that reads a description of each person."""

    text_model: str = setting(
        "Qwen/Qwen3-1.7B",
        "Text model that reads the descriptions: a folder, or the name of a fetched hub model.",
    )
    answer_format: str = _answer_format()


@dataclass(frozen=True)
class NarracapSettings(TextSettings, ModelSettings):
    """Settings of `narracap`."""

    name: str = "narracap"
    words: str = setting(
        "", "Folder with who.txt, where.txt, what.txt and how.txt; empty: the included lists."
    )


@dataclass(frozen=True)
class CaptionSettings(TextSettings, ImageSettings, ModelSettings):
    """Settings of `caption`."""

    name: str = "caption"
    crop_size: int = _fixed(224)


@dataclass(frozen=True)
class LlmSettings(TextSettings):
    """Settings of `llm`."""

    name: str = "llm"
    captions: str = setting("", "CSV file with the columns `key` and `caption`.")


@dataclass(frozen=True)
class ServerSettings:
    """The server behind `remote`; its key is read from the environment only."""

    url: str = setting(
        "http://127.0.0.1:8000/v1",
        "OpenAI-compatible server; the environment variable OPENAI_API_KEY holds its key.",
        server=True,
    )
    concurrency: int = setting(
        4, "Maximum number of requests in flight at a time.", minimum=1, maximum=256
    )
    timeout: float = setting(
        30.0, "Time after which a request without an answer fails.", unit="s", minimum=0.1,
        maximum=600.0,
    )  # fmt: skip
    retries: int = setting(
        3, "Number of times that a failed request is sent again.", minimum=0, maximum=20
    )


@dataclass(frozen=True)
class RemoteSettings(ImagePromptSettings, CalibrationSettings, ModelSettings):
    """Settings of `remote`."""

    name: str = "remote"
    remote: ServerSettings = field(default_factory=ServerSettings, metadata={"start_only": True})


@dataclass(frozen=True)
class CnnSettings(DeviceSettings, CalibrationSettings, ModelSettings):
    """Settings of `emotic-cnn`."""

    name: str = "emotic-cnn"


@dataclass(frozen=True)
class EncoderSettings(ImageSettings, DtypeSettings, CalibrationSettings, ModelSettings):
    """Settings of `two-stream` and `single-stream`."""

    name: str = "two-stream"


@dataclass(frozen=True)
class FrequencySettings(ModelSettings):
    """Settings of `majority` and `rand6-weighted`."""

    name: str = "majority"


@dataclass(frozen=True)
class ChanceSettings(RecognizerSettings):
    """Settings of `rand6`."""

    name: str = "rand6"


RECOGNIZER_SETTINGS: dict[str, type[RecognizerSettings]] = {
    "vlm": VlmSettings,
    "face": FaceSettings,
    "clip": ClipSettings,
    "narracap": NarracapSettings,
    "caption": CaptionSettings,
    "llm": LlmSettings,
    "remote": RemoteSettings,
    "emotic-cnn": CnnSettings,
    "two-stream": EncoderSettings,
    "single-stream": EncoderSettings,
    "majority": FrequencySettings,
    "rand6": ChanceSettings,
    "rand6-weighted": FrequencySettings,
}
"""Name of a recognizer to the class of its settings, the default first."""

_DEFAULTS: dict[str, Any] = {
    name: value
    for cls in reversed(RECOGNIZER_SETTINGS.values())
    for name, value in asdict(cls()).items()
}


def recognizer_settings(name: str = "vlm", **values: Any) -> Any:
    """Return settings of one recognizer as an instance of its class.

    Args:
        name: of the recognizer.
        values: of its settings by their names without a prefix, not validated.

    Raises:
        ValueError: the recognizer does not exist, or does not read one of the settings and the
            value is not the default.
    """
    if name not in RECOGNIZER_SETTINGS:
        raise ValueError(
            f"there is no recognizer {name!r}; choose one of {', '.join(RECOGNIZER_SETTINGS)}"
        )
    cls = RECOGNIZER_SETTINGS[name]
    own = setting_names(name)
    for unread in values.keys() - own:
        if unread not in _DEFAULTS:
            raise ValueError(f"there is no setting 'recognizer.{unread}'")
        if values[unread] != _DEFAULTS[unread]:
            readers = [other for other in RECOGNIZER_SETTINGS if unread in setting_names(other)]
            choice, full = f"recognizer.name = {name}", f"recognizer.{unread}"
            raise unread_error(choice, full, values[unread], readers)
    return cls(name=name, **{k: v for k, v in values.items() if k in own})


def setting_names(name: str) -> set[str]:
    """Return the names of the settings that a recognizer reads, without a prefix."""
    return {item.name for item in fields(RECOGNIZER_SETTINGS[name]) if item.init} - {"name"}
