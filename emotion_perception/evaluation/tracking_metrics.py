"""Who is who over time: identities, and what was said of each, against the truth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from emotion_perception.core.values import Box

Boxes = Mapping[str, Box]
"""Identity to box, in one frame."""

MIN_IOU = 0.5


def iou(one: Box, other: Box) -> float:
    """Shared area over united area, 0..1."""
    across = min(one.right, other.right) - max(one.left, other.left)
    down = min(one.bottom, other.bottom) - max(one.top, other.top)
    shared = max(across, 0.0) * max(down, 0.0)
    united = one.area + other.area - shared
    return shared / united if united > 0 else 0.0


def match(truth: Boxes, found: Boxes, min_iou: float = MIN_IOU) -> dict[str, str]:
    """Found identity to true one, so that boxes overlap as much as possible in one frame."""
    names, others = list(found), list(truth)
    overlaps = np.array([[iou(found[a], truth[b]) for b in others] for a in names])
    overlaps = overlaps.reshape(len(names), len(others))
    pairs = zip(*linear_sum_assignment(-overlaps), strict=True)
    return {names[i]: others[j] for i, j in pairs if overlaps[i, j] >= min_iou}


class Identities(NamedTuple):
    """How well people were found and kept apart, over a whole clip."""

    f1: float
    """IDF1 of Ristani et al., ECCV 2016 workshops: 1 if everybody is found under one name."""
    recall: float
    """Share of the true boxes that were found, under whatever name."""
    switches: int
    """How often somebody went on under another name."""


def identities(
    truth: Mapping[int, Boxes], found: Mapping[int, Boxes], min_iou: float = MIN_IOU
) -> Identities:
    """Compare two mappings from stamps to boxes, over the stamps of `found`.

    Args:
        truth: everybody at every stamp of `found`.

    Raises:
        ValueError: nobody is in either, or a stamp of `found` lacks its truth.
    """
    if lacking := found.keys() - truth.keys():
        raise ValueError(f"{len(lacking)} stamps have no truth, {min(lacking)} for one")
    names = sorted({name for boxes in found.values() for name in boxes})
    others = sorted({name for stamp in found for name in truth[stamp]})
    together = np.zeros((len(names), len(others)))
    boxes_true = boxes_found = matched = switches = 0
    latest: dict[str, str] = {}
    for stamp in sorted(found):
        boxes_true += len(truth[stamp])
        boxes_found += len(found[stamp])
        for name, other in match(truth[stamp], found[stamp], min_iou).items():
            together[names.index(name), others.index(other)] += 1
            matched += 1
            switches += latest.get(other, name) != name
            latest[other] = name
    if not boxes_true + boxes_found:
        raise ValueError("nobody is there, neither in truth nor found")
    rows, columns = linear_sum_assignment(-together)
    kept = together[rows, columns].sum()
    return Identities(
        f1=float(2 * kept / (boxes_true + boxes_found)),
        recall=matched / max(boxes_true, 1),
        switches=switches,
    )
