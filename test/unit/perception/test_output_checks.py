"""What detectors and recognizers return is checked before it becomes state or a message."""

import numpy as np
import pytest

from emotion_perception.core.errors import RecognizerError
from emotion_perception.core.settings import Settings
from emotion_perception.core.values import Assessment, Box, Detections, Scene, Status, Track, Vad
from emotion_perception.perception import output_checks
from emotion_perception.perception.pipeline import Pipeline
from emotion_perception.testing.fakes import FakeRecognizer, ScriptedDetector, frame_at

STAMP_NS = 5 * 10**9
SCENE = Scene(
    frame_at(5.0), tuple(Track(f"p0000{n}", Box(10 * n, 10, 10 * n + 60, 200), 0.9) for n in (1, 2))
)
SCORES = np.array([0.25, 0.5], np.float32)


def assessment(person_id="p00001", stamp_ns=STAMP_NS, scores=SCORES, **values):
    return Assessment(person_id, stamp_ns, scores, **values)


def forged(**values):
    """Return an assessment with values that its own checks would refuse."""
    item = assessment()
    for name, value in values.items():
        object.__setattr__(item, name, value)
    return item


def check(*answer):
    return output_checks.checked_assessments(list(answer), SCENE, SCENE.people, 2)


GOOD = assessment("p00002", vad=Vad(0.0, -1.0, 1.0), rationale="waves")


def test_valid_answer_is_kept_in_the_order_of_the_people():
    first = assessment()
    valid, wrong = check(GOOD, first)
    assert wrong == {}
    assert [item.person_id for item in valid] == ["p00001", "p00002"]
    assert valid[0].scores is first.scores
    assert (valid[1].vad, valid[1].rationale) == (GOOD.vad, "waves")


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"stamp_ns": STAMP_NS + 10**9}, "the stamp is 6000000000, not 5000000000"),
        ({"stamp_ns": STAMP_NS - 1}, "the stamp is"),
        ({"stamp_ns": None}, "the stamp is None"),
        ({"stamp_ns": 2**70}, "the stamp is"),
        ({"scores": np.array([0.5])}, "has scores of shape (1,), expected (2,)"),
        ({"scores": np.array([[0.5, 0.5]])}, "has scores of shape (1, 2)"),
        ({"scores": np.float32(0.5)}, "has scores of shape ()"),
        ({"scores": np.array([0.5, np.nan])}, "a score is outside 0..1 or not a number"),
        ({"scores": np.array([0.5, np.inf])}, "a score is outside"),
        ({"scores": np.array([-0.1, 0.5])}, "a score is outside"),
        ({"scores": np.array([1.1, 0.5])}, "a score is outside"),
        ({"scores": np.array(["a", "b"])}, "the scores are of type <U1, not numbers"),
        ({"scores": np.array([None, 1], object)}, "the scores are of type object"),
        ({"scores": [[0.5], [0.5, 0.5]]}, "wrong answer"),
        ({"vad": Vad(np.nan, 0, 0)}, "valence, arousal or dominance is outside -1..1"),
        ({"vad": Vad(0, np.inf, 0)}, "is outside -1..1"),
        ({"vad": Vad(0, 0, 1.01)}, "is outside -1..1"),
        ({"vad": (0.5, 0.5)}, "not three numbers"),
        ({"vad": ("a", "b", "c")}, "not three numbers"),
        ({"vad": (1j, 0, 0)}, "not three numbers"),
        ({"vad": 0.5}, "wrong answer"),
        ({"rationale": 42}, "the rationale is a value of type int, not text"),
        ({"rationale": b"waves"}, "the rationale is a value of type bytes"),
        ({"reason": 42}, "the reason is a value of type int, not text"),
        ({"scores": None, "reason": None}, "the reason is None, not text"),
        ({"scores": None, "reason": ""}, "neither scores nor a reason"),
    ],
)
def test_wrong_value_is_the_failure_of_its_person(values, reason):
    valid, wrong = check(forged(**values), GOOD)
    assert [item.person_id for item in valid] == ["p00002"]
    assert list(wrong) == ["p00001"]
    assert reason in wrong["p00001"]
    assert len(wrong["p00001"]) <= output_checks.MAX_REASON


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (None, "returned None, not a list of assessments"),
        ({"p00001": 1}, "returned a value of type dict"),
        ([], "returned 0 assessments"),
        ([assessment()], "returned 1 assessments"),
        ([assessment(), assessment()], "of ['p00001', 'p00001']"),
        ([assessment(), assessment("p00009")], "expected one of each of ['p00001', 'p00002']"),
        ([assessment(), GOOD, GOOD], "returned 3 assessments"),
        ([assessment(), forged(person_id=None)], "returned 2 assessments"),
        ([assessment(), None], "returned None as an assessment"),
        ([assessment(), 42], "returned a value of type int as an assessment"),
    ],
)
def test_answer_that_is_not_one_assessment_per_person_fails_as_a_whole(answer, reason):
    with pytest.raises(RecognizerError) as caught:
        output_checks.checked_assessments(answer, SCENE, SCENE.people, 2)
    assert reason in str(caught.value)


def test_numbers_become_those_of_python_and_texts_are_bounded():
    item = forged(
        vad=np.array([0.5, -0.25, 1.0000001], np.float32),
        scores=[0, 1],
        rationale="a\x1b[31m" + "x" * 10_000,
    )
    ((first, _), wrong) = check(item, GOOD)
    assert wrong == {}
    assert first.vad == Vad(0.5, -0.25, 1.0)
    assert {type(value) for value in first.vad} == {float}
    assert first.scores.dtype == np.float64
    assert len(first.rationale) <= output_checks.MAX_RATIONALE
    assert "\x1b" not in first.rationale


class Wrong(FakeRecognizer):
    """Give a wrong valence to one of two people, or answer about no person at all."""

    answers_no_person = False

    def assess(self, scene, people):
        if self.answers_no_person:
            self.requests.append((scene.frame.stamp_ns, tuple(p.person_id for p in people)))
            return []
        answer = super().assess(scene, people)
        return [
            Assessment(a.person_id, a.stamp_ns, a.scores, Vad(np.float32(np.nan), 0, 0))
            if a.person_id == "p00001"
            else Assessment(a.person_id, a.stamp_ns, a.scores, Vad(*np.float32([0.5, 0, 0])))
            for a in answer
        ]


def watch(pipeline, recognizer, frames):
    for tenth in range(frames):
        pipeline.on_frame(frame_at(tenth / 10))
        if due := pipeline.next_round():
            try:
                pipeline.on_assessments(recognizer.assess(due.scene, due.people))
            except RecognizerError as error:
                pipeline.on_failure(due, str(error))
    return pipeline.now().people


def pipeline_with(recognizer, detector=None):
    boxes = [Box(10, 20, 60, 160), Box(120, 20, 170, 170)]
    settings = Settings.from_dict({"scheduler.refresh": 0.0})
    return Pipeline(detector or ScriptedDetector(boxes), recognizer, settings)


def test_wrong_answer_about_one_person_leaves_the_other_assessed():
    recognizer = Wrong()
    pipeline = pipeline_with(recognizer)
    wrong, right = watch(pipeline, recognizer, 30)
    assert (wrong.status, right.status) == (Status.PENDING, Status.ASSESSED)
    assert wrong.reason.startswith("wrong answer: valence, arousal or dominance is outside -1..1")
    assert list(pipeline.failing) == ["p00001"]
    assert not pipeline.every_question_fails
    assert type(right.vad.valence) is float
    asked = [ids for _, ids in recognizer.requests]
    assert sum("p00001" in ids for ids in asked) < 10 < sum("p00002" in ids for ids in asked)


def test_answer_without_people_is_told_about_each_of_them():
    recognizer = Wrong()
    recognizer.answers_no_person = True
    pipeline = pipeline_with(recognizer)
    people = watch(pipeline, recognizer, 20)
    assert {person.status for person in people} == {Status.PENDING}
    assert all("returned 0 assessments" in person.reason for person in people)
    assert pipeline.every_question_fails
    recognizer.answers_no_person = False
    assert watch(pipeline, recognizer, 40)[1].status is Status.ASSESSED


def test_one_failing_person_of_four_does_not_keep_the_others_from_answers():
    class Failing(FakeRecognizer):
        def assess(self, scene, people):
            if any(person.person_id == "p00003" for person in people):
                raise RecognizerError("cannot answer")
            return super().assess(scene, people)

    recognizer = Failing()
    boxes = [Box(70 * n + 5, 20, 70 * n + 60, 160 + n) for n in range(4)]
    pipeline = pipeline_with(recognizer, ScriptedDetector(boxes))
    people = watch(pipeline, recognizer, 40)
    assert [p.status is Status.ASSESSED for p in people] == [True, True, False, True]
    assert people[2].reason == "no answer: cannot answer"
    newest = [p.assessed_ns for p in people if p.status is Status.ASSESSED]
    assert min(newest) >= 3.4 * 10**9


@pytest.mark.parametrize(
    ("box", "confidence"),
    [
        ((np.nan, 10, 60, 200), 0.9),
        ((10, 10, np.inf, 200), 0.9),
        ((60, 10, 10, 200), 0.9),
        ((10, 200, 60, 10), 0.9),
        ((10, 10, 10, 200), 0.9),
        ((-1e30, 10, 60, 200), 0.9),
        ((10, 10, 1e9, 200), 0.9),
        ((10, 10, 60, 200), np.nan),
        ((10, 10, 60, 200), -0.1),
        ((10, 10, 60, 200), 1.5),
    ],
)
def test_wrong_box_is_left_out_and_told(box, confidence):
    class Detector(ScriptedDetector):
        def detect(self, frame):
            return Detections.from_lists([(120, 20, 170, 170), box], [0.9, confidence])

    pipeline = pipeline_with(FakeRecognizer(), Detector([]))
    people = watch(pipeline, FakeRecognizer(), 3)
    assert len(people) == 1
    assert people[0].status is Status.ASSESSED
    ((reason, count),) = pipeline.wrong_detections.items()
    assert "is not a detection" in reason
    assert count == 3


def test_wrong_box_is_left_out_with_its_face():
    boxes = np.array([(0, 0, np.nan, 9), (1, 1, 8, 9)])
    found = Detections(boxes, np.array([0.5, 0.6]), faces=np.array([(0, 0, 1, 1), (2, 2, 4, 4)]))
    kept, fault = output_checks.checked_detections(found, 320, 240)
    assert fault
    assert kept.faces.tolist() == [[2, 2, 4, 4]]


def test_box_that_is_partly_outside_is_kept():
    found = Detections.from_lists([(-20, -5, 350, 260)], [0.5])
    assert output_checks.checked_detections(found, 320, 240) == (found, "")


@pytest.mark.parametrize("found", [None, [], [(1, 2, 3, 4)]])
def test_other_answer_of_a_detector_is_an_error(found):
    with pytest.raises(TypeError, match="the detector returned .*, not Detections"):
        output_checks.checked_detections(found, 320, 240)
