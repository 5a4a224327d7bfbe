"""Hold the estimate of each person: smoothing, ageing, thresholds, abstention."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from emotion_perception.core.logits import logit, probability
from emotion_perception.core.values import Assessment, Estimate, FloatArray, Status, Track, Vad

OLD = "old (max_age)"
_DIGITS = 9


@dataclass(slots=True, eq=False)
class PersonState:
    """The assessments of one person so far."""

    assessed_ns: int | None = None
    logits: FloatArray | None = None
    raw_scores: FloatArray | None = None
    vad: Vad | None = None
    rationale: str = ""
    abstained_ns: int | None = None
    reason: str = ""


class Estimates:
    """The estimates of the people who are tracked."""

    def __init__(self, labels: Sequence[str], thresholds: FloatArray) -> None:
        """Start without people.

        Args:
            labels: the labels of the scores.
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
        self.thresholds = thresholds
        self._threshold_logits = logit(thresholds)
        self._states: dict[str, PersonState] = {}

    def retain(self, person_ids: Collection[str]) -> None:
        """Keep the estimates of these people only; assessments of others are ignored."""
        self._states = {i: self._states.get(i) or PersonState() for i in person_ids}

    def update(self, assessments: Sequence[Assessment], smoothing: float = 0.0) -> None:
        """Update people with assessments, smoothed over time.

        Scores are averaged as log-odds, where evidence adds up, with a weight that decays
        exponentially over the time between two assessments.

        Args:
            assessments: of any people; those of people without a track are ignored.
            smoothing: time constant in seconds; 0: no smoothing.

        Raises:
            ValueError: an assessment does not have one score per label.
        """
        for assessment in assessments:
            state = self._states.get(assessment.person_id)
            if state is None:
                continue  # the track ended during the round
            if assessment.scores is None:
                state.abstained_ns, state.reason = assessment.stamp_ns, assessment.reason
                continue
            if assessment.scores.shape != (len(self.labels),):
                raise ValueError(
                    f"{assessment.person_id} has scores of shape {assessment.scores.shape}, "
                    f"expected ({len(self.labels)},)"
                )
            self._smooth(state, assessment, smoothing)

    def at(self, person: Track, stamp_ns: int, max_age: float) -> Estimate:
        """Return the estimate of a person at a time.

        Args:
            person: the track.
            stamp_ns: the time of the estimate.
            max_age: seconds after which an assessment is EXPIRED.
        """
        state = self._states.get(person.person_id) or PersonState()
        oldest_ns = stamp_ns - max_age * 1e9
        if state.assessed_ns is not None and state.assessed_ns >= oldest_ns:
            return self._assessed(person, state, state.assessed_ns)
        if state.abstained_ns is not None and state.abstained_ns >= oldest_ns:
            return Estimate(person, Status.ABSTAINED, state.reason, state.abstained_ns)
        times = [t for t in (state.assessed_ns, state.abstained_ns) if t is not None]
        if times:
            return Estimate(person, Status.EXPIRED, OLD, max(times))
        return Estimate(person, Status.PENDING)

    def expired(self, person: Track, reason: str) -> Estimate:
        """Return the estimate of a person while nothing is known, with the reason."""
        state = self._states.get(person.person_id) or PersonState()
        newest_ns = max(state.assessed_ns or 0, state.abstained_ns or 0)
        return Estimate(person, Status.EXPIRED, reason, newest_ns)

    def _smooth(self, state: PersonState, assessment: Assessment, smoothing: float) -> None:
        assert assessment.scores is not None
        logits, vad = logit(assessment.scores), assessment.vad
        if state.logits is not None and state.assessed_ns is not None and smoothing > 0:
            elapsed = (assessment.stamp_ns - state.assessed_ns) / 1e9
            kept = float(np.exp(-max(elapsed, 0.0) / smoothing))
            logits = kept * state.logits + (1 - kept) * logits
            if vad is not None and state.vad is not None:
                vad = Vad(*(kept * a + (1 - kept) * b for a, b in zip(state.vad, vad, strict=True)))
        # The last digits depend on the version of NumPy and on the CPU; they must not break ties.
        logits = np.round(logits, _DIGITS)
        state.assessed_ns, state.raw_scores = assessment.stamp_ns, assessment.scores
        state.logits, state.vad, state.rationale = logits, vad, assessment.rationale or ""

    def _assessed(self, person: Track, state: PersonState, assessed_ns: int) -> Estimate:
        assert state.logits is not None
        scores = probability(state.logits)
        # The label furthest above its threshold leads, not the most probable one: a label that is
        # true of almost all people would otherwise hide the others.
        margins = state.logits - self._threshold_logits
        order = [int(i) for i in np.argsort(-margins, kind="stable") if margins[i] > 0]
        active = tuple(self.labels[i] for i in order)
        return Estimate(
            person,
            Status.ASSESSED if order else Status.ABSTAINED,
            reason="" if order else "no label stands out",
            assessed_ns=assessed_ns,
            label=active[0] if order else "",
            confidence=float(scores[order[0]]) if order else float("nan"),
            active=active,
            scores=scores,
            raw_scores=state.raw_scores,
            vad=state.vad,
            rationale=state.rationale,
        )
