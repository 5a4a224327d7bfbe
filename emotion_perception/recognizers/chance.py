"""What can be had without looking: the chance rows of Etesam et al. 2024.

They say how good a score is without any recognition, given how often each label occurs.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from emotion_perception.core.errors import ModelError
from emotion_perception.core.labels import EMOTIC_LABELS
from emotion_perception.core.settings import RecognizerSettings
from emotion_perception.core.values import Assessment, FloatArray, Scene, Track

LABELS_PER_PERSON = 6
"""Labels a person gets: about the mean of EMOTIC's validation part."""


class ChanceRecognizer:
    """Six labels for everybody: always the commonest, any, or any by how common they are.

    "majority" gives the six commonest, "rand6" six drawn alike, "rand6-weighted" six drawn in
    proportion to their frequencies. What is drawn depends on the person's id and the stamp only,
    so that the same question always gets the same answer.
    """

    labels = EMOTIC_LABELS
    calibration = ""

    def __init__(self, settings: RecognizerSettings) -> None:
        """
        Args:
            settings: `model` is a JSON file of label to frequency, as `emotion-perception
                evaluate` fits it on a split. "rand6" needs none.

        Raises:
            ModelError: the file is not there, or says something else.
        """
        self.name = settings.name
        self.thresholds: FloatArray = np.full(len(self.labels), 0.5)
        if settings.name != "rand6":
            self._frequencies = read_frequencies(settings.model)

    def warm_up(self) -> None:
        pass

    def assess(self, scene: Scene, people: Sequence[Track]) -> list[Assessment]:
        """Six labels with a score of 1 for each person, wherever they are."""
        stamp_ns = scene.frame.stamp_ns
        return [
            Assessment(p.person_id, stamp_ns, self._draw(p.person_id, stamp_ns)) for p in people
        ]

    def close(self) -> None:
        pass

    def _draw(self, person_id: str, stamp_ns: int) -> FloatArray:
        random = np.random.default_rng((zlib.crc32(person_id.encode()), stamp_ns % 2**63))
        if self.name == "majority":
            given = np.argsort(-self._frequencies, kind="stable")[:LABELS_PER_PERSON]
        elif self.name == "rand6":
            given = random.choice(len(self.labels), LABELS_PER_PERSON, replace=False)
        else:
            # Gumbel's trick: the largest of disturbed logarithms are drawn in proportion, without
            # repeating, and labels that never occur come last.
            with np.errstate(divide="ignore"):
                keys = np.log(self._frequencies) + random.gumbel(size=len(self.labels))
            given = np.argsort(-keys)[:LABELS_PER_PERSON]
        scores = np.zeros(len(self.labels))
        scores[given] = 1.0
        return scores


def read_frequencies(path: Path | str) -> FloatArray:
    """(26,): how often each label occurs, from a JSON object of label to share.

    Raises:
        ModelError: the file is not there, or says something else.
    """
    try:
        content = json.loads(Path(path).read_text())
        found = np.array([float(content[label]) for label in EMOTIC_LABELS])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{path} is no JSON file with the frequency of every label ({error}): let "
            "`emotion-perception evaluate system NAME --fit-split SPLIT` make one"
        ) from error
    if not (np.all(found >= 0) and found.sum() > 0):
        raise ModelError(f"{path} has negative frequencies, or none above 0")
    return found
