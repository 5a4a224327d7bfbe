"""What is held about each person: smoothing, ageing, thresholds, abstaining."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from emotion_perception.core.logits import logit, probability
from emotion_perception.core.values import Assessment, Estimate, FloatArray, Status, Track, Vad


@dataclass(slots=True, eq=False)
class PersonState:
    """The answers about one person so far."""

    answered_ns: int | None = None
    logits: FloatArray | None = None
    raw_scores: FloatArray | None = None
    vad: Vad | None = None
    rationale: str = ""
    abstained_ns: int | None = None
    reason: str = ""


class Estimates:
    """What is known about the people who are being followed."""

    def __init__(self, labels: Sequence[str], thresholds: FloatArray) -> None:
        """
        Args:
            labels: what the scores of every answer refer to.
            thresholds: (L,) probabilities above which a label counts as present.

        Raises:
            ValueError: there is not one threshold, strictly between 0 and 1, per label.
        """
        thresholds = np.asarray(thresholds, np.float64)
        inside = thresholds.shape == (len(labels),) and np.all((thresholds > 0) & (thresholds < 1))
        if not inside:
            raise ValueError(
                f"expected one threshold between 0 and 1 for each of the {len(labels)} labels, "
                f"got {thresholds}"
            )
        self.labels = tuple(labels)
        self._threshold_logits = logit(thresholds)
        self._held: dict[str, PersonState] = {}

    def retain(self, person_ids: Collection[str]) -> None:
        """Hold estimates about exactly these people; answers about others are dropped."""
        self._held = {i: self._held.get(i) or PersonState() for i in person_ids}

    def update(self, answers: Sequence[Assessment], smoothing: float = 0.0) -> None:
        """Take in answers, each smoothed with the earlier ones about the same person.

        Scores are averaged as log-odds, where evidence adds up, with a weight that decays
        exponentially over the time between the two looks.

        Args:
            smoothing: time constant in seconds; 0 takes each answer as it is.

        Raises:
            ValueError: an answer has not one score per label.
        """
        for answer in answers:
            held = self._held.get(answer.person_id)
            if held is None:
                continue  # lost while the model was looking
            if answer.scores is None:
                held.abstained_ns, held.reason = answer.stamp_ns, answer.reason
                continue
            if answer.scores.shape != (len(self.labels),):
                raise ValueError(
                    f"{answer.person_id} has scores of shape {answer.scores.shape}, "
                    f"expected ({len(self.labels)},)"
                )
            self._smooth(held, answer, smoothing)

    def at(self, person: Track, stamp_ns: int, max_age: float) -> Estimate:
        """What holds about a person at a time; an answer older than `max_age` seconds does not."""
        held = self._held.get(person.person_id) or PersonState()
        oldest_ns = stamp_ns - max_age * 1e9
        if held.answered_ns is not None and held.answered_ns >= oldest_ns:
            return self._judged(person, held, held.answered_ns)
        if held.abstained_ns is not None and held.abstained_ns >= oldest_ns:
            return Estimate(person, Status.ABSTAINED, held.reason, held.abstained_ns)
        looks = [t for t in (held.answered_ns, held.abstained_ns) if t is not None]
        if looks:
            return Estimate(person, Status.EXPIRED, assessed_ns=max(looks))
        return Estimate(person, Status.PENDING)

    def _smooth(self, held: PersonState, answer: Assessment, smoothing: float) -> None:
        assert answer.scores is not None
        logits, vad = logit(answer.scores), answer.vad
        if held.logits is not None and held.answered_ns is not None and smoothing > 0:
            elapsed = (answer.stamp_ns - held.answered_ns) / 1e9
            kept = float(np.exp(-max(elapsed, 0.0) / smoothing))
            logits = kept * held.logits + (1 - kept) * logits
            if vad is not None and held.vad is not None:
                vad = Vad(*(kept * a + (1 - kept) * b for a, b in zip(held.vad, vad, strict=True)))
        held.answered_ns, held.raw_scores = answer.stamp_ns, answer.scores
        held.logits, held.vad, held.rationale = logits, vad, answer.rationale or ""

    def _judged(self, person: Track, held: PersonState, answered_ns: int) -> Estimate:
        assert held.logits is not None
        scores = probability(held.logits)
        # Not the likeliest label leads but the one furthest above its threshold: a label that
        # is true of almost everybody would otherwise hide all the others.
        margins = held.logits - self._threshold_logits
        order = [int(i) for i in np.argsort(-margins, kind="stable") if margins[i] > 0]
        active = tuple(self.labels[i] for i in order)
        return Estimate(
            person,
            Status.ASSESSED if order else Status.ABSTAINED,
            reason="" if order else "no label stands out",
            assessed_ns=answered_ns,
            label=active[0] if order else "",
            confidence=float(scores[order[0]]) if order else float("nan"),
            active=active,
            scores=scores,
            raw_scores=held.raw_scores,
            vad=held.vad,
            rationale=held.rationale,
        )
