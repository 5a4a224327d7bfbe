"""The node over real DDS, with scripted people and models that a test holds and releases."""

import array
import dataclasses
import gc
import importlib.util
import sys
import threading
import types
from pathlib import Path

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy")
pytest.importorskip("emotion_perception_msgs")

from lifecycle_msgs.msg import State, Transition
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image
from std_srvs.srv import SetBool
from support.node_rig import ALICE

from emotion_perception.core.errors import ModelError, RecognizerError
from emotion_perception.core.labels import EMOTIC
from emotion_perception.core.values import Box, Cause, Detections, SourceStatus, Status, Vad
from emotion_perception.recognizers.calibrated import Calibrated, Calibration
from emotion_perception.ros.conversions import compressed_to_msg, image_to_msg
from emotion_perception.ros.health import OK, WARN, Finding
from emotion_perception.testing.fakes import (
    SECOND_NS,
    BlockingRecognizer,
    FakeRecognizer,
    ScriptedDetector,
    frame_at,
    noise_image,
)
from emotion_perception_msgs.msg import EmotionLabelInfo
from emotion_perception_msgs.srv import Explain

pytestmark = [pytest.mark.ros, pytest.mark.serial]


class FailingDetector(ScriptedDetector):
    error = None

    def detect(self, frame):
        if self.error:
            raise self.error
        return super().detect(frame)


def with_a_round_in_progress(rig):
    """Return a rig whose recognizer works on its first round, and the recognizer."""
    recognizer = BlockingRecognizer()
    r = rig(recognizer=recognizer).start()
    r.show(1.0)
    r.show(1.1)
    r.until(lambda: recognizer.entered.acquire(blocking=False))
    return r, recognizer


def test_person_in_an_image_is_assessed_and_published(rig):
    r = rig().start()
    first = r.show(1.0, noise_image(320, 240))
    r.show(1.1)
    r.until(lambda: r.received[-1].people[0].status is Status.ASSESSED)
    newest = r.received[-1]
    assert first.stamp_ns == SECOND_NS
    assert (newest.camera, newest.width, newest.height) == ("camera", 320, 240)
    assert (newest.model, newest.labels) == ("function", ("happiness", "sadness"))
    assert newest.people[0].track.box == ALICE
    assert newest.people[0].label == "happiness"
    assert newest.people[0].confidence == pytest.approx(0.9)


def test_messages_are_numbered_and_carry_the_thresholds(rig):
    r = rig().start()
    for step in range(4):
        r.show(1.0 + step / 10)
    numbers = [people.sequence for people in r.received]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert r.received[-1].thresholds.tolist() == [0.5, 0.5]


def test_late_subscriber_gets_definitions_and_calibration_of_the_labels(rig):
    calibration = Calibration(
        ("happiness", "thirst"),
        np.array([2.0, 1.0]),
        np.array([0.5, -0.5]),
        np.array([0.25, 0.75]),
        system="function",
        prompting={},
        data="0" * 64,
    )
    r = rig(recognizer=Calibrated(FakeRecognizer(labels=calibration.labels), calibration)).start()
    received = []
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    r.other.create_subscription(
        EmotionLabelInfo, "/emotion_node/label_info", received.append, latched
    )
    r.until(lambda: received)
    (info,) = received
    assert (info.model, info.calibration) == ("function", "platt:00000000")
    assert (info.labels, info.definitions) == (["happiness", "thirst"], [EMOTIC["happiness"], ""])
    assert (list(info.thresholds), list(info.slopes)) == ([0.25, 0.75], [2.0, 1.0])
    assert list(info.offsets) == [0.5, -0.5]


def test_stamps_are_those_of_images_and_never_go_back(rig):
    r = rig().start()
    shown = [1.0 + step / 10 for step in range(8)]
    for seconds in shown:
        r.show(seconds)
    r.until(lambda: r.received[-1].people[0].status is Status.ASSESSED)
    stamps = [people.stamp_ns for people in r.received]
    assert set(stamps) == {round(seconds * SECOND_NS) for seconds in shown}
    assert stamps == sorted(stamps)
    assessed = [
        (person.assessed_ns, people.stamp_ns)
        for people in r.received
        for person in people.people
        if person.status is Status.ASSESSED
    ]
    assert assessed
    assert all(assessed_ns <= stamp_ns for assessed_ns, stamp_ns in assessed)


def test_compressed_images_are_read_from_their_own_topic(rig):
    r = rig(parameters={"image_transport": "compressed"})
    assert r.node.trigger_configure().name == "SUCCESS"
    assert r.node.trigger_activate().name == "SUCCESS"
    camera = r.other.create_publisher(CompressedImage, "image/compressed", 1)
    r.until(lambda: camera.get_subscription_count() == 1)
    r.until(lambda: r.node.count_subscribers("emotion_node/emotions") == 1)
    camera.publish(compressed_to_msg(frame_at(1.0)))
    r.until(lambda: r.received)
    assert r.received[0].stamp_ns == SECOND_NS


def test_idle_worker_assesses_the_newest_scene(rig):
    recognizer = BlockingRecognizer()
    r = rig(recognizer=recognizer).start()
    seconds = 1.0
    r.show(seconds)
    r.show(seconds := seconds + 0.1)
    r.until(lambda: recognizer.entered.acquire(blocking=False))
    for frames in (3, 1, 7, 2, 5):
        for _ in range(frames):
            r.show(seconds := seconds + 0.1)
        assert len(recognizer.requests) == len({stamp for stamp, _ in recognizer.requests})
        recognizer.release()
        r.until(lambda: recognizer.entered.acquire(blocking=False))
        assert recognizer.requests[-1][0] == round(seconds * SECOND_NS)
    recognizer.release()


def test_memory_and_threads_stay_flat_over_2000_frames(rig):
    r = rig().start()
    image, seconds = noise_image(320, 240), 0.0

    def play(frames):
        nonlocal seconds
        for _ in range(frames):
            r.show(seconds := seconds + 1 / 30, image)
            del r.received[:-1]  # what the test keeps is not the node's
        gc.collect()
        return resident_bytes(), threading.active_count()

    play(300)  # allocators and buffers fill up first
    before, threads_before = play(100)
    after, threads_after = play(2000)
    assert threads_after == threads_before
    assert after - before < 8_000_000, f"{(after - before) / 1e6:.1f} MB more"


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_image_without_people_gives_an_empty_list(rig):
    r = rig(detector=ScriptedDetector([])).start()
    assert r.show(1.0).people == ()


def test_failed_configure_stays_unconfigured_and_can_be_repeated(rig):
    attempts = []

    def make(settings):
        attempts.append(settings.model)
        if len(attempts) == 1:
            raise ModelError("no model 'x': fetch it")
        return FakeRecognizer()

    r = rig(make_recognizer=make)
    assert not r.change(Transition.TRANSITION_CONFIGURE)
    assert r.state() == State.PRIMARY_STATE_UNCONFIGURED
    assert r.detector.closed, "what was created before the error is closed"
    assert r.change(Transition.TRANSITION_CONFIGURE)
    assert r.state() == State.PRIMARY_STATE_INACTIVE


def test_invalid_transition_is_rejected_and_the_node_continues(rig):
    r = rig().start()
    assert not r.change(Transition.TRANSITION_CONFIGURE)
    assert not r.change(Transition.TRANSITION_ACTIVATE)
    assert not r.change(99)
    assert r.state() == State.PRIMARY_STATE_ACTIVE
    assert r.show(1.0).stamp_ns == SECOND_NS


def test_deactivation_publishes_an_empty_list_and_unsubscribes(rig):
    r = rig().start()
    r.show(1.0)
    r.show(1.1)
    assert r.received[-1].people
    before = len(r.received)
    assert r.change(Transition.TRANSITION_DEACTIVATE)
    r.until(lambda: len(r.received) > before and not r.received[-1].people)
    assert r.received[-1].stamp_ns == round(1.1 * SECOND_NS)
    r.until(lambda: r.camera.get_subscription_count() == 0)


def test_cleanup_closes_the_models_and_the_node_can_be_configured_again(rig):
    r = rig().start()
    r.show(1.0)
    assert r.change(Transition.TRANSITION_DEACTIVATE)
    assert r.change(Transition.TRANSITION_CLEANUP)
    assert r.detector.closed
    assert r.recognizer.closed
    assert r.change(Transition.TRANSITION_CONFIGURE)
    assert r.change(Transition.TRANSITION_ACTIVATE)
    r.until(lambda: r.camera.get_subscription_count() == 1)
    r.until(lambda: r.node.count_subscribers("emotion_node/emotions") == 1)
    assert r.show(5.0).stamp_ns == 5 * SECOND_NS


def test_disabled_node_processes_no_image(rig):
    r = rig().start()
    r.show(1.0)
    assert r.call(SetBool, "set_enabled", SetBool.Request(data=False)).success
    r.until(lambda: r.camera.get_subscription_count() == 0)
    r.until(lambda: r.received[-1].people == ())
    r.camera.publish(image_to_msg(frame_at(2.0)))
    r.spin(0.3)
    assert r.received[-1].stamp_ns == SECOND_NS
    assert r.call(SetBool, "set_enabled", SetBool.Request(data=True)).success
    r.until(lambda: r.camera.get_subscription_count() == 1)
    assert r.show(3.0).stamp_ns == 3 * SECOND_NS


def test_live_parameter_takes_effect_and_another_is_refused(rig):
    r = rig().start()
    assert r.set("max_age", 1.5).successful
    assert r.node.settings.max_age == 1.5
    frozen = r.set("tracker.min_iou", 0.5)
    assert not frozen.successful
    assert "takes effect at configure" in frozen.reason
    for value in (-1.0, float("nan"), float("inf"), 1e9, "fast"):
        refused = r.set("max_age", value)
        assert not refused.successful, value
        assert refused.reason
    assert r.node.settings.max_age == 1.5


@pytest.mark.parametrize(
    ("name", "value", "message_part"),
    [
        ("max_rate", float("nan"), "max_rate = nan is not a finite number"),
        ("max_rate", -3.0, "max_rate = -3.0 is not allowed"),
        ("max_rate", "fast", "max_rate = 'fast' is of type str, expected float"),
        ("detector.name", "hog", "one of yolo, detr, face"),
        ("recognizer.words", "lists", "only narracap reads it"),
        ("recognizer.leaf", "short", "it is now 'recognizer.answer_format', and 'short' is now"),
    ],
)
def test_invalid_parameter_at_start_fails_configure_by_name(
    rig, monkeypatch, name, value, message_part
):
    r = rig(parameters={name: value})
    logged = []
    monkeypatch.setattr(
        type(r.node.get_logger()), "error", lambda self, text, **_: logged.append(text)
    )
    assert not r.change(Transition.TRANSITION_CONFIGURE)
    assert message_part in logged[0]


def test_integer_at_start_is_accepted_for_a_float(rig):
    r = rig(parameters={"max_rate": 7}).start()
    assert r.node.settings.max_rate == 7.0


def test_inconsistent_images_are_counted_and_reported(rig):
    r = rig().start()
    r.show(1.0)
    good = image_to_msg(frame_at(2.0, noise_image(8, 8)))
    for change in (
        {"height": 9}, {"width": 0}, {"step": 3}, {"encoding": "32FC1"},
        {"data": array.array("B")}, {"encoding": ""},
    ):  # fmt: skip
        message = image_to_msg(frame_at(2.0, noise_image(8, 8)))
        for field, value in change.items():
            setattr(message, field, value)
        r.camera.publish(message)
        r.spin(0.05)
    r.until(lambda: "could not be read" in r.findings.get("camera", (0, ""))[1])
    assert r.findings["camera"][0] == 1
    r.camera.publish(good)
    assert r.show(3.0).stamp_ns == 3 * SECOND_NS


def test_clock_that_jumps_back_gives_new_ids(rig):
    r = rig().start()
    r.show(100.0)
    assert r.show(100.1).people[0].track.person_id == "p00001"
    r.show(5.0)
    assert r.show(5.1).people[0].track.person_id == "p00002"


def test_late_image_is_skipped_and_reported_and_people_keep_their_ids(rig):
    r = rig().start()
    r.show(1.0)
    for step in range(1, 30):
        assert r.show(1.0 + step / 10).people[0].track.person_id == "p00001"
        r.camera.publish(image_to_msg(frame_at(0.94 + step / 10)))
        r.spin(0.05)
        if "they are late" in r.findings.get("camera", (0, ""))[1]:
            break
    assert r.findings["camera"][0] == 1
    assert "check that only one driver publishes" in r.findings["camera"][1]
    assert {p.track.person_id for people in r.received for p in people.people} == {"p00001"}


def test_jump_of_the_clock_is_reported(rig):
    r = rig().start()
    r.show(100.0)
    r.show(5.0)
    r.until(lambda: "clock to an earlier time: 1" in r.findings.get("camera", (0, ""))[1])
    assert r.findings["camera"][0] == 1


def test_camera_without_time_stamps_is_reported_as_such(rig):
    r = rig().start()
    for _ in range(30):
        r.camera.publish(image_to_msg(frame_at(0.0)))
        r.spin(0.1)
        if "same time stamp" in r.findings.get("camera", (0, ""))[1]:
            return
    pytest.fail(str(r.findings))


def test_silence_is_reported_with_the_number_of_publishers(rig):
    r = rig(parameters={"silence": 0.5}).start()
    r.until(lambda: "no image for" in r.findings.get("camera", (0, ""))[1])
    assert "publishers there: 1, but nothing arrives" in r.findings["camera"][1]
    r.other.destroy_publisher(r.camera)
    r.until(lambda: "no node publishes there" in r.findings["camera"][1])


def test_incompatible_qos_is_reported_by_its_policy(rig):
    r = rig(
        parameters={"silence": 0.5, "qos_overrides./image.subscription.reliability": "reliable"}
    )
    assert r.node.trigger_configure().name == "SUCCESS"
    assert r.node.trigger_activate().name == "SUCCESS"
    r.until(lambda: "incompatible QoS (reliability)" in r.findings.get("camera", (0, ""))[1])


def test_slow_model_is_reported_while_frames_are_published(rig):
    recognizer = BlockingRecognizer()
    r = rig(recognizer=recognizer, parameters={"silence": 0.5}).start()
    r.show(1.0)
    r.show(1.1)
    r.until(lambda: "the model is slow" in r.findings.get("recognizer", (0, ""))[1])
    assert r.show(1.2).people[0].status is Status.PENDING
    recognizer.release()


class FailingRecognizer(FakeRecognizer):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def assess(self, scene, people):
        if self.error is None:
            return super().assess(scene, people)
        raise self.error


@pytest.mark.parametrize("error", [RecognizerError("no memory"), KeyError("a bug")])
def test_failing_model_is_reported_and_asked_again(rig, error):
    recognizer = FailingRecognizer(error)
    r = rig(recognizer=recognizer).start()
    r.show(1.0)
    r.show(1.1)
    r.until(lambda: r.findings.get("recognizer", (0, ""))[0] == 2)
    assert type(error).__name__ in r.findings["recognizer"][1]
    assert r.received[-1].people[0].status is Status.PENDING
    recognizer.error = None
    seconds = 1.1
    while r.received[-1].people[0].status is not Status.ASSESSED:
        r.show(seconds := seconds + 0.1)
        r.spin(0.05)
        assert seconds < 60
    r.until(lambda: r.findings["recognizer"][0] == 0)


def test_answer_after_deactivation_is_ignored(rig):
    r, recognizer = with_a_round_in_progress(rig)
    assert r.change(Transition.TRANSITION_DEACTIVATE)
    r.until(lambda: not r.received[-1].people)
    before = len(r.received)
    recognizer.release()
    r.spin(0.3)
    assert len(r.received) == before
    assert r.change(Transition.TRANSITION_ACTIVATE)
    r.until(lambda: r.camera.get_subscription_count() == 1)
    r.show(9.0)


class TalkingRecognizer(FakeRecognizer):
    def explain(self, scene, person):
        if person.person_id == "p00002":
            raise RecognizerError("lost for words")
        return f"{person.person_id} waves at {scene.frame.stamp_ns}"


def test_explain_returns_the_text_about_the_newest_image(rig):
    both = ScriptedDetector([ALICE, Box(150, 20, 200, 200)])
    r = rig(detector=both, recognizer=TalkingRecognizer()).start()
    r.show(1.0)
    r.show(1.1)

    def ask(person_id):
        return r.call(Explain, "explain", Explain.Request(person_id=person_id))

    answer = ask("p00001")
    assert answer.success
    assert answer.explanation == "p00001 waves at 1100000000"
    assert answer.stamp.nanosec == 100_000_000
    assert ask("p00002").message == "RecognizerError: lost for words"
    absent = ask("p00009")
    assert not absent.success
    assert absent.message == "cannot explain 'p00009': in view is p00001, p00002"
    assert r.show(1.2).people


def test_explain_is_refused_by_a_recognizer_without_text(rig):
    r = rig().start()
    r.show(1.0)
    answer = r.call(Explain, "explain", Explain.Request(person_id="p00001"))
    assert not answer.success
    assert answer.message == "cannot explain: this recognizer generates no text"


def test_explain_fails_when_cleanup_releases_the_model(rig):
    recognizer = BlockingRecognizer()
    recognizer.explain = lambda scene, person: "because"
    r = rig(recognizer=recognizer).start()
    r.show(1.0)
    r.show(1.1)
    r.until(lambda: recognizer.entered.acquire(blocking=False))
    client = r.other.create_client(Explain, "emotion_node/explain")
    r.until(client.service_is_ready)
    answer = client.call_async(Explain.Request(person_id="p00001"))
    r.spin(0.2)
    assert r.change(Transition.TRANSITION_DEACTIVATE)
    threading.Timer(0.3, recognizer.release).start()
    assert r.change(Transition.TRANSITION_CLEANUP)
    r.until(answer.done)
    assert answer.result().message == "cannot explain: the model was released meanwhile"


def test_round_after_an_explanation_uses_the_newest_scene(rig):
    class Slow(BlockingRecognizer):
        def explain(self, scene, person):
            self.assess(scene, [person])
            return "because"

    recognizer = Slow()
    r = rig(recognizer=recognizer).start()
    r.show(1.0)
    r.show(1.1)
    r.until(lambda: recognizer.entered.acquire(blocking=False))
    client = r.other.create_client(Explain, "emotion_node/explain")
    r.until(client.service_is_ready)
    answer = client.call_async(Explain.Request(person_id="p00001"))
    r.spin(0.2)
    recognizer.release()
    r.until(lambda: recognizer.entered.acquire(blocking=False))
    for step in range(5):
        r.show(1.2 + step / 10)
    recognizer.release()
    r.until(answer.done)
    assert answer.result().explanation == "because"
    r.until(lambda: recognizer.entered.acquire(blocking=False))
    assert recognizer.requests[-1][0] == round(1.6 * SECOND_NS)
    recognizer.release()


def test_failing_detector_is_reported_and_the_node_continues(rig):
    r = rig(detector=FailingDetector([ALICE])).start()
    r.show(1.0)
    r.detector.error = RuntimeError("CUDA out of memory")
    r.camera.publish(image_to_msg(frame_at(1.1)))
    r.until(lambda: r.findings.get("camera", (0, ""))[0] == 2)
    assert "images: RuntimeError: CUDA out of memory" in r.findings["camera"][1]
    r.detector.error = None
    assert r.show(1.2).stamp_ns == round(1.2 * SECOND_NS)


def test_failing_detector_expires_all_estimates(rig):
    r = rig(
        detector=FailingDetector([ALICE]), parameters={"silence": 0.5, "heartbeat": 0.1}
    ).start()
    r.show(1.0)
    r.show(1.1)
    r.detector.error = RuntimeError("CUDA out of memory")
    frames = (image_to_msg(frame_at(1.2 + i / 10)) for i in range(1000))
    failed = SourceStatus.DETECTOR_FAILED
    r.until(
        lambda: r.camera.publish(next(frames)) or r.received[-1].source_status is failed,
    )
    (estimate,) = r.received[-1].people
    assert (estimate.status, estimate.reason) == (Status.EXPIRED, "detector failed")


def test_cleanup_is_refused_while_a_round_does_not_end(rig):
    r, recognizer = with_a_round_in_progress(rig)
    assert r.change(Transition.TRANSITION_DEACTIVATE)
    assert not r.change(Transition.TRANSITION_CLEANUP)
    assert r.state() == State.PRIMARY_STATE_INACTIVE
    assert not recognizer.closed
    recognizer.release()
    r.until(lambda: r.node.round_s == 0)
    assert r.change(Transition.TRANSITION_CLEANUP)
    assert recognizer.closed


def test_node_is_not_live_before_its_first_image(rig):
    r = rig(parameters={"heartbeat": 0.1, "silence": 60.0}).start()
    r.until(lambda: r.received)
    (status,) = {message.source_status for message in r.received}
    assert status is SourceStatus.CAMERA_SILENT
    assert r.show(1.0).source_status is SourceStatus.LIVE
    r.until(lambda: r.received[-1].cause is Cause.HEARTBEAT)
    assert r.received[-1].source_status is SourceStatus.LIVE


def test_images_left_out_by_max_rate_are_no_silence(rig):
    r = rig(parameters={"heartbeat": 0.1, "silence": 0.3, "max_rate": 0.2}).start()
    r.show(1.0)
    begin = len(r.received)
    r.spin(1.5)
    assert {m.source_status for m in r.received[begin:]} == {SourceStatus.LIVE}


def test_estimates_expire_in_time_whatever_the_heartbeat(rig):
    r = rig(parameters={"heartbeat": 60.0, "silence": 0.5}).start()
    r.show(1.0)
    r.show(1.1)
    r.until(lambda: r.received[-1].source_status is SourceStatus.CAMERA_SILENT, 5.0)
    assert r.received[-1].cause is Cause.EXPIRY


def test_disabled_node_says_that_it_is_inactive(rig):
    r = rig(parameters={"heartbeat": 0.1}).start()
    r.show(1.0)
    assert r.call(SetBool, "set_enabled", SetBool.Request(data=False)).success
    r.until(lambda: r.received[-1].source_status is SourceStatus.INACTIVE)
    r.until(lambda: r.received[-1].cause is Cause.HEARTBEAT)
    assert r.received[-1].source_status is SourceStatus.INACTIVE


def test_diagnostics_hold_the_state_and_the_end_of_a_problem_is_logged_once(rig, monkeypatch):
    r = rig().start()
    logged = []
    monkeypatch.setattr(
        type(r.node.get_logger()), "info", lambda self, text, **_: logged.append(text)
    )
    r.until(lambda: r.findings.get("lifecycle", (0, ""))[1] == "active")
    for level in (WARN, OK, OK):
        r.node._reporter.log(Finding("camera", level, "images arrive", {}))
    assert [text for text in logged if "again" in text] == ["camera: images arrive again"]


def test_answer_with_too_many_scores_is_a_failure(rig):
    r = rig(recognizer=FakeRecognizer(score=lambda person: (0.5, 0.5, 0.5))).start()
    r.show(1.0)
    r.show(1.1)
    r.until(lambda: "has scores of shape (3,)" in r.findings.get("recognizer", (0, ""))[1])
    assert r.show(1.2).people[0].status is Status.PENDING


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"vad": Vad(np.float32(0.5), np.float32(0), np.float32(0))}, ""),
        ({"vad": Vad(np.nan, 0.0, 0.0)}, "is outside -1..1"),
        ({"rationale": 42}, "the rationale is a value of type int, not text"),
        ({"stamp_ns": 2**62}, "the stamp is"),
    ],
)
def test_values_that_messages_cannot_hold_do_not_end_the_node(rig, values, reason):
    class Odd(FakeRecognizer):
        def assess(self, scene, people):
            return [dataclasses.replace(a, **values) for a in super().assess(scene, people)]

    r = rig(recognizer=Odd()).start()
    r.show(1.0)
    r.show(1.1)
    if not reason:
        r.until(lambda: r.received[-1].people[0].status is Status.ASSESSED)
        return
    r.until(lambda: reason in r.findings.get("recognizer", (0, ""))[1])
    assert r.findings["recognizer"][0] == 2
    person = r.show(1.2).people[0]
    assert person.status is Status.PENDING
    assert reason in person.reason


def test_answer_about_no_person_is_reported(rig):
    class Silent(FakeRecognizer):
        def assess(self, scene, people):
            return []

    r = rig(recognizer=Silent()).start()
    r.show(1.0)
    r.show(1.1)
    r.until(lambda: "returned 0 assessments" in r.findings.get("recognizer", (0, ""))[1])
    assert "returned 0 assessments" in r.show(1.2).people[0].reason


def test_one_failing_person_is_a_warning_while_the_other_is_assessed(rig):
    class Failing(FakeRecognizer):
        def assess(self, scene, people):
            if any(person.person_id == "p00001" for person in people):
                raise RecognizerError("too dark")
            return super().assess(scene, people)

    boxes = [ALICE, Box(200, 20, 250, 200)]
    r = rig(detector=ScriptedDetector(boxes), recognizer=Failing()).start()
    seconds = 1.0
    while "no answer about 1 people; p00001" not in r.findings.get("recognizer", (0, ""))[1]:
        r.show(seconds := seconds + 0.1)
        r.spin(0.05)
        assert seconds < 60
    level, message = r.findings["recognizer"]
    assert (level, message.endswith("too dark")) == (1, True)
    assert r.received[-1].people[1].status is Status.ASSESSED


def test_short_image_without_channel_order_is_refused(rig, monkeypatch):
    class Bridge:
        def imgmsg_to_cv2(self, message, encoding):
            raise TypeError("buffer is too small for requested array")

    monkeypatch.setitem(sys.modules, "cv_bridge", types.SimpleNamespace(CvBridge=Bridge))
    r = rig(parameters={"image_encoding": "rgb8", "max_pixels": 320 * 240}).start()
    for encoding, reason in (("8UC3", "not 3 as in the data"), ("rgb16", "TypeError: buffer")):
        message = image_to_msg(frame_at(1.0))
        message.encoding, message.data = encoding, array.array("B", [1, 2, 3])
        r.camera.publish(message)
        r.until(lambda reason=reason: reason in r.findings.get("camera", (0, ""))[1])
    r.camera.publish(image_to_msg(frame_at(1.05, noise_image(321, 240))))
    r.until(lambda: "the limit is max_pixels = 76800" in r.findings["camera"][1])
    message = image_to_msg(frame_at(1.1))
    message.encoding = "8UC3"
    r.camera.publish(message)
    r.until(lambda: r.received and r.received[-1].stamp_ns == round(1.1 * SECOND_NS))


def test_wrong_boxes_of_the_detector_are_reported(rig):
    class Wrong(ScriptedDetector):
        def detect(self, frame):
            return Detections.from_lists([ALICE, (np.nan, 0, 1, 1)], [0.9, 0.9])

    r = rig(detector=Wrong([])).start()
    r.show(1.0)
    assert len(r.show(1.1).people) == 1
    r.until(lambda: "returned wrong boxes for 2" in r.findings.get("camera", (0, ""))[1])


def test_person_ids_are_unique_in_the_life_of_the_node(rig):
    r = rig().start()

    def newest_id(seconds):
        r.show(seconds)
        return r.show(seconds + 0.1).people[0].track.person_id

    ids = [newest_id(1.0)]
    for enabled in (False, True):
        r.call(SetBool, "set_enabled", SetBool.Request(data=enabled))
    r.until(lambda: r.camera.get_subscription_count() == 1)
    ids.append(newest_id(2.0))
    for transition in ("DEACTIVATE", "CLEANUP", "CONFIGURE", "ACTIVATE"):
        assert r.change(getattr(Transition, f"TRANSITION_{transition}"))
    r.until(lambda: r.camera.get_subscription_count() == 1)
    r.until(lambda: r.node.count_subscribers("emotion_node/emotions") == 1)
    ids.append(newest_id(3.0))
    assert ids == ["p00001", "p00002", "p00003"]


def test_enabling_does_not_revive_a_node_after_shutdown(rig):
    r = rig().start()
    assert r.change(Transition.TRANSITION_ACTIVE_SHUTDOWN)
    answer = r.call(SetBool, "set_enabled", SetBool.Request(data=True))
    assert answer.message == "not subscribed to images"
    assert r.state() == State.PRIMARY_STATE_FINALIZED


def test_failed_activation_leaves_the_node_inactive(rig, monkeypatch):
    r = rig()

    def fail(settings):
        raise RuntimeError("no memory for another subscription")

    monkeypatch.setattr(r.node._camera, "open", fail)
    assert r.change(Transition.TRANSITION_CONFIGURE)
    assert not r.change(Transition.TRANSITION_ACTIVATE)
    assert r.state() == State.PRIMARY_STATE_INACTIVE
    assert r.call(SetBool, "set_enabled", SetBool.Request(data=True)).success
    assert r.state() == State.PRIMARY_STATE_INACTIVE


def test_log_repeats_a_finding_only_after_another_one(rig, monkeypatch):
    r = rig().start()
    logged = []
    monkeypatch.setattr(
        type(r.node.get_logger()), "warning", lambda self, text, **_: logged.append(text)
    )
    finding = lambda text: Finding("camera", WARN, text, {})  # noqa: E731
    for text in ("lost 3", "lost 4", "no stamp", "no stamp", "lost 5"):
        r.node._reporter.log(finding(text))
    assert logged == ["camera: lost 3", "camera: no stamp", "camera: lost 5"]


def test_debug_image_is_published_only_with_subscribers(rig):
    r = rig().start()
    r.show(1.0)
    images = []
    quality = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
    r.other.create_subscription(Image, "emotion_node/debug_image", images.append, quality)
    r.until(lambda: r.node.count_subscribers("emotion_node/debug_image") == 1)
    seconds = 1.0
    while not images:
        r.show(seconds := seconds + 0.1, np.zeros((240, 320, 3), np.uint8))
        assert seconds < 30
    drawn = np.frombuffer(images[0].data, np.uint8).reshape(240, 320, 3)
    assert drawn.any(), "boxes are drawn into it"


def test_faces_in_the_debug_image_are_blurred_on_request(rig, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    r = rig(parameters={"privacy.blur_faces": True}).start()
    images = []
    quality = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
    r.other.create_subscription(Image, "emotion_node/debug_image", images.append, quality)
    r.until(lambda: r.node.count_subscribers("emotion_node/debug_image") == 1)
    seconds, image = 1.0, noise_image(320, 240)
    while len(images) < 4:  # the first show no person yet
        r.show(seconds := seconds + 0.1, image)
        assert seconds < 30
    shown = np.frombuffer(images[-1].data, np.uint8).reshape(240, 320, 3)
    head, body = ALICE._replace(bottom=ALICE.top + ALICE.height / 3), ALICE
    inner = tuple(slice(part.start + 4, part.stop - 4) for part in head.pixels(320, 240))
    assert len(np.unique(shown[inner].reshape(-1, 3), axis=0)) < 60
    below = (slice(round(head.bottom) + 4, round(body.bottom) - 4), inner[1])
    assert np.array_equal(shown[below], image[below])


def test_node_that_starts_disabled_takes_images_once_it_is_enabled(rig):
    r = rig(parameters={"enabled": False}).start(subscribed=False)
    r.spin(0.5)
    assert r.camera.get_subscription_count() == 0
    assert r.call(SetBool, "set_enabled", SetBool.Request(data=True)).success
    r.until(lambda: r.camera.get_subscription_count() == 1)


def test_emotions_are_reliable_and_volatile(rig):
    r = rig().start()
    (info,) = r.other.get_publishers_info_by_topic("emotion_node/emotions")
    assert info.qos_profile.reliability == ReliabilityPolicy.RELIABLE
    assert info.qos_profile.durability == DurabilityPolicy.VOLATILE


def test_each_setting_is_a_parameter_with_description_and_range(rig):
    from emotion_perception.core.settings import SETTINGS

    r = rig()
    for name, setting in SETTINGS.items():
        descriptor = r.node.describe_parameter(name)
        assert setting.description in descriptor.description
        if setting.minimum is not None:
            assert descriptor.floating_point_range or descriptor.integer_range, name


def test_node_with_detr_runs_without_ultralytics(rig, tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    from emotion_perception.perception.detection import make_detector
    from emotion_perception.testing.checkpoints.detr import IMAGE_SIZE, save_d_fine

    for name in [name for name in sys.modules if name.split(".")[0] == "ultralytics"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ultralytics", None)  # its import fails
    parameters = {
        "detector.name": "detr",
        "detector.model": str(save_d_fine(tmp_path)),
        "detector.image_size": IMAGE_SIZE,
    }
    r = rig(make_detector=make_detector, parameters=parameters)
    r.start()
    for i in range(3):
        r.show(i / 10)
    r.until(lambda: any(people.people for people in r.received))
