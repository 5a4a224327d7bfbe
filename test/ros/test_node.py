"""The node over real DDS, with scripted people and models that a test holds and releases."""

import array
import gc
import threading
from pathlib import Path

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy")
pytest.importorskip("emotion_perception_msgs")

from lifecycle_msgs.msg import State, Transition
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image
from std_srvs.srv import SetBool
from support.node_rig import ALICE, Rig

from emotion_perception.core.errors import ModelError, RecognizerError
from emotion_perception.core.values import Box, Status
from emotion_perception.ros.conversions import compressed_to_msg, image_to_msg
from emotion_perception.ros.diagnostics import WARN, Finding
from emotion_perception.testing.fakes import (
    SECOND_NS,
    BlockingRecognizer,
    FakeRecognizer,
    ScriptedDetector,
    frame_at,
    noise_image,
)
from emotion_perception_msgs.srv import Explain

pytestmark = [pytest.mark.ros, pytest.mark.serial]


@pytest.fixture
def rig(ros_domain):
    made = []

    def make(**options):
        made.append(Rig(ros_domain, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_an_image_goes_in_and_a_judged_person_comes_out(rig):
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


def test_stamps_are_those_of_images_and_never_go_back(rig):
    r = rig().start()
    shown = [1.0 + step / 10 for step in range(8)]
    for seconds in shown:
        r.show(seconds)
    r.spin(0.3)
    stamps = [people.stamp_ns for people in r.received]
    assert set(stamps) == {round(seconds * SECOND_NS) for seconds in shown}
    assert stamps == sorted(stamps)
    for people in r.received:
        for person in people.people:
            assert person.assessed_ns <= people.stamp_ns


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


def test_the_scene_assessed_next_is_the_newest_when_the_worker_becomes_free(rig):
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


def test_an_empty_room_is_an_empty_list(rig):
    r = rig(detector=ScriptedDetector([])).start()
    assert r.show(1.0).people == ()


def test_a_failed_configure_stays_unconfigured_and_can_be_tried_again(rig):
    attempts = []

    def make(settings):
        attempts.append(settings.model)
        if len(attempts) == 1:
            raise ModelError("no model 'x': fetch it")
        return FakeRecognizer()

    r = rig(make_recognizer=make)
    assert not r.change(Transition.TRANSITION_CONFIGURE)
    assert r.state() == State.PRIMARY_STATE_UNCONFIGURED
    assert r.detector.closed, "the half that was made is given back"
    assert r.change(Transition.TRANSITION_CONFIGURE)
    assert r.state() == State.PRIMARY_STATE_INACTIVE


def test_a_stray_lifecycle_request_is_answered_with_no_and_survived(rig):
    r = rig().start()
    assert not r.change(Transition.TRANSITION_CONFIGURE)
    assert not r.change(Transition.TRANSITION_ACTIVATE)
    assert not r.change(99)
    assert r.state() == State.PRIMARY_STATE_ACTIVE
    assert r.show(1.0).stamp_ns == SECOND_NS


def test_deactivating_says_that_nobody_is_followed_and_stops_looking(rig):
    r = rig().start()
    r.show(1.0)
    r.show(1.1)
    assert r.received[-1].people
    before = len(r.received)
    assert r.change(Transition.TRANSITION_DEACTIVATE)
    r.until(lambda: len(r.received) > before and not r.received[-1].people)
    assert r.received[-1].stamp_ns == round(1.1 * SECOND_NS)
    r.until(lambda: r.camera.get_subscription_count() == 0)


def test_cleaning_up_gives_the_models_back_and_a_second_life_works(rig):
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


def test_disabled_means_that_no_frame_is_looked_at(rig):
    r = rig().start()
    r.show(1.0)
    assert r.call(SetBool, "set_enabled", SetBool.Request(data=False)).success
    r.until(lambda: r.camera.get_subscription_count() == 0)
    before = len(r.received)
    r.camera.publish(image_to_msg(frame_at(2.0)))
    r.spin(0.3)
    assert all(not people.people for people in r.received[before:])
    assert r.call(SetBool, "set_enabled", SetBool.Request(data=True)).success
    r.until(lambda: r.camera.get_subscription_count() == 1)
    assert r.show(3.0).stamp_ns == 3 * SECOND_NS


def test_a_live_parameter_takes_effect_and_another_says_when_it_would(rig):
    r = rig().start()
    assert r.set("max_age", 1.5).successful
    assert r.node.settings.max_age == 1.5
    frozen = r.set("recognizer.model", "other")
    assert not frozen.successful
    assert "takes effect at configure" in frozen.reason
    for value in (-1.0, float("nan"), float("inf"), 1e9, "fast"):
        refused = r.set("max_age", value)
        assert not refused.successful, value
        assert refused.reason
    assert r.node.settings.max_age == 1.5


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("max_rate", float("nan"), "max_rate = nan is not a finite number"),
        ("max_rate", -3.0, "max_rate = -3.0 is not allowed"),
        ("max_rate", "fast", "max_rate = 'fast' is of type str, expected float"),
        ("detector.name", "hog", "one of yolo, face"),
        ("recognizer.words", "lists", "only narracap reads it"),
        ("recognizer.leaf", "short", "it is now 'recognizer.answer_format', and 'short' is now"),
    ],
)
def test_a_wrong_parameter_at_start_fails_configure_by_name(
    rig, monkeypatch, name, value, complaint
):
    r = rig(parameters={name: value})
    logged = []
    monkeypatch.setattr(
        type(r.node.get_logger()), "error", lambda self, text, **_: logged.append(text)
    )
    assert not r.change(Transition.TRANSITION_CONFIGURE)
    assert complaint in logged[0]


def test_a_whole_number_at_start_is_taken_for_the_float_it_means(rig):
    r = rig(parameters={"max_rate": 7}).start()
    assert r.node.settings.max_rate == 7.0


def test_images_that_lie_are_counted_and_named_and_the_node_lives(rig):
    r = rig().start()
    r.show(1.0)
    good = image_to_msg(frame_at(2.0, noise_image(8, 8)))
    for lie in (
        {"height": 9}, {"width": 0}, {"step": 3}, {"encoding": "32FC1"},
        {"data": array.array("B")}, {"encoding": ""},
    ):  # fmt: skip
        message = image_to_msg(frame_at(2.0, noise_image(8, 8)))
        for field, value in lie.items():
            setattr(message, field, value)
        r.camera.publish(message)
        r.spin(0.05)
    r.until(lambda: "could not be read" in r.findings.get("camera", (0, ""))[1])
    assert r.findings["camera"][0] == 1
    r.camera.publish(good)
    assert r.show(3.0).stamp_ns == 3 * SECOND_NS


def test_a_clock_that_jumps_back_starts_anew_with_new_ids(rig):
    r = rig().start()
    r.show(100.0)
    assert r.show(100.1).people[0].track.person_id == "p00001"
    r.show(5.0)
    assert r.show(5.1).people[0].track.person_id == "p00002"


def test_a_camera_without_time_stamps_is_told_apart_from_silence(rig):
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


def test_a_slow_model_is_reported_while_frames_go_on(rig):
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
def test_a_failing_model_is_reported_and_asked_again_and_people_stay_pending(rig, error):
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


def test_an_answer_that_arrives_after_deactivation_changes_nothing(rig):
    recognizer = BlockingRecognizer()
    r = rig(recognizer=recognizer).start()
    r.show(1.0)
    r.show(1.1)
    r.until(lambda: recognizer.entered.acquire(blocking=False))
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


def test_an_explanation_is_given_on_request_about_the_newest_image(rig):
    both = ScriptedDetector([ALICE, Box(150, 20, 200, 200)])
    r = rig(detector=both, recognizer=TalkingRecognizer()).start()
    r.show(1.0)
    r.show(1.1)

    def ask(person_id):
        return r.call(Explain, "explain", Explain.Request(person_id=person_id))

    given = ask("p00001")
    assert given.success
    assert given.explanation == "p00001 waves at 1100000000"
    assert given.stamp.nanosec == 100_000_000
    assert ask("p00002").message == "RecognizerError: lost for words"
    absent = ask("p00009")
    assert not absent.success
    assert absent.message == "'p00009' is not in view, but p00001, p00002"
    assert r.show(1.2).people


def test_a_recognizer_without_words_says_so(rig):
    r = rig().start()
    r.show(1.0)
    answer = r.call(Explain, "explain", Explain.Request(person_id="p00001"))
    assert (answer.success, answer.message) == (
        False,
        "this recognizer has no words for what it sees",
    )


def test_an_explanation_that_cleanup_overtakes_is_answered_with_no(rig):
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
    assert answer.result().message == "the model was given back in the meantime"


def test_a_question_after_an_explanation_is_about_the_newest_scene(rig):
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


def test_a_failing_detector_is_reported_and_the_node_lives(rig):
    class Failing(ScriptedDetector):
        error = None

        def detect(self, frame):
            if self.error:
                raise self.error
            return super().detect(frame)

    r = rig(detector=Failing([ALICE])).start()
    r.show(1.0)
    r.detector.error = RuntimeError("CUDA out of memory")
    r.camera.publish(image_to_msg(frame_at(1.1)))
    r.until(lambda: r.findings.get("camera", (0, ""))[0] == 2)
    assert "images: RuntimeError: CUDA out of memory" in r.findings["camera"][1]
    r.detector.error = None
    assert r.show(1.2).stamp_ns == round(1.2 * SECOND_NS)


def test_an_answer_with_too_many_scores_is_a_failure_and_the_node_lives(rig):
    r = rig(recognizer=FakeRecognizer(score=lambda person: (0.5, 0.5, 0.5))).start()
    r.show(1.0)
    r.show(1.1)
    r.until(lambda: "has scores of shape (3,)" in r.findings.get("recognizer", (0, ""))[1])
    assert r.show(1.2).people[0].status is Status.PENDING


def test_no_id_is_used_twice_in_the_life_of_the_node(rig):
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


def test_a_node_that_was_shut_down_stays_so_when_it_is_enabled(rig):
    r = rig().start()
    assert r.change(Transition.TRANSITION_ACTIVE_SHUTDOWN)
    answer = r.call(SetBool, "set_enabled", SetBool.Request(data=True))
    assert answer.message == "no frame is looked at"
    assert r.state() == State.PRIMARY_STATE_FINALIZED


def test_an_activation_that_fails_leaves_the_node_inactive_and_alive(rig):
    r = rig(parameters={"qos_overrides./image.subscription.reliability": "nonsense"})
    assert r.change(Transition.TRANSITION_CONFIGURE)
    assert not r.change(Transition.TRANSITION_ACTIVATE)
    assert r.state() == State.PRIMARY_STATE_INACTIVE
    assert r.call(SetBool, "set_enabled", SetBool.Request(data=True)).success
    assert r.state() == State.PRIMARY_STATE_INACTIVE


def test_the_log_tells_different_troubles_apart_and_does_not_repeat_itself(rig, monkeypatch):
    r = rig().start()
    logged = []
    monkeypatch.setattr(
        type(r.node.get_logger()), "warning", lambda self, text, **_: logged.append(text)
    )
    finding = lambda text: Finding("camera", WARN, text, {})  # noqa: E731
    for text in ("lost 3", "lost 4", "no stamp", "no stamp", "lost 5"):
        r.node._complain(finding(text))
    assert logged == ["camera: lost 3", "camera: no stamp", "camera: lost 5"]


def test_the_debug_image_is_made_only_while_somebody_listens(rig):
    r = rig().start()
    r.show(1.0)
    pictures = []
    quality = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
    r.other.create_subscription(Image, "emotion_node/debug_image", pictures.append, quality)
    r.until(lambda: r.node.count_subscribers("emotion_node/debug_image") == 1)
    seconds = 1.0
    while not pictures:
        r.show(seconds := seconds + 0.1, np.zeros((240, 320, 3), np.uint8))
        assert seconds < 30
    drawn = np.frombuffer(pictures[0].data, np.uint8).reshape(240, 320, 3)
    assert drawn.any(), "boxes are drawn into it"


def test_emotions_are_reliable_and_volatile(rig):
    r = rig().start()
    (info,) = r.other.get_publishers_info_by_topic("emotion_node/emotions")
    assert info.qos_profile.reliability == ReliabilityPolicy.RELIABLE
    assert info.qos_profile.durability == DurabilityPolicy.VOLATILE


def test_every_knob_is_a_parameter_with_description_and_range(rig):
    from emotion_perception.core.settings import SETTINGS

    r = rig()
    for name, setting in SETTINGS.items():
        descriptor = r.node.describe_parameter(name)
        assert setting.description in descriptor.description
        if setting.minimum is not None:
            assert descriptor.floating_point_range or descriptor.integer_range, name
