"""Convert estimates to JSON and back: one object per message, with all of its fields."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from emotion_perception.core.values import (
    Box,
    Cause,
    Estimate,
    FloatArray,
    PeopleEstimate,
    SourceStatus,
    Status,
    Track,
    Vad,
)


def people_to_json(people: PeopleEstimate) -> dict[str, Any]:
    """Convert estimates to a JSON object; NaN becomes null."""
    return {
        "stamp_ns": people.stamp_ns,
        "frame_id": people.camera,
        "image_width": people.width,
        "image_height": people.height,
        "model": people.model,
        "calibration": people.calibration,
        "labels": list(people.labels),
        "thresholds": _numbers(people.thresholds),
        "run_id": people.run_id,
        "sequence": people.sequence,
        "source_status": SourceStatus(people.source_status).name,
        "cause": Cause(people.cause).name,
        "people": [_person(estimate) for estimate in people.people],
    }


def _person(estimate: Estimate) -> dict[str, Any]:
    vad = estimate.vad or (None, None, None)
    return {
        "person_id": estimate.track.person_id,
        "box": [_number(x) for x in estimate.track.box],
        "detection_confidence": _number(estimate.track.confidence),
        "position": [_number(x) for x in estimate.track.position],
        "status": Status(estimate.status).name,
        "reason": estimate.reason,
        "assessed_ns": estimate.assessed_ns,
        "label": estimate.label,
        "confidence": _number(estimate.confidence),
        "active": list(estimate.active),
        "scores": _numbers(estimate.scores),
        "raw_scores": _numbers(estimate.raw_scores),
        "valence": _number(vad[0]),
        "arousal": _number(vad[1]),
        "dominance": _number(vad[2]),
        "rationale": estimate.rationale,
    }


def _number(value: float | None) -> float | None:
    if value is None or not math.isfinite(value):
        return None
    # Round as the float32 of the message, so that a reader of the message writes the same JSON.
    return float(f"{np.float32(value):.6g}")


def _numbers(values: Any) -> list[float | None]:
    return [] if values is None else [_number(float(v)) for v in np.asarray(values)]


def people_from_json(record: dict[str, Any]) -> PeopleEstimate:
    """Convert a JSON object of `people_to_json` to estimates; numbers have six digits."""
    return PeopleEstimate(
        stamp_ns=record["stamp_ns"],
        camera=record["frame_id"],
        width=record["image_width"],
        height=record["image_height"],
        model=record["model"],
        calibration=record["calibration"],
        labels=tuple(record["labels"]),
        people=tuple(_estimate(person) for person in record["people"]),
        source_status=SourceStatus[record.get("source_status", "LIVE")],
        cause=Cause[record.get("cause", "FRAME")],
        run_id=record.get("run_id", ""),
        sequence=record.get("sequence", 0),
        thresholds=_scores(record.get("thresholds", [])),
    )


def _estimate(person: dict[str, Any]) -> Estimate:
    x, y, z = (_float(value) for value in person["position"])
    vad = [_float(person[name]) for name in ("valence", "arousal", "dominance")]
    box = Box(*person["box"])
    return Estimate(
        track=Track(person["person_id"], box, person["detection_confidence"], (x, y, z)),
        status=Status[person["status"]],
        reason=person["reason"],
        assessed_ns=person["assessed_ns"],
        label=person["label"],
        confidence=_float(person["confidence"]),
        active=tuple(person["active"]),
        scores=_scores(person["scores"]),
        raw_scores=_scores(person["raw_scores"]),
        vad=None if all(map(math.isnan, vad)) else Vad(*vad),
        rationale=person["rationale"],
    )


def _float(value: float | None) -> float:
    return math.nan if value is None else value


def _scores(values: list[float]) -> FloatArray | None:
    return np.asarray(values) if values else None
