"""The people in view as a planner sees them, from messages and times alone."""

import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emotion_perception.client import (
    DISTRESS,
    Appeared,
    CurrentPeople,
    LabelChanged,
    Left,
    Levels,
    NodeStatus,
    ScoreChanged,
    StatusChanged,
)
from emotion_perception.core.labels import EMOTIC
from emotion_perception.core.values import (
    Box,
    Estimate,
    PeopleEstimate,
    SourceStatus,
    Status,
    Track,
    Vad,
)

LABELS = ("happiness", "sadness")
CAMERA_S = 1000.0
"""The camera's clock is ahead of the planner's by this much."""


def ns(seconds):
    return round(seconds * 1e9)


def person(name="p00001", label="", score=0.2, at=None, status=None, vad=None):
    """An estimate: ASSESSED with the label if there is one, and `score` for sadness."""
    if status is None:
        status = Status.ASSESSED if label else Status.ABSTAINED
    assessed = 0 if status is Status.PENDING else ns(CAMERA_S + at)
    scores = np.array([0.1, score], np.float32) if status is Status.ASSESSED else None
    track = Track(name, Box(0, 0, 9, 9), 0.9)
    return Estimate(track, status, assessed_ns=assessed, label=label, scores=scores, vad=vad)


class Planner:
    """Feeds `CurrentPeople` with numbered messages."""

    def __init__(self, **options):
        self.people = CurrentPeople(**options)
        self.sequence = 0

    def hear(self, seconds, *people, arrived=None, **fields):
        self.sequence += 1
        message = PeopleEstimate(
            ns(CAMERA_S + seconds), "camera", 10, 10, "model", "", LABELS, people,
            run_id="run", sequence=self.sequence, thresholds=np.array([0.5, 0.5]),
        )  # fmt: skip
        message = replace(message, **fields)
        self.sequence = message.sequence
        return self.people.update(message, ns(seconds if arrived is None else arrived))

    def sad(self, seconds, **options):
        return self.hear(seconds, person(label="sadness", score=0.9, at=seconds, **options))

    def distressed(self, seconds, **limits):
        return [p.person_id for p in self.people.distressed(ns(seconds), **limits)]

    def at(self, seconds):
        return self.people.people(ns(seconds))


def kinds(events):
    return [type(event) for event in events]


def test_people_appear_and_leave():
    planner = Planner()
    status, appeared = planner.hear(1, person(at=1))
    assert (status.before, status.after) == (NodeStatus.ABSENT, NodeStatus.LIVE)
    assert appeared.person.person_id == "p00001"
    assert planner.hear(2, person(at=1)) == []
    left, appeared = planner.hear(3, person("p00002", at=3))
    assert (kinds([left, appeared])) == [Left, Appeared]
    assert (left.person.person_id, appeared.person.person_id) == ("p00001", "p00002")
    assert list(planner.at(3)) == ["p00002"]


def test_score_is_known_only_while_assessed():
    planner = Planner()
    planner.hear(
        1, person("p1", "sadness", 0.9, at=1), person("p2", status=Status.PENDING),
        person("p3", at=1), person("p4", status=Status.EXPIRED, at=0.5),
    )  # fmt: skip
    scores = [p.score("sadness") for p in planner.at(1).values()]
    assert scores == [pytest.approx(0.9), None, None, None]


@pytest.mark.parametrize("status", Status)
def test_unknown_label_is_an_error_that_names_the_labels(status):
    planner = Planner()
    planner.hear(1, person("p1", "sadness", at=1, status=status))
    with pytest.raises(ValueError, match="'sorrow' is not a label .*: happiness, sadness"):
        planner.at(1)["p1"].score("sorrow")


@pytest.mark.parametrize("options", [{"watch": {"sorrow": None}}, {"distress": ["sorrow"]}])
def test_unknown_label_of_a_setting_is_an_error_with_the_first_message(options):
    with pytest.raises(ValueError, match="'sorrow' is not a label .*: happiness, sadness"):
        Planner(**options).hear(1)


def test_age_is_that_of_the_stamps_and_the_time_since_the_stamp_arrived():
    planner = Planner()
    planner.hear(5, person(label="sadness", at=3), arrived=5.1)
    assert planner.at(5.1)["p00001"].age_s == pytest.approx(2.0)
    # A message that repeats the stamp, such as a heartbeat, makes nothing younger.
    planner.hear(5, person(label="sadness", at=3), arrived=6.1)
    assert planner.at(6.6)["p00001"].age_s == pytest.approx(3.5)
    planner.hear(7, person(label="sadness", at=6), arrived=7.1)
    assert planner.at(7.1)["p00001"].age_s == pytest.approx(1.0)
    # The planner's clock was set back, as when a bag begins again.
    assert planner.at(2.0)["p00001"].age_s == pytest.approx(1.0)


def test_age_is_infinite_without_an_assessment():
    planner = Planner()
    planner.hear(1, person(status=Status.PENDING))
    assert planner.at(1)["p00001"].age_s == math.inf


def test_label_changes_when_it_has_lasted_in_the_assessed_images():
    planner = Planner(hold_s=1.0)
    planner.sad(1)
    # Ten frames with the same assessment are one observation.
    for tenth in range(10, 30):
        at = 1 + tenth / 10
        assert planner.hear(at, person(label="sadness", score=0.9, at=1)) == []
    (changed,) = planner.sad(2)
    assert (changed.before, changed.after) == ("", "sadness")
    assert planner.hear(2.5, person(label="happiness", at=2.5)) == []
    assert planner.sad(3) == []
    assert planner.hear(3.5, person(label="happiness", at=3.5)) == []
    (changed,) = planner.hear(4.5, person(label="happiness", at=4.5))
    assert (changed.before, changed.after) == ("sadness", "happiness")


def test_label_ends_when_the_person_has_not_been_assessed_for_the_time():
    planner = Planner(hold_s=1.0)
    planner.sad(1)
    planner.sad(2)
    expired = person(status=Status.EXPIRED, at=2)
    assert planner.hear(2, expired, arrived=7) == []
    (changed,) = planner.hear(2, expired, arrived=8)
    assert (changed.before, changed.after) == ("sadness", "")
    assert changed.person.score("sadness") is None


def test_score_changes_between_two_levels_only_outside_of_them():
    planner = Planner(hold_s=0, watch={"sadness": Levels(0.6, 0.4)})
    crossed = []
    for second, score in enumerate([0.5, 0.61, 0.5, 0.41, 0.39, 0.5, 0.7], start=1):
        events = planner.hear(second, person(label="happiness", score=score, at=second))
        crossed += [(second, e.above) for e in events if type(e) is ScoreChanged]
    assert crossed == [(2, True), (5, False), (7, True)]


def test_default_levels_are_the_threshold_and_four_fifths_of_it():
    planner = Planner(hold_s=0, watch={"sadness": None})
    crossed = []
    for second, score in enumerate([0.5, 0.51, 0.41, 0.39], start=1):
        events = planner.hear(second, person(label="happiness", score=score, at=second))
        crossed += [(second, e.label, e.above) for e in events if type(e) is ScoreChanged]
    assert crossed == [(2, "sadness", True), (4, "sadness", False)]


def test_score_that_is_not_known_is_not_above():
    planner = Planner(hold_s=0, watch={"sadness": None})
    planner.sad(1)
    events = planner.hear(2, person(at=2))
    assert [e.above for e in events if type(e) is ScoreChanged] == [False]


def test_levels_are_needed_where_the_message_has_no_thresholds():
    with pytest.raises(ValueError, match=r"cannot watch 'sadness' .* no thresholds; pass watch="):
        Planner(watch={"sadness": None}).hear(1, thresholds=None)
    Planner(watch={"sadness": Levels(0.5, 0.4)}).hear(1, thresholds=None)


@pytest.mark.parametrize("levels", [(0.4, 0.5), (1.0, 0.5), (0.5, -0.1), (math.nan, 0.5)])
def test_levels_that_cannot_work_are_refused(levels):
    with pytest.raises(ValueError, match="cannot use the levels"):
        Levels(*levels)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    scores=st.lists(st.floats(0, 1, width=32), min_size=1, max_size=40),
    leave=st.floats(0, 0.9),
    width=st.floats(0, 0.09),
    hold=st.integers(0, 3),
)
def test_reported_crossings_alternate_and_each_lasted(scores, leave, width, hold):
    levels = Levels(leave + width, leave)
    planner, crossed = Planner(hold_s=hold, watch={"sadness": levels}), []
    for second, score in enumerate(scores, start=1):
        events = planner.hear(second, person(label="happiness", score=score, at=second))
        for event in events:
            if type(event) is ScoreChanged:
                crossed.append(event.above)
                recent = scores[second - 1 - hold : second]
                assert len(recent) == hold + 1
                assert min(recent) > levels.enter if event.above else max(recent) <= levels.leave
    assert crossed == [i % 2 == 0 for i in range(len(crossed))]


def test_distress_needs_assessments_that_span_the_time():
    planner = Planner()
    planner.sad(1)
    planner.hear(4, person(label="sadness", score=0.9, at=1))
    assert planner.distressed(4, for_s=2, max_age_s=9) == []
    planner.sad(2.9)
    assert planner.distressed(2.9) == []
    planner.sad(3)
    assert planner.distressed(3) == ["p00001"]
    assert planner.distressed(3, for_s=2.5) == []


def test_distress_ends_with_an_assessment_or_a_status_that_says_otherwise():
    for other in (person(label="happiness", at=3.5), person(at=3.5), person(status=Status.PENDING)):
        planner = Planner()
        for second in (1, 2, 3):
            planner.sad(second)
        assert planner.distressed(3.5) == ["p00001"]
        planner.hear(3.5, other)
        planner.sad(4)
        assert planner.distressed(4) == []


def test_distress_with_an_old_assessment_is_not_reported():
    planner = Planner()
    planner.sad(1)
    planner.sad(3)
    assert planner.distressed(6) == ["p00001"]
    assert planner.distressed(6.1) == []
    assert planner.distressed(6.1, max_age_s=4) == ["p00001"]


def test_negative_and_agitated_affect_is_distress_unless_labels_are_passed():
    upset = Vad(-0.4, 0.3, 0.0)
    for affect, expected in ((upset, True), (Vad(-0.4, 0.1, 0.0), False), (Vad(0, 0.9, 0), False)):
        planner, strict = Planner(), Planner(distress=["sadness"])
        for each in (planner, strict):
            each.hear(1, person(label="happiness", at=1, vad=affect))
        assert planner.distressed(1, for_s=0) == (["p00001"] if expected else [])
        assert strict.distressed(1, for_s=0) == []


def test_distress_that_cannot_be_told_is_an_error():
    planner = Planner()
    planner.hear(1, person(label="happiness", at=1), labels=("happiness", "esteem"))
    with pytest.raises(ValueError, match="cannot tell distress: .* happiness, esteem"):
        planner.distressed(1)


def test_labels_of_distress_are_emotic_labels():
    assert set(DISTRESS) < set(EMOTIC)


@pytest.mark.parametrize("source", SourceStatus)
def test_status_is_that_of_the_message(source):
    planner = Planner()
    planner.hear(1, source_status=source)
    assert planner.people.status.name == source.name


def test_silent_node_expires_all_estimates_and_keeps_the_people():
    planner = Planner(hold_s=0, watch={"sadness": None})
    planner.sad(1)
    planner.sad(3)
    events = planner.people.miss(True, ns(5))
    assert kinds(events) == [StatusChanged, LabelChanged, ScoreChanged]
    assert planner.people.status is NodeStatus.SILENT
    known = planner.at(5)["p00001"]
    assert (known.estimate.status, known.score("sadness")) == (Status.EXPIRED, None)
    assert known.estimate.reason == "the node is silent"
    assert planner.distressed(5, max_age_s=9) == []
    assert planner.people.miss(True, ns(6)) == []
    events = planner.sad(7)
    assert kinds(events) == [StatusChanged, LabelChanged, ScoreChanged]
    assert events[0].after is NodeStatus.LIVE


def test_people_leave_when_the_node_is_gone():
    planner = Planner()
    planner.sad(1)
    events = planner.people.miss(False, ns(5))
    assert kinds(events) == [StatusChanged, Left]
    assert planner.people.status is NodeStatus.ABSENT
    assert planner.at(5) == {}
    assert planner.people.miss(False, ns(6)) == []


def test_node_that_never_spoke_is_silent_or_absent():
    people = CurrentPeople(watch={"sadness": None})
    assert people.miss(False, 0) == []
    (event,) = people.miss(True, 0)
    assert event.after is NodeStatus.SILENT


def test_inactive_node_is_not_called_silent():
    planner = Planner()
    planner.sad(1)
    events = planner.hear(2, source_status=SourceStatus.INACTIVE)
    assert kinds(events) == [StatusChanged, Left]
    assert planner.people.miss(True, ns(9)) == []
    assert planner.people.status is NodeStatus.INACTIVE
    (event,) = planner.people.miss(False, ns(10))
    assert event.after is NodeStatus.ABSENT


def test_all_people_leave_when_the_node_starts_again():
    planner = Planner()
    planner.sad(1)
    planner.sad(3)
    assert planner.distressed(3) == ["p00001"]
    again = person(label="sadness", at=4)
    assert kinds(planner.hear(4, again, run_id="other", sequence=1)) == [Left, Appeared]
    assert planner.distressed(4) == []
    assert planner.people.lost == 0


def test_all_people_leave_when_a_recording_begins_again():
    planner = Planner()
    planner.sad(1)
    planner.sad(3)
    assert kinds(planner.hear(1, person(at=1), sequence=1)) == [Left, Appeared]
    assert planner.people.lost == 0


def test_messages_of_version_0_1_have_no_run():
    planner = Planner()
    for second in (1, 2, 3):
        planner.hear(second, person(label="sadness", at=second), run_id="", sequence=0)
    assert planner.distressed(3) == ["p00001"]
    assert planner.people.lost == 0


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.sets(st.integers(1, 50), min_size=1))
def test_lost_messages_are_those_missing_since_the_first(received):
    planner = Planner()
    for number in sorted(received):
        planner.hear(number, sequence=number)
    assert planner.people.lost == max(received) - min(received) + 1 - len(received)


def test_people_need_no_ros():
    program = (
        "import sys; sys.modules['rclpy'] = None; "
        "from emotion_perception.client import CurrentPeople; CurrentPeople()"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
