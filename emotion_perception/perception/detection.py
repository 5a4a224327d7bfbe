"""Where people are in a picture: whole bodies by YOLO, or faces by MTCNN."""

from __future__ import annotations

import gc
import importlib.util
import logging
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from emotion_perception.core.errors import ModelError
from emotion_perception.core.interfaces import Detector
from emotion_perception.core.settings import DetectorSettings, YoloSettings
from emotion_perception.core.values import Detections, FloatArray, Frame
from emotion_perception.perception.devices import pick_device

_WEAKEST_BOX = 0.1  # as in ByteTrack: weaker boxes do not even help to keep somebody followed

_YOLO_SUFFIXES = {".pt": (), ".onnx": ("onnx", "onnxruntime"), ".engine": ("tensorrt",)}
"""What a YOLO file may be, and the modules that each kind needs beside torch."""

# Measured on 12 versions (compressed, noisy, darker, resized) of each of the two photographs of the
# ultralytics wheel: the true faces score 0.98 to 1.0, the phantoms up to 0.86 (0.96 and 0.90 where
# the picture is 640 px wide).
_LEAST_FACE_PROBABILITY = 0.93
# A face at talking distance is large, so the picture is shrunk to this and the cost of a picture
# does not grow with its size.
_FACE_PICTURE_SIDE = 960  # px, the longer side
_LEAST_FACE_SHARE = 1 / 24  # of the longer side: 3 m away from a camera that sees 60 degrees
_LEAST_FACE = 20  # px, MTCNN's own: below it the first network sees fewer than its 12 pixels

# Head and upper body around a face, in widths and heights of the face: shoulders are about three
# and a half faces wide, and the waist is about four faces below the hairline.
_BODY_WIDTH = 3.5
_HAIR_HEIGHT = 0.5
_BODY_HEIGHT = 4.0


def make_detector(settings: DetectorSettings) -> Detector:
    """The detector that the settings name, its model loaded.

    Raises:
        ModelError: the model or a library is missing or unfit; the message says what to do.
    """
    return DETECTORS[settings.name](settings)


class YoloDetector:
    """Whole bodies, by any YOLO of ultralytics that gives boxes and knows the class "person"."""

    def __init__(self, settings: YoloSettings) -> None:
        """
        Raises:
            ModelError: the file is missing or no such model, or a library is missing.
        """
        path = _yolo_file(settings.model)
        yolo = import_ultralytics().YOLO
        self._options: dict[str, Any] = {
            "imgsz": settings.image_size,
            "conf": _WEAKEST_BOX,
            "device": pick_device(settings.device),
            "verbose": False,
            "save": False,
        }
        try:
            self._model: Any = yolo(str(path))
            # Exported models load at the first picture only.
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
        self._options["classes"] = [_person_class(result.names, path)]

    def detect(self, frame: Frame) -> Detections:
        bgr = np.ascontiguousarray(frame.image[..., ::-1])
        (result,) = self._model.predict(bgr, **self._options)
        boxes = result.boxes.cpu()
        return _inside(boxes.xyxy.numpy(), boxes.conf.numpy(), frame.width, frame.height)

    def close(self) -> None:
        self._model = None
        _free_memory()


class FaceDetector:
    """People whose face shows, by MTCNN: a face stands for its head and upper body."""

    def __init__(self, settings: DetectorSettings) -> None:
        """
        Raises:
            ModelError: facenet-pytorch is missing.
        """
        self._finder = FaceFinder(settings.device)

    def detect(self, frame: Frame) -> Detections:
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
        return _inside(bodies, faces.confidence, frame.width, frame.height)

    def close(self) -> None:
        self._finder.close()


class FaceFinder:
    """Faces by MTCNN (Zhang et al., 2016), with the weights inside the facenet-pytorch wheel."""

    def __init__(self, device: str = "auto") -> None:
        """
        Raises:
            ModelError: facenet-pytorch is missing, or the device does not exist here.
        """
        try:
            from facenet_pytorch import MTCNN
        except ImportError as error:
            raise ModelError(
                "finding faces needs MTCNN: pip install --no-deps facenet-pytorch==2.6.0"
            ) from error
        self._network: Any = MTCNN(keep_all=True, select_largest=False, device=pick_device(device))

    def find(self, image: npt.NDArray[np.uint8]) -> Detections:
        """The faces in a picture, (H, W, 3) RGB: from the hairline to the chin, in its pixels.

        Faces smaller than 1/24 of the longer side of the picture, or than 20 px, are not found.
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
        return _inside(corners[sure] * ratio, probability[sure], width, height)

    def close(self) -> None:
        """Give back the memory of the networks. The finder cannot be used afterwards."""
        self._network = None
        _free_memory()


DETECTORS: dict[str, Callable[[Any], Detector]] = {
    "yolo": YoloDetector,
    "face": FaceDetector,
}
"""Name to factory; the libraries behind a detector are imported when it is made."""


def import_ultralytics() -> Any:
    """The ultralytics package, kept from the network and from installing anything.

    Whoever needs it imports it by this function, since its first import decides.

    Raises:
        ModelError: it is not installed.
    """
    # Left to itself it resolves names at import, downloads weights, pip-installs what it misses,
    # and unpickles whatever a checkpoint holds.
    os.environ.setdefault("YOLO_OFFLINE", "true")
    os.environ.setdefault("YOLO_AUTOINSTALL", "false")
    os.environ["ULTRALYTICS_SAFE_LOAD"] = "true"
    os.environ.setdefault("YOLO_VERBOSE", "false")  # no lines on stdout at import
    try:
        import ultralytics
        from ultralytics.nn import tasks
        from ultralytics.utils.events import events
    except ImportError as error:
        raise ModelError(
            f"YOLO needs ultralytics ({error}): pip install ultralytics, "
            "or set detector.name to face"
        ) from error
    # Also where ultralytics was imported before, with another environment.
    tasks.SAFE_LOAD = True  # type: ignore[attr-defined]
    events.enabled = False  # the user's own settings file says sync: true unless changed
    logging.getLogger("ultralytics").setLevel(logging.WARNING)  # it writes to stdout
    return ultralytics


def _yolo_file(name: str) -> Path:
    """The absolute path of a model file that exists and whose libraries do.

    Absolute, because ultralytics deletes a damaged file with the bare name of one of its own
    models in order to download it again.
    """
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
    """What ultralytics 8.4 lets through for files that are not its models, found by trying."""
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
    if path.suffix == ".onnx":  # whose errors share no parent but Exception
        from onnxruntime.capi import onnxruntime_pybind11_state as state

        errors += (state.Fail, state.InvalidArgument, state.InvalidGraph, state.NotImplemented)
    return errors


def _person_class(names: dict[int, str], path: Path) -> int:
    for index, name in names.items():
        if name == "person":
            return index
    raise ModelError(f"{path} knows no class 'person', only {', '.join(names.values())}")


def _inside(corners: FloatArray, confidence: FloatArray, width: int, height: int) -> Detections:
    """The boxes clipped to the picture, without those of which nothing is left."""
    limits = np.asarray([width, height, width, height], np.float32)
    clipped = np.clip(corners.astype(np.float32), 0, limits)
    left, top, right, bottom = clipped.T
    some = (right > left) & (bottom > top)
    return Detections(clipped[some], confidence[some].astype(np.float32))


def _free_memory() -> None:
    """Return what dropped models held, on the GPU too."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
