"""Compare tracks with the ground truth: identities, switches and detection recall."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment
from trackers.eval import (
    box_iou,
    compute_clear_metrics,
    compute_hota_metrics,
    compute_identity_metrics,
)

from emotion_perception.core.values import Box, FloatArray

BoxesById = Mapping[str, Box]
"""Identity to box, in one frame."""

MIN_IOU = 0.5


def overlaps(first: BoxesById, second: BoxesById) -> FloatArray:
    """Return the intersection over union of each pair of boxes as a (first, second) array."""
    if not first or not second:
        return np.zeros((len(first), len(second)))
    return np.asarray(box_iou(np.array([*first.values()]), np.array([*second.values()])))


def iou(first: Box, second: Box) -> float:
    """Return the intersection over union of two boxes, 0..1."""
    return float(box_iou(np.array([first]), np.array([second]))[0, 0])


def match(truth: BoxesById, tracks: BoxesById) -> dict[str, str]:
    """Assign tracks to people of the ground truth in one frame, by the largest total overlap.

    Returns:
        `person_id` of the track to identity of the ground truth; pairs that overlap less than
        `MIN_IOU` are left out.
    """
    names, people = list(tracks), list(truth)
    overlap = overlaps(tracks, truth)
    rows, columns = linear_sum_assignment(-overlap)
    return {
        names[i]: people[j] for i, j in zip(rows, columns, strict=True) if overlap[i, j] >= MIN_IOU
    }


class TrackingMetrics(NamedTuple):
    """How completely people are tracked over a clip, and how well identities are preserved."""

    identity_f1: float
    """IDF1 (Ristani et al., ECCV 2016 workshops): 1 if each person has a single track."""
    detection_recall: float
    """Share of the true boxes that a track matches (CLEAR, Bernardin and Stiefelhagen, 2008)."""
    identity_switches: int
    """How often a person continues under another `person_id` (CLEAR)."""
    mota: float
    """Multiple object tracking accuracy (CLEAR); negative if errors exceed matches."""
    hota: float
    """Higher order tracking accuracy (Luiten et al., IJCV 2021)."""


def tracking_metrics(
    truth: Mapping[int, BoxesById], tracks: Mapping[int, BoxesById]
) -> TrackingMetrics:
    """Compare two mappings from stamps to boxes over the stamps of `tracks`.

    A match needs an overlap of `MIN_IOU`, except for HOTA, which averages over thresholds.

    Args:
        truth: The boxes of all people at each stamp of `tracks`.
        tracks: The boxes of all tracks.

    Raises:
        ValueError: There is no box in either, or a stamp of `tracks` lacks its ground truth.
    """
    if missing := tracks.keys() - truth.keys():
        raise ValueError(
            f"cannot compare the tracks: {len(missing)} of {len(tracks)} stamps have no ground "
            f"truth, for example {min(missing)}; pass the ground truth of each stamp"
        )
    stamps = sorted(tracks)
    if not any(truth[stamp] or tracks[stamp] for stamp in stamps):
        raise ValueError("cannot compare the tracks: there is no box, in tracks or ground truth")
    sequence = (
        _numbered([truth[stamp] for stamp in stamps]),
        _numbered([tracks[stamp] for stamp in stamps]),
        [overlaps(truth[stamp], tracks[stamp]) for stamp in stamps],
    )
    clear = compute_clear_metrics(*sequence, threshold=MIN_IOU)
    return TrackingMetrics(
        identity_f1=float(compute_identity_metrics(*sequence, threshold=MIN_IOU)["IDF1"]),
        detection_recall=float(clear["CLR_Re"]),
        identity_switches=int(clear["IDSW"]),
        mota=float(clear["MOTA"]),
        hota=float(compute_hota_metrics(*sequence)["HOTA"]),
    )


def _numbered(frames: list[BoxesById]) -> list[np.ndarray]:
    """Replace the identities of each frame by numbers, the same number for the same identity."""
    numbers = {name: i for i, name in enumerate(sorted({n for boxes in frames for n in boxes}))}
    return [np.array([numbers[name] for name in boxes], int) for boxes in frames]
