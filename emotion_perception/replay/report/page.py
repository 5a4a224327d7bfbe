"""A replay as one page: what was seen, what was said of whom and when, and how well.

It needs no network and no other file. What it shows of a long bag is thinned by `Timeline`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from emotion_perception.core.values import Estimate, Status
from emotion_perception.evaluation.pages.charts import PALETTE, Chart, draw_chart
from emotion_perception.evaluation.pages.templating import document, figure, grid
from emotion_perception.replay.report import timeline_svg
from emotion_perception.replay.report.timeline_data import Moment, Timeline
from emotion_perception.replay.simulator import OUTCOMES

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

_ASSETS = Path(__file__).parent / "assets"
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
    """Return the report as HTML.

    Args:
        title: the title of the page.
        timeline: the collected replay.
        about: facts for the head: models, times, the data's fingerprint, versions.
        figures: `Timeline.figures`, with "timing" and, of a labelled replay, "labelled".
        settings: those that differ from the defaults.
        warnings: what readers must know first.
    """
    body = [
        f"<h1>{escape(title)}</h1>",
        *(f'<p class="warning" role="alert">{escape(warning)}</p>' for warning in warnings),
        f'<p class="lead">{_lead(timeline, figures)}</p>',
        (_ASSETS / "viewer.html").read_text(),
        "<h2>People over time</h2>",
        timeline_svg.draw_timeline(timeline),
        "<h2>Figures</h2>",
        _figures(figures),
        '<div class="drawings">',
        *map(figure, _charts(timeline)),
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
        f"{timeline_svg.duration(timeline.span)}, {figures['images']:,} images, "
        f"{figures['people']:,} people{told}. {figures['answers']:,} answers by "
        f"{escape(timeline.model or 'no recognizer')}."
    )


def _data(timeline: Timeline) -> str:
    """What the script needs. `<` might end or begin something in a script element."""
    found = {
        "span": round(timeline.span, 3),
        "labels": timeline.labels,
        "moments": [_moment(timeline, moment) for moment in timeline.moments],
    }
    return json.dumps(found, separators=(",", ":")).replace("<", "\\u003c")


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
    for outcome, count in figures["fates"].items():
        rows.append([f"images {escape(outcome)}", f"{count:,}"])
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
        rows.append(["people found in an image, this machine", _spread(spread, 1000, "ms")])
    for people, spread in timing.get("answer_seconds", {}).items():
        rows.append([f"an answer about {people}, this machine", _spread(spread, 1000, "ms")])
    return grid(["", ""], rows)


def _spread(spread: Mapping[str, float], scale: float, unit: str) -> str:
    middle, high = scale * spread["median"], scale * spread["percentile_95"]
    return f"{middle:.3g} {unit}<small>95 of 100 below {high:.3g} {unit}</small>"


def _charts(timeline: Timeline) -> Iterator[Chart]:
    yield draw_chart(
        "What became of the images, over time.", lambda to: _draw_images(to, timeline), 3.0
    )
    if timeline.answers:
        yield draw_chart(
            "From an image's arrival to the answer about it, each answer a point.",
            lambda to: _draw_latency(to, timeline),
            3.0,
        )
        yield draw_chart(
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
    colours = (PALETTE[0], PALETTE[1], PALETTE[6], PALETTE[3])
    shown = [outcome for outcome in OUTCOMES if timeline.fates[outcome]]
    for outcome, color in zip(OUTCOMES, colours, strict=True):
        counts = np.zeros(bars)
        for (number, what), count in timeline.fates_by_bin.items():
            if what == outcome:
                at = number * timeline.bin_ns / 1e9
                counts[min(int(at / width), bars - 1)] += count
        if outcome in shown:
            places = (np.arange(bars) + 0.5) * width
            axes.bar(places, counts / width, 0.9 * width, below, color=color, label=outcome)
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
