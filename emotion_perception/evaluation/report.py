"""A replay as one page: what was seen, what was said of whom and when, and how well.

It needs no network and no other file. What it shows of a long bag is thinned by `Timeline`; people
beyond the `_LANES` longest seen are counted, not drawn.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from emotion_perception.evaluation.html import PALETTE, document, drawn, grid
from emotion_perception.evaluation.replay import FATES
from emotion_perception.evaluation.timeline import Held, Life, Moment, Timeline
from emotion_perception.values import Estimate, Status

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

_ASSETS = Path(__file__).parents[1] / "data" / "report"
_LANES = 120
_ROWS = 5  # labels of a person that get a row of their own
_BARS = 60  # of the chart of images
_POINTS = 3000  # of the chart of latencies

_MEASURES = {
    "precision": "precision", "recall": "recall", "f1": "F1", "hamming": "Hamming loss",
    "subset": "all labels right",
}  # fmt: skip


_OTHERS = "the others count as 0 in precision, recall and F1, not in mAP"


def page(
    title: str,
    timeline: Timeline,
    about: Mapping[str, str],
    figures: Mapping[str, Any],
    settings: Mapping[str, Any],
    warnings: Sequence[str] = (),
) -> str:
    """The page, as HTML.

    Args:
        title: what was replayed.
        about: facts for the head: models, times, the data's fingerprint, versions.
        figures: `Timeline.figures`, with "timing" and, of a labelled replay, "labelled".
        settings: those that differ from the defaults.
        warnings: what whoever reads it has to know first.
    """
    lives = sorted(timeline.lives.values(), key=lambda life: life.first_ns - life.last_ns)[:_LANES]
    lives.sort(key=lambda life: life.first_ns)
    body = [
        f"<h1>{escape(title)}</h1>",
        *(f'<p class="warning" role="alert">{escape(warning)}</p>' for warning in warnings),
        f'<p class="lead">{_lead(timeline, figures)}</p>',
        (_ASSETS / "viewer.html").read_text(),
        "<h2>Everybody over time</h2>",
        _LEGEND,
        f'<div id="timeline" class="timeline"><div class="wide">{_axis(timeline)}',
        *(_lane(timeline, life) for life in lives),
        '<div id="cursor"></div></div></div>',
        _not_drawn(timeline, lives),
        "<h2>Figures</h2>",
        _figures(figures),
        '<div class="drawings">',
        *_charts(timeline),
        "</div>",
        *_labelled(figures.get("labelled")),
        "<h2>How it was made</h2>",
        grid(["", ""], [[escape(name), escape(value)] for name, value in about.items()]),
        "<details><summary>Settings that differ from the defaults</summary>",
        grid(["", ""], [[escape(k), escape(str(v))] for k, v in settings.items()]),
        "</details>",
        f'<script type="application/json" id="data">{_data(timeline)}</script>',
        f"<script>{(_ASSETS / 'report.js').read_text()}</script>",
    ]
    return document(title, "\n".join(body), (_ASSETS / "report.css").read_text())


def _lead(timeline: Timeline, figures: Mapping[str, Any]) -> str:
    without = figures["share_without_answer"]
    told = "" if without is None else f", {100 * without:.0f} % of their time without an answer"
    return (
        f"{_duration(timeline.span)}, {figures['images']:,} images, {figures['people']:,} people"
        f"{told}. {figures['answers']:,} answers by {escape(timeline.model or 'nobody')}."
    )


def _duration(seconds: float) -> str:
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


def _lane(timeline: Timeline, life: Life) -> str:
    steps = list(timeline.steps(life))
    name = escape(life.person_id)
    seen = (life.last_ns - life.first_ns) / 1e9
    rows = [
        _row(
            f'<button type="button" class="who">{name}</button><small>{_duration(seen)}</small>',
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


Steps = list[tuple[float, float, Held]]


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
    def key(numbered: tuple[int, tuple[float, float, Held]]) -> tuple[Status, str, int]:
        number, (_, _, held) = numbered
        return held.status, held.label, gaps[number]

    gaps, gap, before = [], 0, None
    for begin, end, _ in steps:  # a run ends where somebody is out of view
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


def _heat(timeline: Timeline, life: Life, steps: Steps, label: str) -> str:
    """A label's score over somebody's life, as the opacity of a picture a pixel high."""
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


def _not_drawn(timeline: Timeline, lives: list[Life]) -> str:
    more = len(timeline.lives) - len(lives)
    if not timeline.lives:
        return "<p>Nobody was seen.</p>"
    return f"<p>{more:,} more people were seen, for a shorter time each.</p>" if more else ""


def _data(timeline: Timeline) -> str:
    """What the script needs. `</` cannot stand in a script element."""
    found = {
        "span": round(timeline.span, 3),
        "labels": timeline.labels,
        "moments": [_moment(timeline, moment) for moment in timeline.moments],
    }
    return json.dumps(found, separators=(",", ":")).replace("</", "<\\/")


def _moment(timeline: Timeline, moment: Moment) -> dict[str, Any]:
    people = moment.people
    return {
        "t": round(timeline.at(moment.time_ns), 3),
        "stamp": str(people.stamp_ns),
        "size": [people.width, people.height],
        "jpeg": base64.b64encode(moment.picture).decode(),
        "people": [_person(e, people.stamp_ns, timeline.labels) for e in people.people],
    }


def _person(estimate: Estimate, stamp_ns: int, labels: tuple[str, ...]) -> dict[str, Any]:
    looked = estimate.status is not Status.PENDING
    return {
        "id": estimate.track.person_id,
        "box": [round(x) for x in estimate.track.box],
        "status": estimate.status.name,
        "reason": estimate.reason,
        "label": estimate.label,
        "active": [labels.index(label) for label in estimate.active],
        "scores": _permille(estimate.scores),
        "raw": _permille(estimate.raw_scores),
        "vad": None if estimate.vad is None else [round(float(x), 2) for x in estimate.vad],
        "age": round((stamp_ns - estimate.assessed_ns) / 1e9, 2) if looked else None,
        "rationale": estimate.rationale,
    }


def _permille(scores: Any) -> list[int]:
    return [] if scores is None else [round(1000 * float(score)) for score in scores]


def _figures(figures: Mapping[str, Any]) -> str:
    rows: list[list[str]] = []
    for fate, count in figures["fates"].items():
        rows.append([f"images {escape(fate)}", f"{count:,}"])
    rows.append(["messages", f"{figures['messages']:,}"])
    for status, share in figures["share_by_status"].items():
        if share is not None:
            rows.append([f"share of people's time {status}", f"{100 * share:.1f} %"])
    for key, name in (
        ("answer_latency_seconds", "from an image's arrival to the answer about it"),
        ("answer_age_seconds", "age of the answers in force"),
    ):
        if spread := figures[key]:
            rows.append([name, _spread(spread, 1, "s")])
    timing = figures.get("timing") or {}
    if spread := timing.get("image_seconds"):
        rows.append(["people found and followed, this machine", _spread(spread, 1000, "ms")])
    for people, spread in timing.get("answer_seconds", {}).items():
        rows.append([f"an answer about {people}, this machine", _spread(spread, 1000, "ms")])
    return grid(["", ""], rows)


def _spread(spread: Mapping[str, float], scale: float, unit: str) -> str:
    middle, high = scale * spread["median"], scale * spread["percentile_95"]
    return f"{middle:.3g} {unit}<small>95 of 100 below {high:.3g} {unit}</small>"


def _charts(timeline: Timeline) -> Iterator[str]:
    yield drawn("What became of the images, over time.", lambda to: _draw_images(to, timeline), 3.0)
    if timeline.answers:
        yield drawn(
            "From an image's arrival to the answer about it, each answer a point.",
            lambda to: _draw_latency(to, timeline),
            3.0,
        )
        yield drawn(
            "Age of the answer in force, once a message and person.",
            lambda to: _draw_ages(to, timeline),
            3.0,
        )


def _draw_images(to: Drawing, timeline: Timeline) -> None:
    axes = to.subplots()
    # Some images a bar, else bars show how images fall into them.
    bars = min(_BARS, max(sum(timeline.fates.values()) // 10, 1))
    width = timeline.span / bars
    below = np.zeros(bars)
    shown = [fate for fate in FATES if timeline.fates[fate]]
    for fate, color in zip(FATES, (PALETTE[0], PALETTE[1], PALETTE[6], PALETTE[3]), strict=True):
        counts = np.zeros(bars)
        for (number, what), count in timeline.fates_by_bin.items():
            if what == fate:
                at = number * timeline.bin_ns / 1e9
                counts[min(int(at / width), bars - 1)] += count
        if fate in shown:
            places = (np.arange(bars) + 0.5) * width
            axes.bar(places, counts / width, 0.9 * width, below, color=color, label=fate)
            below += counts / width
    axes.set(xlabel="seconds", ylabel="images a second", xlim=(0, timeline.span))
    if len(shown) > 1:
        to.legend(loc="outside upper left", ncols=2)


def _draw_latency(to: Drawing, timeline: Timeline) -> None:
    axes = to.subplots()
    step = max(len(timeline.answers) // _POINTS, 1)
    when, latency = zip(*timeline.answers[::step], strict=True)
    axes.plot(when, latency, ".", color=PALETTE[0], ms=5, alpha=0.6)
    axes.set(xlabel="seconds", ylabel="seconds", xlim=(0, timeline.span))
    axes.set_ylim(0, max(*latency, 0.01) * 1.1)


def _draw_ages(to: Drawing, timeline: Timeline) -> None:
    axes = to.subplots()
    ages = np.asarray(timeline.ages)
    axes.hist(ages, bins=40, range=(0, max(float(ages.max()), 0.01)), color=PALETTE[0])
    axes.set(xlabel="seconds", ylabel="times")


def _labelled(found: Mapping[str, Any] | None) -> list[str]:
    if not found:
        return []
    rows = [
        ["labelled images", f"{found['images']:,}"],
        ["people in the labels", f"{found['people']:,}"],
    ]
    if "detection_recall" in found:
        rows += [
            ["people found", f"{100 * found['detection_recall']:.1f} %"],
            ["identities kept (IDF1)", f"{found['identity_f1']:.3f}"],
            ["identity switches", f"{found['identity_switches']}"],
        ]
    rows.append(["answers about labelled people", f"{found['answers']:,}"])
    if found["answers"]:
        right = found["answers_with_a_true_leading_label"] / found["answers"]
        rows.append(["leading label true", f"{100 * right:.1f} %"])
        measures = found["measures"]
        occur = sum(row["prevalence"] > 0 for row in measures["labels"].values())
        rows.append(
            ["labels that occur", f"{occur} of {len(measures['labels'])}<small>{_OTHERS}</small>"]
        )
        for key, name in _MEASURES.items():
            rows.append([name, _percent(measures["decisions"][key])])
        if measures["map"]:
            rows.append(["mAP", _percent(measures["map"])])
            rows.append(["expected calibration error", f"{measures['ece']:.4f}"])
        if error := measures["vad_error"]:
            rows.append(["error of valence, arousal, dominance (1 to 10)", f"{error['mean']:.2f}"])
    return [f"<h2>Against the labels in {escape(found['file'])}</h2>", grid(["", ""], rows)]


def _percent(figure: Mapping[str, float]) -> str:
    low, high = 100 * figure["low"], 100 * figure["high"]
    return f"{100 * figure['value']:.1f} %<small>{low:.1f} to {high:.1f}</small>"
