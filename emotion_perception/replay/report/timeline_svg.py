"""Prepare the drawing of a replay's timeline: one lane per person, drawn by `timeline.html`."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import cv2
import numpy as np

from emotion_perception.core.values import Status
from emotion_perception.replay.report.timeline_data import BinState, Timeline, TrackSpan

_MAX_LANES = 120
_MAX_STRIPS = 5  # labels of a person with a strip of their own

Steps = Sequence[tuple[float, float, BinState]]
"""Start and end in seconds, and the estimate between them."""


@dataclass(frozen=True, slots=True)
class Band:
    """A part of a lane with one status and one leading label."""

    left: float
    """Percent of the timeline."""
    width: float
    """Percent of the timeline."""
    status: str
    label: str
    title: str


@dataclass(frozen=True, slots=True)
class Strip:
    """The score of a label over time, as the opacity of an image that is one pixel high."""

    label: str
    left: float
    """Percent of the timeline."""
    width: float
    """Percent of the timeline."""
    png: str
    """The image in base64."""


@dataclass(frozen=True, slots=True)
class Lane:
    """One person."""

    person_id: str
    duration: str
    bands: list[Band]
    strips: list[Strip]
    curves: dict[str, str]
    """SVG path of valence and arousal; empty if they are unknown."""


@dataclass(frozen=True, slots=True)
class Drawing:
    """A timeline, ready to be drawn."""

    ticks: list[tuple[float, str]]
    """Place in percent, and text."""
    lanes: list[Lane]
    hidden_people: int
    """People without a lane."""


def prepare_timeline(timeline: Timeline) -> Drawing:
    """Return the drawing, with lanes for the people who were seen longest."""
    spans = sorted(timeline.track_spans.values(), key=lambda s: s.first_ns - s.last_ns)[:_MAX_LANES]
    spans.sort(key=lambda span: span.first_ns)
    return Drawing(
        list(_ticks(timeline.length_s)),
        [_lane(timeline, span) for span in spans],
        len(timeline.track_spans) - len(spans),
    )


def duration(seconds: float) -> str:
    """Return a duration in words."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


def _ticks(length: float) -> Iterator[tuple[float, str]]:
    steps = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200)
    step = next((s for s in steps if length / s <= 10), length / 8)
    for x in np.arange(0, length, step):
        if x < 0.96 * length:
            yield 100 * x / length, _clock(round(x, 3), length)


def _clock(seconds: float, length: float) -> str:
    minutes, rest = divmod(seconds, 60)
    if length < 60:
        return f"{seconds:g} s"
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02d}:{rest:02.0f}" if length >= 3600 else f"{minutes}:{rest:02.0f}"


def _lane(timeline: Timeline, span: TrackSpan) -> Lane:
    steps = list(timeline.steps(span))
    return Lane(
        span.person_id,
        duration(sum(end - start for start, end, _ in steps)),
        list(_bands(steps, timeline.length_s)),
        [_strip(timeline, steps, label) for label in _main_labels(steps)],
        _curves(steps, timeline.length_s) if any(state.vad for _, _, state in steps) else {},
    )


def _bands(steps: Steps, length: float) -> Iterator[Band]:
    """Yield bands of equal status and leading label; a gap ends a band."""
    gaps, gap, previous_end = [], 0, None
    for start, end, _ in steps:
        gap += previous_end is not None and start > previous_end + 1e-6
        gaps.append(gap)
        previous_end = end

    def key(item: tuple[int, tuple[float, float, BinState]]) -> tuple[Status, str, int]:
        number, (_, _, state) = item
        return state.status, state.label, gaps[number]

    for (status, label, _), group in groupby(enumerate(steps), key):
        band = [step for _, step in group]
        start, end = band[0][0], band[-1][1]
        title = f"{label or status.name.lower()}, {start:.1f} to {end:.1f} s"
        yield Band(100 * start / length, 100 * (end - start) / length, status.name, label, title)


def _main_labels(steps: Steps) -> list[str]:
    """Return the labels that were active longest, in this order."""
    times: dict[str, float] = {}
    for start, end, state in steps:
        for label in state.active if state.status is Status.ASSESSED else ():
            times[label] = times.get(label, 0.0) + end - start
    return sorted(times, key=lambda label: -times[label])[:_MAX_STRIPS]


def _strip(timeline: Timeline, steps: Steps, label: str) -> Strip:
    index = timeline.labels.index(label)
    first, last = steps[0][0], steps[-1][1]
    width = timeline.bin_ns / 1e9
    opacity = np.zeros(max(round((last - first) / width), 1))
    for start, end, state in steps:
        if state.status is Status.ASSESSED and state.scores is not None:
            bins = slice(round((start - first) / width), round((end - first) / width))
            opacity[bins] = state.scores[index] * (1.0 if label in state.active else 0.35)
    pixels = np.zeros((1, len(opacity), 4), np.uint8)
    pixels[0, :, 3] = np.round(255 * opacity)
    png = base64.b64encode(cv2.imencode(".png", pixels)[1].tobytes()).decode()
    length = timeline.length_s
    return Strip(label, 100 * first / length, 100 * (last - first) / length, png)


def _curves(steps: Steps, length: float) -> dict[str, str]:
    curves = {}
    for index, name in enumerate(("valence", "arousal")):
        points: list[str] = []
        previous_end = None
        for start, end, state in steps:
            if state.vad is None or state.status not in (Status.ASSESSED, Status.ABSTAINED):
                continue
            y = 50 - 50 * state.vad[index]
            joined = previous_end is not None and start <= previous_end + 1e-6
            points.append(f"{'L' if joined else 'M'}{1000 * start / length:.1f} {y:.0f}")
            points.append(f"L{1000 * end / length:.1f} {y:.0f}")
            previous_end = end
        curves[name] = "".join(points)
    return curves
