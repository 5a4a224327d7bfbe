"""The pipeline with scripted detections and a scripted recognizer."""

import dataclasses

import numpy as np
import pytest

from emotion_perception.core.settings import Settings
from emotion_perception.core.values import Assessment, Box, Cause, SourceStatus, Status
from emotion_perception.perception.change import ChangeDetector
from emotion_perception.perception.estimates import OLD
from emotion_perception.perception.pipeline import (
    BEING_ASSESSED,
    MODEL_BUSY,
    WAITING,
    Pipeline,
)
from emotion_perception.testing.fakes import (
    SECOND_NS,
    FakeRecognizer,
    ScriptedDetector,
    frame_at,
    noise_image,
)

ALICE, BOB, CAROL = Box(10, 20, 60, 160), Box(120, 20, 170, 170), Box(220, 20, 270, 180)


def make_pipeline(detector, recognizer, **settings):
    values = {name.replace("__", "."): value for name, value in settings.items()}
    return Pipeline(detector, recognizer, Settings.from_dict(values))


def watch(pipeline, recognizer, start, stop, rate=10):
    """Feed frames, assess each round at once, and return the last estimate."""
    people = None
    for step in range(round((stop - start) * rate)):
        people = pipeline.on_frame(frame_at(start + step / rate))
        if due := pipeline.next_round():
            people = pipeline.on_assessments(recognizer.assess(due.scene, due.people))
    return people


def test_person_is_pending_until_assessed():
    recognizer = FakeRecognizer()
    pipeline = make_pipeline(ScriptedDetector([ALICE]), recognizer)
    pipeline.on_frame(frame_at(1.0))
    (before,) = pipeline.on_frame(frame_at(1.1)).people
    due = pipeline.next_round()
    (meanwhile,) = pipeline.now().people
    (after,) = pipeline.on_assessments(recognizer.assess(due.scene, due.people)).people
    assert (before.status, before.reason) == (Status.PENDING, WAITING)
    assert (meanwhile.status, meanwhile.reason) == (Status.PENDING, BEING_ASSESSED)
    assert (after.status, after.label, after.active) == (
        Status.ASSESSED,
        "happiness",
        ("happiness",),
    )
    assert after.assessed_ns == round(1.1 * SECOND_NS)


def test_empty_scene_has_an_estimate_without_people_and_no_round():
    recognizer = FakeRecognizer()
    pipeline = make_pipeline(ScriptedDetector([]), recognizer)
    assert pipeline.on_frame(frame_at(1.0)).people == ()
    assert pipeline.next_round() is None


def test_assessment_keeps_the_stamp_of_its_frame():
    recognizer = FakeRecognizer()
    pipeline = make_pipeline(ScriptedDetector([ALICE]), recognizer)
    pipeline.on_frame(frame_at(1.0))
    pipeline.on_frame(frame_at(1.1))
    due = pipeline.next_round()
    pipeline.on_frame(frame_at(1.2))
    people = pipeline.on_assessments(recognizer.assess(due.scene, due.people))
    assert people.stamp_ns == round(1.2 * SECOND_NS)
    assert people.people[0].assessed_ns == round(1.1 * SECOND_NS)


def test_age_of_an_assessment_counts_the_time_since_the_newest_frame_arrived():
    recognizer = FakeRecognizer()
    pipeline = make_pipeline(ScriptedDetector([ALICE]), recognizer, max_age=2.0)
    pipeline.on_frame(frame_at(0.0))
    pipeline.on_frame(frame_at(0.1))
    due = pipeline.next_round()
    for seconds, status in ((1.9, Status.ASSESSED), (2.1, Status.EXPIRED)):
        pipeline.since_arrival_ns = lambda s=seconds: round(s * SECOND_NS)
        people = pipeline.on_assessments(recognizer.assess(due.scene, due.people))
        assert people.people[0].status is status
        assert people.cause is Cause.ASSESSMENT


def test_no_estimate_holds_while_images_do_not_arrive():
    recognizer = FakeRecognizer()
    pipeline = make_pipeline(ScriptedDetector([ALICE]), recognizer)
    assert watch(pipeline, recognizer, 0, 0.3).source_status is SourceStatus.LIVE
    pipeline.source_status = SourceStatus.DETECTOR_FAILED
    (estimate,) = pipeline.now().people
    assert (estimate.status, estimate.reason) == (Status.EXPIRED, "detector failed")
    assert estimate.assessed_ns == round(0.1 * SECOND_NS)
    assert estimate.scores is None
    (again,) = pipeline.on_frame(frame_at(0.4)).people
    assert again.status is Status.ASSESSED


def test_before_the_first_frame_there_are_no_people():
    people = make_pipeline(ScriptedDetector([ALICE]), FakeRecognizer()).now()
    assert (people.people, people.stamp_ns, people.width) == ((), 0, 0)
    assert people.labels == ("happiness", "sadness")
    assert list(people.thresholds) == [0.5, 0.5]


def test_assessment_older_than_max_age_is_expired_without_a_label():
    recognizer = FakeRecognizer()
    pipeline = make_pipeline(ScriptedDetector([ALICE]), recognizer, max_age=2.0)
    watch(pipeline, recognizer, 0, 0.3)
    for tenth in range(4, 40):
        (estimate,) = pipeline.on_frame(frame_at(tenth / 10)).people
    assert (estimate.status, estimate.reason) == (Status.EXPIRED, OLD)
    assert (estimate.label, estimate.active, estimate.scores) == ("", (), None)
    assert np.isnan(estimate.confidence)


def test_person_who_waits_while_others_are_assessed_has_the_reason_that_the_model_is_busy():
    recognizer = FakeRecognizer()
    pipeline = make_pipeline(
        ScriptedDetector([ALICE, BOB]), recognizer, scheduler__max_people=1, max_age=2.0
    )
    watch(pipeline, recognizer, 0, 0.5)
    pipeline.on_frame(frame_at(1.5))
    due = pipeline.next_round()
    for second in (2.5, 3.5, 4.5):
        old = pipeline.on_frame(frame_at(second)).people
    reasons = {estimate.track.person_id: (estimate.status, estimate.reason) for estimate in old}
    asked = due.people[0].person_id
    assert reasons.pop(asked) == (Status.EXPIRED, BEING_ASSESSED)
    assert list(reasons.values()) == [(Status.EXPIRED, MODEL_BUSY)]


def test_person_has_the_face_from_which_the_box_was_made():
    class FaceDetector(ScriptedDetector):
        def detect(self, frame):
            boxes = super().detect(frame)
            return dataclasses.replace(boxes, faces=boxes.corners + 0.5)

    pipeline = make_pipeline(FaceDetector([ALICE, BOB]), FakeRecognizer())
    pipeline.on_frame(frame_at(1.0))
    people = pipeline.on_frame(frame_at(1.1)).people
    assert [e.track.face for e in people] == [Box(*np.add(box, 0.5)) for box in (ALICE, BOB)]
    body_pipeline = make_pipeline(ScriptedDetector([ALICE]), FakeRecognizer())
    body_pipeline.on_frame(frame_at(1.0))
    assert [e.track.face for e in body_pipeline.on_frame(frame_at(1.1)).people] == [None]


def test_people_beyond_max_people_take_turns():
    recognizer = FakeRecognizer()
    pipeline = make_pipeline(
        ScriptedDetector([ALICE, BOB, CAROL]),
        recognizer,
        scheduler__max_people=2,
        scheduler__refresh=0.0,
    )
    watch(pipeline, recognizer, 0, 0.5)
    rounds = [set(ids) for _, ids in recognizer.requests]
    assert rounds[:4] == [
        {"p00003", "p00002"},
        {"p00001", "p00003"},
        {"p00002", "p00001"},
        {"p00003", "p00002"},
    ]


def test_new_person_is_assessed_before_known_people():
    recognizer = FakeRecognizer()
    script = lambda t: [ALICE, BOB] if t < 1 else [ALICE, BOB, CAROL]  # noqa: E731
    pipeline = make_pipeline(
        ScriptedDetector(script), recognizer, scheduler__max_people=1, scheduler__refresh=0.0
    )
    watch(pipeline, recognizer, 0, 1.3)
    newcomer = next(i for i, (_, ids) in enumerate(recognizer.requests) if ids == ("p00003",))
    assert recognizer.requests[newcomer][0] <= round(1.1 * SECOND_NS)


def test_no_person_is_assessed_again_before_refresh():
    recognizer = FakeRecognizer()
    pipeline = make_pipeline(ScriptedDetector([ALICE]), recognizer, scheduler__refresh=0.5)
    watch(pipeline, recognizer, 0, 2.05)
    stamps = [stamp / SECOND_NS for stamp, _ in recognizer.requests]
    assert stamps == pytest.approx([0.1, 0.6, 1.1, 1.6])


def questions_about_alice(**settings):
    """Return the times of the questions, and the statuses; she puts a white shirt on at 7 s."""
    recognizer, statuses = FakeRecognizer(), set()
    pipeline = make_pipeline(ScriptedDetector([ALICE]), recognizer, **settings)
    for step in range(120):
        image = noise_image()
        if step >= 70:
            image[60:100, 10:60] = 255
        people = pipeline.on_frame(frame_at(step / 10, image)).people
        if due := pipeline.next_round():
            people = pipeline.on_assessments(recognizer.assess(due.scene, due.people)).people
        statuses |= {estimate.status for estimate in people[:1] if step > 1}
    return [stamp / SECOND_NS for stamp, _ in recognizer.requests], statuses


def test_person_who_does_not_change_is_assessed_every_refresh_still():
    stamps, statuses = questions_about_alice(scheduler__refresh_still=4.0)
    assert stamps == pytest.approx([0.1, 4.1, 7.3, 11.3])  # noticed at 7 s, and lasts 0.3 s
    assert statuses == {Status.ASSESSED}
    stamps, statuses = questions_about_alice(scheduler__refresh_still=60.0)
    assert stamps == pytest.approx([0.1, 4.9, 7.3])  # in time for `max_age`
    assert statuses == {Status.ASSESSED}


def test_without_refresh_still_changes_are_not_looked_for(monkeypatch):
    monkeypatch.delattr(ChangeDetector, "see")
    monkeypatch.delattr(ChangeDetector, "ask")
    stamps, _ = questions_about_alice()
    assert stamps == pytest.approx([0.1 + n for n in range(12)])


def test_change_larger_than_min_change_counts():
    stamps, _ = questions_about_alice(
        scheduler__refresh_still=4.0, scheduler__min_change=250.0
    )  # fmt: skip
    assert stamps == pytest.approx([0.1, 4.1, 8.1])


def test_clock_jump_backwards_drops_all_tracks_and_reuses_no_id():
    recognizer = FakeRecognizer()
    pipeline = make_pipeline(ScriptedDetector([ALICE]), recognizer)
    first = watch(pipeline, recognizer, 100, 100.5).people[0]
    again = pipeline.on_frame(frame_at(5.0))
    second = pipeline.on_frame(frame_at(5.1)).people[0]
    assert again.stamp_ns == 5 * SECOND_NS
    assert first.track.person_id == "p00001"
    assert (second.track.person_id, second.status) == ("p00002", Status.PENDING)


def test_assessment_of_an_ended_track_is_ignored():
    recognizer = FakeRecognizer()
    script = lambda t: [ALICE] if t < 1 else []  # noqa: E731
    pipeline = make_pipeline(ScriptedDetector(script), recognizer)
    pipeline.on_frame(frame_at(0.1))
    pipeline.on_frame(frame_at(0.2))
    due = pipeline.next_round()
    pipeline.on_frame(frame_at(1.0))
    pipeline.on_frame(frame_at(9.0))
    people = pipeline.on_assessments(recognizer.assess(due.scene, due.people))
    assert people.people == ()


def test_max_rate_is_kept_despite_jitter():
    pipeline = make_pipeline(ScriptedDetector([]), FakeRecognizer(), max_rate=10.0)
    accepted = []
    for number in range(90):
        stamp = number / 30 + (0.001 if number % 2 else 0.0)  # a camera that jitters
        if pipeline.accepts(round(stamp * SECOND_NS)):
            pipeline.on_frame(frame_at(stamp))
            accepted.append(stamp)
    assert 27 <= len(accepted) <= 31


def test_changed_max_rate_counts_from_the_last_frame():
    pipeline = make_pipeline(ScriptedDetector([]), FakeRecognizer(), max_rate=0.01)
    pipeline.on_frame(frame_at(1.0))
    assert not pipeline.accepts(50 * SECOND_NS)
    pipeline.settings = Settings.from_dict({"max_rate": 10.0})
    assert pipeline.accepts(2 * SECOND_NS)
    pipeline.settings = Settings.from_dict({"max_rate": 0.0})
    assert pipeline.accepts(round(1.01 * SECOND_NS))


def test_people_of_a_failed_round_are_due_at_once():
    pipeline = make_pipeline(ScriptedDetector([ALICE]), FakeRecognizer(), scheduler__refresh=30.0)
    pipeline.on_frame(frame_at(1.0))
    pipeline.on_frame(frame_at(1.1))
    due = pipeline.next_round()
    assert pipeline.next_round() is None
    pipeline.on_failure(due)
    assert pipeline.next_round().people == due.people


def test_repeated_stamp_is_not_accepted():
    pipeline = make_pipeline(ScriptedDetector([]), FakeRecognizer())
    pipeline.on_frame(frame_at(1.0))
    assert not pipeline.accepts(SECOND_NS)
    assert pipeline.accepts(SECOND_NS + 1)


def test_too_small_person_is_an_abstention_without_a_round():
    recognizer = FakeRecognizer()
    pipeline = make_pipeline(ScriptedDetector([Box(10, 10, 22, 30)]), recognizer)
    pipeline.on_frame(frame_at(0.0))
    people = pipeline.on_frame(frame_at(0.1))  # at once, even if the recognizer is busy
    assert pipeline.next_round() is None
    assert people.people[0].status is Status.ABSTAINED
    assert people.people[0].reason == "too small: 20 px high, 40 needed"


def test_blurred_person_is_an_abstention():
    recognizer = FakeRecognizer()
    pipeline = make_pipeline(ScriptedDetector([ALICE]), recognizer)
    for tenth in range(3):
        pipeline.on_frame(frame_at(tenth / 10, np.full((240, 320, 3), 90, np.uint8)))
        pipeline.next_round()
    assert pipeline.now().people[0].reason.startswith("blurred")


def test_narrow_person_is_an_abstention_at_the_edge_only():
    recognizer = FakeRecognizer()
    pipeline = make_pipeline(
        ScriptedDetector([Box(0, 20, 20, 200), Box(150, 20, 170, 200)]), recognizer
    )
    watch(pipeline, recognizer, 0, 0.5)
    at_edge, inside = pipeline.now().people
    assert at_edge.reason.startswith("cut off")
    assert inside.status is Status.ASSESSED


def test_abstention_of_the_recognizer_keeps_its_reason():
    recognizer = FakeRecognizer()
    pipeline = make_pipeline(ScriptedDetector([ALICE]), recognizer)
    pipeline.on_frame(frame_at(0.1))
    pipeline.on_frame(frame_at(0.2))
    due = pipeline.next_round()
    person_id = due.people[0].person_id
    stamp_ns = due.scene.frame.stamp_ns
    people = pipeline.on_assessments(
        [Assessment(person_id, stamp_ns, None, reason="no face visible")]
    )
    assert (people.people[0].status, people.people[0].reason) == (
        Status.ABSTAINED,
        "no face visible",
    )
