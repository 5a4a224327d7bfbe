"""Render the report of a replay as one HTML page that needs no network and no other file.

The content of a long bag is thinned by `Timeline`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from emotion_perception.core.values import Estimate, Status
from emotion_perception.evaluation.pages.charts import PALETTE, Chart, draw_chart
from emotion_perception.evaluation.pages.templating import render
from emotion_perception.replay.report import timeline_svg
from emotion_perception.replay.report.timeline_data import Moment, Timeline
from emotion_perception.replay.simulator import OUTCOMES

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

_TEMPLATES = Path(__file__).parent / "templates"
_MAX_BARS = 60  # of the chart of images
_MAX_POINTS = 3000  # of the chart of latencies

Fact = tuple[str, str, str]
"""Name, value, and a note."""

_MEASURES = {
    "precision": "precision", "recall": "recall", "f1": "F1", "hamming": "Hamming loss",
    "subset": "all labels right",
}  # fmt: skip

_OTHER_LABELS = "the others count as 0 in precision, recall and F1, not in mAP"


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
        title: The title of the page.
        timeline: The collected replay.
        about: Facts: models, times, fingerprint of the data, versions.
        figures: `Timeline.figures`, with "timing" and, with ground truth, "labelled".
        settings: Settings that differ from the defaults.
        warnings: What readers must know first.
    """
    labelled = figures.get("labelled")
    return render(
        "report.html",
        _TEMPLATES,
        title=title,
        warnings=warnings,
        summary=_summary(timeline, figures),
        timeline=timeline_svg.prepare_timeline(timeline),
        figures=list(_figures(figures)),
        charts=list(_charts(timeline)),
        labelled=list(_labelled(labelled)) if labelled else [],
        labelled_file=labelled["file"] if labelled else "",
        about=[(name, value, "") for name, value in about.items()],
        settings=[(name, str(value), "") for name, value in settings.items()],
        data=Markup(_data(timeline)),
    )


def _summary(timeline: Timeline, figures: Mapping[str, Any]) -> str:
    share = figures["share_without_answer"]
    without = "" if share is None else f", {100 * share:.0f} % of their time without an answer"
    return (
        f"{timeline_svg.duration(timeline.length_s)}, {figures['images']:,} images, "
        f"{figures['people']:,} people{without}. {figures['answers']:,} answers by "
        f"{timeline.model or 'no recognizer'}."
    )


def _data(timeline: Timeline) -> str:
    """Return the data of the script as JSON without `<`, which could end the script element."""
    data = {
        "span": round(timeline.length_s, 3),
        "labels": timeline.labels,
        "moments": [_moment(timeline, moment) for moment in timeline.moments],
    }
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")


def _moment(timeline: Timeline, moment: Moment) -> dict[str, Any]:
    people = moment.people
    return {
        "t": round(timeline.at(moment.time_ns), 3),
        "stamp": str(people.stamp_ns),
        "size": [people.width, people.height],
        "jpeg": base64.b64encode(moment.jpeg).decode(),
        "people": [_person(e, people.stamp_ns, timeline.labels) for e in people.people],
    }


def _person(estimate: Estimate, stamp_ns: int, labels: tuple[str, ...]) -> dict[str, Any]:
    assessed = estimate.status is not Status.PENDING
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
        "age": round((stamp_ns - estimate.assessed_ns) / 1e9, 2) if assessed else None,
        "rationale": estimate.rationale,
    }


def _permille(scores: Any) -> list[int]:
    return [] if scores is None else [round(1000 * float(score)) for score in scores]


def _figures(figures: Mapping[str, Any]) -> Iterator[Fact]:
    for outcome, count in figures["fates"].items():
        yield f"images {outcome}", f"{count:,}", ""
    if jumps := figures["clock_jumps"]:
        yield "jumps of the camera's clock, which drop all tracks", f"{jumps:,}", ""
    yield "messages", f"{figures['messages']:,}", ""
    for status, share in figures["share_by_status"].items():
        if share is not None:
            yield f"share of people's time {status}", f"{100 * share:.1f} %", ""
    for key, name in (
        ("answer_latency_seconds", "from an image's arrival to the answer about it"),
        ("answer_age_seconds", "age of the current answers"),
    ):
        if spread := figures[key]:
            yield _spread(name, spread, 1, "s")
    timing = figures.get("timing") or {}
    if spread := timing.get("image_seconds"):
        yield _spread("detection in an image, this machine", spread, 1000, "ms")
    for people, spread in timing.get("answer_seconds", {}).items():
        yield _spread(f"an answer about {people}, this machine", spread, 1000, "ms")


def _spread(name: str, spread: Mapping[str, float], scale: float, unit: str) -> Fact:
    middle, high = scale * spread["median"], scale * spread["percentile_95"]
    return name, f"{middle:.3g} {unit}", f"95 of 100 below {high:.3g} {unit}"


def _charts(timeline: Timeline) -> Iterator[Chart]:
    yield draw_chart(
        "Outcomes of the images over time.", lambda to: _draw_images(to, timeline), 3.0
    )
    if timeline.answers:
        yield draw_chart(
            "Seconds from the arrival of an image to the answer about it; each point is an answer.",
            lambda to: _draw_latency(to, timeline),
            3.0,
        )
        yield draw_chart(
            "Age of the current answer, per message and person.",
            lambda to: _draw_ages(to, timeline),
            3.0,
        )


def _draw_images(to: Drawing, timeline: Timeline) -> None:
    axes = to.subplots()
    # At least ten images per bar; with fewer, the bars would show rounding.
    bars = min(_MAX_BARS, max(sum(timeline.outcomes.values()) // 10, 1))
    width = timeline.length_s / bars
    below = np.zeros(bars)
    colours = (PALETTE[i] for i in (0, 1, 6, 3, 4, 2))
    shown = [outcome for outcome in OUTCOMES if timeline.outcomes[outcome]]
    for outcome, color in zip(OUTCOMES, colours, strict=True):
        counts = np.zeros(bars)
        for (number, bin_outcome), count in timeline.outcomes_by_bin.items():
            if bin_outcome == outcome:
                at = number * timeline.bin_ns / 1e9
                counts[min(int(at / width), bars - 1)] += count
        if outcome in shown:
            places = (np.arange(bars) + 0.5) * width
            axes.bar(places, counts / width, 0.9 * width, below, color=color, label=outcome)
            below += counts / width
    axes.set(xlabel="seconds", ylabel="images per second", xlim=(0, timeline.length_s))
    if len(shown) > 1:
        to.legend(loc="outside upper left", ncols=2)


def _draw_latency(to: Drawing, timeline: Timeline) -> None:
    axes = to.subplots()
    step = max(len(timeline.answers) // _MAX_POINTS, 1)
    when, latency = zip(*timeline.answers[::step], strict=True)
    axes.plot(when, latency, ".", color=PALETTE[0], ms=5, alpha=0.6)
    axes.set(xlabel="seconds", ylabel="seconds", xlim=(0, timeline.length_s))
    axes.set_ylim(0, max(*latency, 0.01) * 1.1)


def _draw_ages(to: Drawing, timeline: Timeline) -> None:
    axes = to.subplots()
    ages = np.asarray(timeline.ages)
    axes.hist(ages, bins=40, range=(0, max(float(ages.max()), 0.01)), color=PALETTE[0])
    axes.set(xlabel="seconds", ylabel="times")


def _labelled(figures: Mapping[str, Any]) -> Iterator[Fact]:
    yield "labelled images", f"{figures['images']:,}", ""
    yield "people in the labels", f"{figures['people']:,}", ""
    if "detection_recall" in figures:
        yield "people detected", f"{100 * figures['detection_recall']:.1f} %", ""
        yield "identities kept (IDF1)", f"{figures['identity_f1']:.3f}", ""
        yield "identity switches", f"{figures['identity_switches']}", ""
    yield "answers about labelled people", f"{figures['answers']:,}", ""
    if not figures["answers"]:
        return
    right = figures["answers_with_a_true_leading_label"] / figures["answers"]
    yield "leading label true", f"{100 * right:.1f} %", ""
    measures = figures["measures"]
    occurring = sum(row["prevalence"] > 0 for row in measures["labels"].values())
    yield "labels that occur", f"{occurring} of {len(measures['labels'])}", _OTHER_LABELS
    for key, name in _MEASURES.items():
        yield name, *_percent(measures["decisions"][key])
    if measures["map"]:
        yield "mAP", *_percent(measures["map"])
        yield "expected calibration error, mean of the labels", f"{measures['ece']:.4f}", ""
        yield "expected calibration error, pooled over labels", f"{measures['ece_pooled']:.4f}", ""
    if error := measures["vad_error"]:
        yield "error of valence, arousal, dominance (1 to 10)", f"{error['mean']:.2f}", ""


def _percent(figure: Mapping[str, float]) -> tuple[str, str]:
    low, high = 100 * figure["low"], 100 * figure["high"]
    return f"{100 * figure['value']:.1f} %", f"{low:.1f} to {high:.1f}"
