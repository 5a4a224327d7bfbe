"""Detect people in a frame: whole bodies by YOLO or a DETR, or faces by MTCNN."""

from __future__ import annotations

import gc
import importlib.util
import logging
import os
import pickle
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from emotion_perception.core.errors import ModelError
from emotion_perception.core.interfaces import Detector
from emotion_perception.core.settings import (
    DetectorSettings,
    DetrSettings,
    FaceDetectorSettings,
    YoloSettings,
)
from emotion_perception.core.values import Detections, FloatArray, Frame
from emotion_perception.perception.detection_weights import PRETRAINED, pretrained_file
from emotion_perception.perception.devices import pick_device

WEAKEST_BOX = 0.1
"""As in ByteTrack: weaker detections do not extend a track."""

_YOLO_SUFFIXES = {".pt": (), ".onnx": ("onnx", "onnxruntime"), ".engine": ("tensorrt",)}
"""Suffix of a YOLO file to the modules that it needs besides torch."""

# Measured on 12 versions (compressed, noisy, darker, resized) of each of the two photographs of the
# ultralytics wheel: true faces score 0.98 to 1.0, false ones up to 0.86 (0.96 and 0.90 if the image
# is 640 px wide).
_LEAST_FACE_PROBABILITY = 0.93
# A face at talking distance is large, so the image is scaled down to this side, and the cost does
# not grow with the size of the image.
_FACE_PICTURE_SIDE = 960  # px, the longer side
_LEAST_FACE_SHARE = 1 / 24  # of the longer side: 3 m away from a camera that sees 60 degrees
_LEAST_FACE = 20  # px, the limit of MTCNN, whose first network needs 12 pixels

# Head and upper body around a face, in widths and heights of the face: shoulders are about three
# and a half faces wide, and the waist is about four faces below the hairline.
_BODY_WIDTH = 3.5
_HAIR_HEIGHT = 0.5
_BODY_HEIGHT = 4.0


def make_detector(settings: DetectorSettings) -> Detector:
    """Load the detector that the settings name.

    Raises:
        ModelError: the model or a library is missing or cannot be used; the message names the
            remedy.
    """
    return DETECTORS[settings.name](settings)


class YoloDetector:
    """Detect whole bodies with a YOLO of ultralytics that has boxes and a class "person"."""

    def __init__(self, settings: YoloSettings) -> None:
        """Load the model.

        Raises:
            ModelError: the file is missing or not such a model, or a library is missing.
        """
        path = _yolo_file(settings.model)
        yolo = import_ultralytics().YOLO
        self._options: dict[str, Any] = {
            "imgsz": settings.image_size,
            "conf": WEAKEST_BOX,
            "device": pick_device(settings.device),
            "verbose": False,
            "save": False,
        }
        try:
            with _neutral_name(path) as file, _no_download():
                self._model: Any = yolo(str(file))
                # Exported models are loaded at the first image.
                blank = np.zeros((settings.image_size, settings.image_size, 3), np.uint8)
                (result,) = self._model.predict(blank, **self._options)
        except _load_errors(path) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise ModelError(f"{path} cannot be used as a YOLO model: {reason}") from error
        if result.boxes is None:
            raise ModelError(
                f"{path} is a model for the task {self._model.task!r}, which gives no boxes: "
                "set detector.model to one for detect, segment or pose"
            )
        self._options["classes"] = person_classes(result.names, settings.person_class, path)

    def detect(self, frame: Frame) -> Detections:
        """Return the people in one frame."""
        bgr = np.ascontiguousarray(frame.image[..., ::-1])
        (result,) = self._model.predict(bgr, **self._options)
        boxes = result.boxes.cpu()
        return inside_image(boxes.xyxy.numpy(), boxes.conf.numpy(), frame.width, frame.height)

    def close(self) -> None:
        """Free the memory of the model."""
        self._model = None
        free_memory()


class FaceDetector:
    """Detect people whose face is visible with MTCNN; a face becomes head and upper body."""

    def __init__(self, settings: FaceDetectorSettings) -> None:
        """Load the networks.

        Raises:
            ModelError: facenet-pytorch is missing.
        """
        self._finder = FaceFinder(settings.device)

    def detect(self, frame: Frame) -> Detections:
        """Return the head and upper body of each person whose face is visible."""
        faces = self._finder.find(frame.image)
        left, top, right, bottom = faces.corners.T
        middle, width, height = (left + right) / 2, right - left, bottom - top
        bodies = np.stack(
            [
                middle - width * _BODY_WIDTH / 2,
                top - height * _HAIR_HEIGHT,
                middle + width * _BODY_WIDTH / 2,
                top + height * _BODY_HEIGHT,
            ],
            axis=1,
        )
        return inside_image(bodies, faces.confidence, frame.width, frame.height, faces.corners)

    def close(self) -> None:
        """Free the memory of the networks."""
        self._finder.close()


class FaceFinder:
    """Detect faces with MTCNN (Zhang et al., 2016), its weights from the facenet-pytorch wheel."""

    def __init__(self, device: str = "auto") -> None:
        """Load the networks.

        Raises:
            ModelError: facenet-pytorch is missing, or the device does not exist.
        """
        try:
            from facenet_pytorch import MTCNN
        except ImportError as error:
            raise ModelError(
                "cannot detect faces: MTCNN is missing; "
                "pip install --no-deps facenet-pytorch==2.6.0"
            ) from error
        self._network: Any = MTCNN(keep_all=True, select_largest=False, device=pick_device(device))

    def find(self, image: npt.NDArray[np.uint8]) -> Detections:
        """Return the faces in an image, (H, W, 3) RGB, from the hairline to the chin.

        Faces smaller than 1/24 of the longer side of the image, or than 20 px, are not detected.
        """
        height, width = image.shape[:2]
        scale = min(_FACE_PICTURE_SIDE / max(height, width), 1.0)
        size = (max(round(width * scale), 1), max(round(height * scale), 1))
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA) if scale < 1 else image
        least = max(_LEAST_FACE, round(max(size) * _LEAST_FACE_SHARE))
        if min(size) <= least:  # MTCNN fails where no face could fit
            return Detections.from_lists([], [])
        self._network.min_face_size = least
        corners, probability = self._network.detect(small)
        if corners is None:
            return Detections.from_lists([], [])
        corners, probability = np.asarray(corners, np.float32), np.asarray(probability, np.float32)
        sure = probability >= _LEAST_FACE_PROBABILITY
        ratio = np.asarray([width / size[0], height / size[1]] * 2, np.float32)
        return inside_image(corners[sure] * ratio, probability[sure], width, height)

    def close(self) -> None:
        """Free the memory of the networks. The finder cannot be used afterwards."""
        self._network = None
        free_memory()


def _make_detr(settings: DetrSettings) -> Detector:
    from emotion_perception.perception.detection_detr import DetrDetector

    return DetrDetector(settings)


def _only_in_the_node(settings: DetectorSettings) -> Detector:
    raise ModelError(
        "cannot detect people with detector.name = topic here: only the node receives boxes; set "
        "detector.name to another detector"
    )


DETECTORS: dict[str, Callable[[Any], Detector]] = {
    "yolo": YoloDetector,
    "detr": _make_detr,
    "face": FaceDetector,
    "topic": _only_in_the_node,
}
"""Name to class; the libraries of a detector are imported when it is created."""


def import_ultralytics() -> Any:
    """Import ultralytics without network access, installations and unsafe loading.

    All code imports it by this function, since the environment counts at the first import.

    Raises:
        ModelError: ultralytics is not installed.
    """
    # By default it resolves names at import, downloads weights, installs missing packages, and
    # unpickles any object of a checkpoint.
    os.environ.setdefault("YOLO_OFFLINE", "true")
    os.environ.setdefault("YOLO_AUTOINSTALL", "false")
    os.environ["ULTRALYTICS_SAFE_LOAD"] = "true"
    os.environ.setdefault("YOLO_VERBOSE", "false")  # no lines on stdout at import
    import torch

    try:
        import ultralytics
        from ultralytics.nn import tasks
        from ultralytics.utils.events import events
    except ImportError as error:
        raise ModelError(
            f"cannot load YOLO: ultralytics is missing ({error}); pip install --no-deps "
            "ultralytics, or set detector.name to detr or face"
        ) from error
    # On an older torch, ultralytics loads checkpoints with their code, without a word.
    if not hasattr(torch.serialization, "get_unsafe_globals_in_checkpoint"):
        raise ModelError(
            "cannot load YOLO: this torch is too old to load checkpoints without running code "
            "from them; pip install 'torch>=2.6'"
        )
    # Also where ultralytics was imported before, with another environment.
    tasks.SAFE_LOAD = True  # type: ignore[attr-defined]
    events.enabled = False  # the settings file of the user enables them by default
    logging.getLogger("ultralytics").setLevel(logging.WARNING)  # its lines go to stdout
    return ultralytics


def _yolo_file(name: str) -> Path:
    """Return the absolute path of a model file, after checking the file and its libraries.

    A relative path is not safe: ultralytics deletes a damaged file that has the bare name of one of
    its own models, in order to download it again.
    """
    if name == PRETRAINED:
        return pretrained_file()
    path = Path(name).expanduser().absolute()
    if path.suffix not in _YOLO_SUFFIXES:
        raise ModelError(
            f"detector.model = {name!r} is not a YOLO model: "
            f"expected a file that ends in {', '.join(_YOLO_SUFFIXES)}"
        )
    if path.is_dir():
        raise ModelError(f"detector.model = {name!r} is a folder, expected the model file itself")
    if not path.is_file():
        get = f"get it with `emotion-perception fetch {path.name}`"
        if path.suffix != ".pt":
            kind = path.suffix.removeprefix(".")
            get = f"make it here with `yolo export model={path.stem}.pt format={kind}`"
        raise ModelError(f"there is no YOLO model {path}: {get}, or set detector.model to a file")
    if path.suffix == ".pt" and not zipfile.is_zipfile(path):
        raise ModelError(
            f"{path} cannot be used as a YOLO model: it is damaged or no PyTorch checkpoint; "
            f"get it with `emotion-perception fetch {path.name}`"
        )
    missing = [m for m in _YOLO_SUFFIXES[path.suffix] if importlib.util.find_spec(m) is None]
    if missing:
        raise ModelError(
            f"{path} needs {' and '.join(missing)}: pip install {' '.join(missing)}, "
            "or set detector.model to a .pt file"
        )
    return path


def _load_errors(path: Path) -> tuple[type[Exception], ...]:
    """Return the errors that ultralytics 8.4 raises for files that are not models of its own."""
    errors: tuple[type[Exception], ...] = (
        AssertionError,
        AttributeError,
        EOFError,
        ImportError,
        LookupError,
        OSError,
        RuntimeError,
        TypeError,
        ValueError,
        pickle.UnpicklingError,
    )
    if path.suffix == ".onnx":  # its errors have no common base but Exception
        from onnxruntime.capi import onnxruntime_pybind11_state as state

        errors += (state.Fail, state.InvalidArgument, state.InvalidGraph, state.NotImplemented)
    return errors


@contextmanager
def _neutral_name(path: Path) -> Iterator[Path]:
    """Yield the file under a name without meaning.

    By its name, ultralytics replaces a file: `yolov5n.pt` by `yolov5nu.pt`, which it downloads.
    """
    if path.suffix != ".pt":  # exported models may have further files beside them
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / "model.pt"
        link.symlink_to(path)
        yield link


@contextmanager
def _no_download() -> Iterator[None]:
    """Refuse that the layers of a model download weights of their own.

    Raises:
        RuntimeError: A layer tries to.
    """
    import torch

    def refuse(url: str, *_: object, **__: object) -> None:
        raise RuntimeError(f"it wants to download {url}, and models are never downloaded here")

    download = torch.hub.download_url_to_file
    torch.hub.download_url_to_file = refuse
    try:
        yield
    finally:
        torch.hub.download_url_to_file = download


def person_classes(names: dict[int, str], wanted: str, path: Path | str) -> list[int]:
    """Return the numbers of the classes of people, compared without case."""
    classes = [i for i, name in names.items() if name.casefold() == wanted.strip().casefold()]
    if not classes:
        raise ModelError(
            f"cannot detect people with {path}: it has no class {wanted!r}, only "
            f"{', '.join(names.values())}; set detector.person_class to its class of people, or "
            "detector.model to another model"
        )
    return classes


def inside_image(
    corners: FloatArray,
    confidence: FloatArray,
    width: int,
    height: int,
    faces: FloatArray | None = None,
) -> Detections:
    """Return the boxes clipped to the image, without empty ones."""
    limits = np.asarray([width, height, width, height], np.float32)
    clipped = np.clip(corners.astype(np.float32), 0, limits)
    left, top, right, bottom = clipped.T
    some = (right > left) & (bottom > top)
    return Detections(clipped, confidence.astype(np.float32), faces).where(some)


def free_memory() -> None:
    """Free the memory of deleted models, on the GPU too."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
