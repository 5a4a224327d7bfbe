"""The machine, with scripted people and a scripted model."""

import numpy as np
import pytest

from emotion_perception.core.settings import Settings
from emotion_perception.core.values import Assessment, Box, Status
from emotion_perception.perception.pipeline import Pipeline
from emotion_perception.testing.fakes import SECOND_NS, FakeRecognizer, ScriptedDetector, frame_at

ALICE, BOB, CAROL = Box(10, 20, 60, 160), Box(120, 20, 170, 170), Box(220, 20, 270, 180)


def perception(detector, recognizer, **settings):
    values = {name.replace("__", "."): value for name, value in settings.items()}
    return Pipeline(detector, recognizer, Settings.from_dict(values))


def watch(machine, recognizer, start, stop, rate=10):
    """Feed frames and answer every question at once; the last estimate comes back."""
    people = None
    for step in range(round((stop - start) * rate)):
        people = machine.on_frame(frame_at(start + step / rate))
        if question := machine.next_round():
            people = machine.on_assessments(recognizer.assess(question.scene, question.people))
    return people


def test_a_person_is_pending_until_answered_then_assessed():
    recognizer = FakeRecognizer()
    machine = perception(ScriptedDetector([ALICE]), recognizer)
    machine.on_frame(frame_at(1.0))
    (before,) = machine.on_frame(frame_at(1.1)).people
    question = machine.next_round()
    (after,) = machine.on_assessments(recognizer.assess(question.scene, question.people)).people
    assert before.status is Status.PENDING
    assert (after.status, after.label, after.active) == (
        Status.ASSESSED,
        "happiness",
        ("happiness",),
    )
    assert after.assessed_ns == round(1.1 * SECOND_NS)


def test_an_empty_room_is_an_estimate_without_people_and_asks_nothing():
    recognizer = FakeRecognizer()
    machine = perception(ScriptedDetector([]), recognizer)
    assert machine.on_frame(frame_at(1.0)).people == ()
    assert machine.next_round() is None


def test_an_answer_keeps_the_stamp_of_the_frame_that_was_looked_at():
    recognizer = FakeRecognizer()
    machine = perception(ScriptedDetector([ALICE]), recognizer)
    machine.on_frame(frame_at(1.0))
    machine.on_frame(frame_at(1.1))
    question = machine.next_round()
    machine.on_frame(frame_at(1.2))
    people = machine.on_assessments(recognizer.assess(question.scene, question.people))
    assert people.stamp_ns == round(1.2 * SECOND_NS)
    assert people.people[0].assessed_ns == round(1.1 * SECOND_NS)


def test_an_answer_older_than_max_age_is_expired_and_carries_no_label():
    recognizer = FakeRecognizer()
    machine = perception(ScriptedDetector([ALICE]), recognizer, max_age=2.0)
    watch(machine, recognizer, 0, 0.3)
    for tenth in range(4, 40):
        (estimate,) = machine.on_frame(frame_at(tenth / 10)).people
    assert estimate.status is Status.EXPIRED
    assert (estimate.label, estimate.active, estimate.scores) == ("", (), None)
    assert np.isnan(estimate.confidence)


def test_a_crowd_is_served_in_turns_and_nobody_starves():
    recognizer = FakeRecognizer()
    machine = perception(
        ScriptedDetector([ALICE, BOB, CAROL]),
        recognizer,
        scheduler__max_people=2,
        scheduler__refresh=0.0,
    )
    watch(machine, recognizer, 0, 0.5)
    asked = [set(ids) for _, ids in recognizer.requests]
    assert asked[:4] == [
        {"p00003", "p00002"},
        {"p00001", "p00003"},
        {"p00002", "p00001"},
        {"p00003", "p00002"},
    ]


def test_a_newcomer_goes_before_those_who_were_asked():
    recognizer = FakeRecognizer()
    script = lambda t: [ALICE, BOB] if t < 1 else [ALICE, BOB, CAROL]  # noqa: E731
    machine = perception(
        ScriptedDetector(script), recognizer, scheduler__max_people=1, scheduler__refresh=0.0
    )
    watch(machine, recognizer, 0, 1.3)
    newcomer = next(i for i, (_, ids) in enumerate(recognizer.requests) if ids == ("p00003",))
    assert recognizer.requests[newcomer][0] <= round(1.1 * SECOND_NS)


def test_nobody_is_asked_about_sooner_than_refresh():
    recognizer = FakeRecognizer()
    machine = perception(ScriptedDetector([ALICE]), recognizer, scheduler__refresh=0.5)
    watch(machine, recognizer, 0, 2.05)
    stamps = [stamp / SECOND_NS for stamp, _ in recognizer.requests]
    assert stamps == pytest.approx([0.1, 0.6, 1.1, 1.6])


def test_a_clock_that_jumps_back_forgets_everybody_and_reuses_no_id():
    recognizer = FakeRecognizer()
    machine = perception(ScriptedDetector([ALICE]), recognizer)
    first = watch(machine, recognizer, 100, 100.5).people[0]
    again = machine.on_frame(frame_at(5.0))
    second = machine.on_frame(frame_at(5.1)).people[0]
    assert again.stamp_ns == 5 * SECOND_NS
    assert first.track.person_id == "p00001"
    assert (second.track.person_id, second.status) == ("p00002", Status.PENDING)


def test_an_answer_about_somebody_who_left_is_dropped():
    recognizer = FakeRecognizer()
    script = lambda t: [ALICE] if t < 1 else []  # noqa: E731
    machine = perception(ScriptedDetector(script), recognizer)
    machine.on_frame(frame_at(0.1))
    machine.on_frame(frame_at(0.2))
    question = machine.next_round()
    machine.on_frame(frame_at(1.0))
    machine.on_frame(frame_at(9.0))
    people = machine.on_assessments(recognizer.assess(question.scene, question.people))
    assert people.people == ()


def test_max_rate_thins_the_frames_without_losing_the_beat():
    machine = perception(ScriptedDetector([]), FakeRecognizer(), max_rate=10.0)
    looked_at = []
    for number in range(90):
        stamp = number / 30 + (0.001 if number % 2 else 0.0)  # a camera that jitters
        if machine.accepts(round(stamp * SECOND_NS)):
            machine.on_frame(frame_at(stamp))
            looked_at.append(stamp)
    assert 27 <= len(looked_at) <= 31


def test_a_new_max_rate_counts_from_the_last_frame():
    machine = perception(ScriptedDetector([]), FakeRecognizer(), max_rate=0.01)
    machine.on_frame(frame_at(1.0))
    assert not machine.accepts(50 * SECOND_NS)
    machine.settings = Settings.from_dict({"max_rate": 10.0})
    assert machine.accepts(2 * SECOND_NS)
    machine.settings = Settings.from_dict({"max_rate": 0.0})
    assert machine.accepts(round(1.01 * SECOND_NS))


def test_after_a_failure_nobody_waits_for_the_next_refresh():
    machine = perception(ScriptedDetector([ALICE]), FakeRecognizer(), scheduler__refresh=30.0)
    machine.on_frame(frame_at(1.0))
    machine.on_frame(frame_at(1.1))
    question = machine.next_round()
    assert machine.next_round() is None
    machine.on_failure(question)
    assert machine.next_round().people == question.people


def test_a_stamp_that_stands_still_is_not_looked_at_again():
    machine = perception(ScriptedDetector([]), FakeRecognizer())
    machine.on_frame(frame_at(1.0))
    assert not machine.accepts(SECOND_NS)
    assert machine.accepts(SECOND_NS + 1)


def test_somebody_too_small_is_abstained_from_and_not_asked_about():
    recognizer = FakeRecognizer()
    machine = perception(ScriptedDetector([Box(10, 10, 22, 30)]), recognizer)
    machine.on_frame(frame_at(0.0))
    people = machine.on_frame(frame_at(0.1))  # said at once, however busy the model is
    assert machine.next_round() is None
    assert people.people[0].status is Status.ABSTAINED
    assert people.people[0].reason == "too small: 20 px high, 40 needed"


def test_a_blurred_person_is_abstained_from():
    recognizer = FakeRecognizer()
    machine = perception(ScriptedDetector([ALICE]), recognizer)
    for tenth in range(3):
        machine.on_frame(frame_at(tenth / 10, np.full((240, 320, 3), 90, np.uint8)))
        machine.next_round()
    assert machine.now().people[0].reason.startswith("blurred")


def test_the_cut_off_sliver_at_the_edge_is_abstained_from_and_a_thin_person_inside_is_not():
    recognizer = FakeRecognizer()
    machine = perception(
        ScriptedDetector([Box(0, 20, 20, 200), Box(150, 20, 170, 200)]), recognizer
    )
    watch(machine, recognizer, 0, 0.5)
    at_edge, inside = machine.now().people
    assert at_edge.reason.startswith("cut off")
    assert inside.status is Status.ASSESSED


def test_a_recognizer_that_declines_makes_an_abstention_with_its_reason():
    recognizer = FakeRecognizer()
    machine = perception(ScriptedDetector([ALICE]), recognizer)
    machine.on_frame(frame_at(0.1))
    machine.on_frame(frame_at(0.2))
    question = machine.next_round()
    who = question.people[0].person_id
    stamp_ns = question.scene.frame.stamp_ns
    people = machine.on_assessments([Assessment(who, stamp_ns, None, reason="no face visible")])
    assert (people.people[0].status, people.people[0].reason) == (
        Status.ABSTAINED,
        "no face visible",
    )
