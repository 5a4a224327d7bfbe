"""Draw the timeline of a replay: one lane per person, as HTML and SVG."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from html import escape
from itertools import groupby

import cv2
import numpy as np

from emotion_perception.core.values import Status
from emotion_perception.replay.report.timeline_data import BinState, Timeline, TrackSpan

_LANES = 120
_ROWS = 5  # labels of a person that get a row of their own

Steps = list[tuple[float, float, BinState]]
"""From when to when, in seconds, and what was held then."""


def draw_timeline(timeline: Timeline) -> str:
    """The legend, and a lane for each of the people seen longest; the others are counted."""
    lives = sorted(timeline.lives.values(), key=lambda life: life.first_ns - life.last_ns)[:_LANES]
    lives.sort(key=lambda life: life.first_ns)
    drawn = "".join(_lane(timeline, life) for life in lives)
    return (
        f'{_LEGEND}<div id="timeline" class="timeline"><div class="lanes">{_axis(timeline)}{drawn}'
        f'<div id="cursor"></div></div></div>{_not_drawn(timeline, lives)}'
    )


def duration(seconds: float) -> str:
    """In words."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


def _clock(seconds: float, span: float) -> str:
    minutes, rest = divmod(seconds, 60)
    if span < 60:
        return f"{seconds:g} s"
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02d}:{rest:02.0f}" if span >= 3600 else f"{minutes}:{rest:02.0f}"


def _axis(timeline: Timeline) -> str:
    span = timeline.span
    steps = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200)
    step = next((s for s in steps if span / s <= 10), span / 8)
    ticks = "".join(
        f'<span style="left:{100 * x / span:.3f}%">{_clock(round(x, 3), span)}</span>'
        for x in np.arange(0, span, step)
        if x < 0.96 * span
    )
    return f'<div class="row axis"><div></div><div class="track">{ticks}</div></div>'


_LEGEND = """<p class="legend" aria-label="Legend">
<span><i class="seg ASSESSED"></i> leading label</span>
<span><i class="seg PENDING"></i> not judged yet</span>
<span><i class="seg ABSTAINED"></i> abstained</span>
<span><i class="seg EXPIRED"></i> answer too old</span>
<span><i class="seg"></i> not in view</span>
<span><i class="seg heat"></i> a label's score, pale below its threshold</span>
<span><i class="curve valence"></i> valence</span>
<span><i class="curve arousal"></i> arousal</span>
<label>zoom <input id="zoom" type="range" min="0" max="7" value="0"></label>
</p>"""


def _lane(timeline: Timeline, life: TrackSpan) -> str:
    steps = list(timeline.steps(life))
    name = escape(life.person_id)
    seen = sum(end - begin for begin, end, _ in steps)
    rows = [
        _row(
            f'<button type="button" class="who">{name}</button><small>{duration(seen)}</small>',
            "band",
            "".join(_band(steps, timeline.span)),
        )
    ]
    for label in _main_labels(steps):
        heat = _heat(timeline, life, steps, label)
        rows.append(_row(escape(label), "strip-of", heat))
    if any(held.vad for _, _, held in steps):
        rows.append(_row("valence, arousal", "affect", _affect(steps, timeline.span)))
    return (
        f'<section class="lane" data-person="{name}" aria-label="{name}">{"".join(rows)}</section>'
    )


def _row(name: str, kind: str, content: str) -> str:
    return (
        f'<div class="row {kind}"><div class="name">{name}</div>'
        f'<div class="track">{content}</div></div>'
    )


def _band(steps: Steps, span: float) -> Iterator[str]:
    """The leading label or the status, runs of the same drawn as one."""
    for status, label, begin, end in _runs(steps):
        words = label or status.name.lower()
        title = f"{words}, {begin:.1f} to {end:.1f} s"
        yield (
            f'<span class="seg {status.name}" style="{_place(begin, end, span)}" '
            f'title="{escape(title)}">{escape(label)}</span>'
        )


def _runs(steps: Steps) -> Iterator[tuple[Status, str, float, float]]:
    def key(numbered: tuple[int, tuple[float, float, BinState]]) -> tuple[Status, str, int]:
        number, (_, _, held) = numbered
        return held.status, held.label, gaps[number]

    gaps, gap, before = [], 0, None
    for begin, end, _ in steps:  # a run ends where the person is out of view
        gap += before is not None and begin > before + 1e-6
        gaps.append(gap)
        before = end
    for (status, label, _), group in groupby(enumerate(steps), key):
        run = [step for _, step in group]
        yield status, label, run[0][0], run[-1][1]


def _place(begin: float, end: float, span: float) -> str:
    return f"left:{100 * begin / span:.3f}%;width:{100 * (end - begin) / span:.3f}%"


def _main_labels(steps: Steps) -> list[str]:
    """The labels that were active longest, most first."""
    times: dict[str, float] = {}
    for begin, end, held in steps:
        for label in held.active if held.status is Status.ASSESSED else ():
            times[label] = times.get(label, 0.0) + end - begin
    return sorted(times, key=lambda label: -times[label])[:_ROWS]


def _heat(timeline: Timeline, life: TrackSpan, steps: Steps, label: str) -> str:
    """Draw the score of a label over a track as the opacity of an image one pixel high."""
    index = timeline.labels.index(label)
    first, last = steps[0][0], steps[-1][1]
    width = timeline.bin_ns / 1e9
    shades = np.zeros(max(round((last - first) / width), 1))
    for begin, end, held in steps:
        if held.status is Status.ASSESSED and held.scores is not None:
            here = slice(round((begin - first) / width), round((end - first) / width))
            shades[here] = held.scores[index] * (1.0 if label in held.active else 0.35)
    pixels = np.zeros((1, len(shades), 4), np.uint8)
    pixels[0, :, 3] = np.round(255 * shades)
    png = base64.b64encode(cv2.imencode(".png", pixels)[1].tobytes()).decode()
    return (
        f'<div class="heat" style="{_place(first, last, timeline.span)};'
        f'--shades:url(data:image/png;base64,{png})"></div>'
    )


def _affect(steps: Steps, span: float) -> str:
    lines = []
    for name, index in (("valence", 0), ("arousal", 1)):
        points: list[str] = []
        before = None
        for begin, end, held in steps:
            if held.vad is None or held.status not in (Status.ASSESSED, Status.ABSTAINED):
                continue
            y = 50 - 50 * held.vad[index]
            joined = before is not None and begin <= before + 1e-6
            points.append(f"{'L' if joined else 'M'}{1000 * begin / span:.1f} {y:.0f}")
            points.append(f"L{1000 * end / span:.1f} {y:.0f}")
            before = end
        lines.append(f'<path class="curve {name}" d="{"".join(points)}"/>')
    return (
        '<svg viewBox="0 0 1000 100" preserveAspectRatio="none" role="img" '
        'aria-label="valence and arousal, -1 below to 1 above">'
        f'<path class="zero" d="M0 50H1000"/>{"".join(lines)}</svg>'
    )


def _not_drawn(timeline: Timeline, lives: list[TrackSpan]) -> str:
    more = len(timeline.lives) - len(lives)
    if not timeline.lives:
        return "<p>No person was detected.</p>"
    return f"<p>{more:,} more people were seen, for a shorter time each.</p>" if more else ""
