"""The chance systems of Etesam et al. 2024, which do not look at the image.

Their metrics show what is reachable without recognition, given the frequency of each label.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from emotion_perception.core import documents
from emotion_perception.core.errors import ModelError
from emotion_perception.core.labels import EMOTIC_LABELS
from emotion_perception.core.recognizer_settings import FrequencySettings, RecognizerSettings
from emotion_perception.core.values import Assessment, FloatArray, Scene, Track

LABELS_PER_PERSON = 6
"""About the mean number of labels per person in the validation part of EMOTIC."""


class ChanceRecognizer:
    """Give each person six labels, by one of three rules.

    "majority" gives the six most frequent labels, "rand6" six drawn uniformly, "rand6-weighted" six
    drawn in proportion to their frequencies. The draw depends only on the id of the person and the
    stamp of the frame, so that `assess` is a pure function.
    """

    labels = EMOTIC_LABELS
    calibration = ""

    def __init__(self, settings: RecognizerSettings) -> None:
        """Read the frequencies of the labels.

        Args:
            settings: `model` is a JSON file of label to frequency, as `emotion-perception
                evaluate` fits it on a split. "rand6" needs no file.

        Raises:
            ModelError: The file is missing or has other contents.
        """
        self.name = settings.name
        self.thresholds: FloatArray = np.full(len(self.labels), 0.5)
        if isinstance(settings, FrequencySettings):
            self._frequencies = read_frequencies(settings.model)

    def warm_up(self) -> None:
        """Do nothing."""

    def assess(self, scene: Scene, people: Sequence[Track]) -> list[Assessment]:
        """Return six labels with a score of 1 for each person, wherever the box is."""
        stamp_ns = scene.frame.stamp_ns
        return [
            Assessment(p.person_id, stamp_ns, self._draw(p.person_id, stamp_ns)) for p in people
        ]

    def close(self) -> None:
        """Do nothing."""

    def _draw(self, person_id: str, stamp_ns: int) -> FloatArray:
        random = np.random.default_rng((zlib.crc32(person_id.encode()), stamp_ns % 2**63))
        if self.name == "majority":
            labels = np.argsort(-self._frequencies, kind="stable")[:LABELS_PER_PERSON]
        elif self.name == "rand6":
            labels = random.choice(len(self.labels), LABELS_PER_PERSON, replace=False)
        else:
            # The Gumbel-top-k trick draws in proportion to the frequencies without replacement;
            # labels that never occur come last.
            with np.errstate(divide="ignore"):
                keys = np.log(self._frequencies) + random.gumbel(size=len(self.labels))
            labels = np.argsort(-keys)[:LABELS_PER_PERSON]
        scores = np.zeros(len(self.labels))
        scores[labels] = 1.0
        return scores


def read_frequencies(path: Path | str) -> FloatArray:
    """Return the (26,) frequencies of the labels from a JSON object of label to frequency.

    Raises:
        ModelError: The file is missing or has other contents.
    """
    try:
        content = documents.read_json_object(path)
        frequencies = np.array([float(content[label]) for label in EMOTIC_LABELS])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"cannot read the frequency of each label from {path}: {error}; create the file with "
            "`emotion-perception evaluate system NAME --fit-split SPLIT`"
        ) from error
    if not (np.all(frequencies >= 0) and frequencies.sum() > 0):
        raise ModelError(
            f"cannot use the frequencies of {path}: one is negative, or all are 0; fit them again"
        )
    return frequencies
