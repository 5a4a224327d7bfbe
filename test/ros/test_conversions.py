"""Estimates and frames survive serialisation and conversion in both directions."""

import json
import math
import re
import sys
import types
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("emotion_perception_msgs")

from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CompressedImage, Image

from emotion_perception.core.errors import FrameError
from emotion_perception.core.labels import EMOTIC_LABELS
from emotion_perception.core.values import Box, Estimate, PeopleEstimate, Status, Track, Vad
from emotion_perception.io import image_decoding
from emotion_perception.io.json_codec import people_from_json, people_to_json
from emotion_perception.ros import conversions
from emotion_perception.testing.fakes import frame_at, noise_image
from emotion_perception_msgs.msg import PersonEmotionArray

pytestmark = pytest.mark.ros

ASSESSED = Estimate(
    Track("p00001", Box(10.4, 20.6, 60.2, 199.9), 0.75, (0.5, -0.25, 2.0)),
    Status.ASSESSED,
    assessed_ns=12 * 10**9 + 5,
    label="joy",
    confidence=0.8125,
    active=("joy", "calm"),
    scores=np.array([0.8125, 0.0625, 0.5]),
    raw_scores=np.array([1.0, 0.0, 0.25]),
    vad=Vad(0.5, -0.25, 1.0),
    rationale="waves at a friend",
)
ABSTAINED = Estimate(Track("p00002", Box(0, 0, 5, 5), 0.5), Status.ABSTAINED, "too small", 7)
PEOPLE = PeopleEstimate(
    13 * 10**9 + 1, "optical", 640, 480, "vlm:x", "emotic", ("joy", "anger", "calm"),
    (ASSESSED, ABSTAINED),
)  # fmt: skip


def over_the_wire(message):
    return deserialize_message(serialize_message(message), type(message))


def test_message_round_trip_keeps_all_people():
    back = conversions.people_from_msg(over_the_wire(conversions.people_to_msg(PEOPLE)))
    assert people_to_json(back)["people"][1] == people_to_json(PEOPLE)["people"][1]
    one, first = people_to_json(back), people_to_json(PEOPLE)
    first["people"][0]["box"] = [10, 20, 61, 200]  # the message has whole pixels, all it touches
    assert one == first


@pytest.mark.parametrize("number", [0, 1, 8])
def test_documented_size_of_a_message_is_its_size_on_the_wire(number):
    scores = np.full(len(EMOTIC_LABELS), 0.5)
    estimate = replace(
        ASSESSED, label="happiness", active=("happiness", "engagement"), scores=scores,
        raw_scores=scores, rationale="",
    )  # fmt: skip
    people = replace(
        PEOPLE,
        camera="camera_optical_frame",
        model="vlm:Qwen/Qwen3-VL-2B-Instruct",
        calibration="platt:01234567",
        labels=EMOTIC_LABELS,
        thresholds=scores,
        run_id="20261130T120000.000000Z-12345",
        people=(estimate,) * number,
    )
    page = Path(__file__).parents[2] / "docs" / "reference" / "messages.md"
    (documented,) = re.findall(rf"^\| {number} \| (\d+) \|", page.read_text(), re.MULTILINE)
    assert len(serialize_message(conversions.people_to_msg(people))) == int(documented)


def test_region_of_interest_encloses_the_box():
    roi = conversions.people_to_msg(PEOPLE).people[0].roi
    assert (roi.x_offset, roi.y_offset, roi.width, roi.height) == (10, 20, 51, 180)


def test_box_outside_the_image_is_clipped():
    outside = Estimate(Track("p00003", Box(-20, 400, 700, 900), 0.5), Status.PENDING)
    people = PeopleEstimate(0, "", 640, 480, "", "", (), (outside,))
    roi = conversions.people_to_msg(people).people[0].roi
    assert (roi.x_offset, roi.y_offset, roi.width, roi.height) == (0, 400, 640, 80)


def test_status_numbers_are_those_of_the_message():
    message = conversions.people_to_msg(PEOPLE).people[0]
    for status in Status:
        assert getattr(message, status.name) == status


def test_unknown_values_are_nan_in_the_message_and_null_in_json():
    person = over_the_wire(conversions.people_to_msg(PEOPLE)).people[1]
    assert math.isnan(person.valence)
    assert math.isnan(person.confidence)
    assert math.isnan(person.position.z)
    record = json.loads(json.dumps(people_to_json(PEOPLE), allow_nan=False))["people"][1]
    assert record["valence"] is None
    assert record["position"] == [None, None, None]
    assert record["status"] == "ABSTAINED"


def test_json_round_trip_keeps_all_values():
    record = people_to_json(PEOPLE)
    assert people_to_json(people_from_json(json.loads(json.dumps(record)))) == record


def test_json_has_each_field_of_the_message():
    person = set(people_to_json(PEOPLE)["people"][0])
    fields = set(conversions.people_to_msg(PEOPLE).people[0].get_fields_and_field_types())
    assert fields - person == {"roi", "assessed_stamp"}  # as box, as assessed_ns
    whole = set(PersonEmotionArray.get_fields_and_field_types())
    assert whole - set(people_to_json(PEOPLE)) == {"header"}  # as stamp_ns and frame_id


def test_frame_round_trip_through_an_image_message():
    frame = frame_at(3.5, noise_image(33, 17))
    raw = serialize_message(conversions.image_to_msg(frame))
    back = image_decoding.frame_from_image(image_decoding.deserialize(raw, image_decoding.IMAGE))
    assert np.array_equal(back.image, frame.image)
    assert (back.stamp_ns, back.camera) == (frame.stamp_ns, frame.camera)
    assert deserialize_message(raw, Image).encoding == "rgb8"


def test_encoding_of_cv_bridge_is_decoded_by_it(monkeypatch):
    message = conversions.image_to_msg(frame_at(3.5, noise_image(4, 2)))
    message.encoding = "rgb16"

    class Bridge:  # in the place of the apt package, which is not on PyPI
        def imgmsg_to_cv2(self, message, encoding):
            assert (message.encoding, encoding) == ("rgb16", "rgb8")
            return np.full((2, 4, 3), 7, np.uint8)

    stub = types.SimpleNamespace(CvBridge=Bridge, CvBridgeError=ValueError)
    monkeypatch.setitem(sys.modules, "cv_bridge", stub)
    frame = conversions.frame_by_cv_bridge(serialize_message(message))
    assert (frame.stamp_ns, frame.camera) == (3_500_000_000, "camera")
    assert (frame.image == 7).all()


@pytest.mark.parametrize("error", [TypeError, MemoryError, RuntimeError, cv2.error, KeyError])
def test_every_error_of_cv_bridge_is_a_frame_error(monkeypatch, error):
    class Bridge:
        def imgmsg_to_cv2(self, message, encoding):
            raise error("too short")

    monkeypatch.setitem(sys.modules, "cv_bridge", types.SimpleNamespace(CvBridge=Bridge))
    message = conversions.image_to_msg(frame_at(3.5, noise_image(4, 2)))
    with pytest.raises(FrameError, match=f"cv_bridge cannot read it: {error.__name__}"):
        conversions.frame_by_cv_bridge(serialize_message(message))


@pytest.mark.parametrize("image", [np.zeros((2, 4), np.uint8), np.zeros((2, 4, 3)), None])
def test_other_answer_of_cv_bridge_is_a_frame_error(monkeypatch, image):
    class Bridge:
        def imgmsg_to_cv2(self, message, encoding):
            return image

    monkeypatch.setitem(sys.modules, "cv_bridge", types.SimpleNamespace(CvBridge=Bridge))
    message = conversions.image_to_msg(frame_at(3.5, noise_image(4, 2)))
    with pytest.raises(FrameError, match="cv_bridge cannot read it: it returned"):
        conversions.frame_by_cv_bridge(serialize_message(message))


def test_frame_round_trip_through_a_compressed_message():
    image = np.full((40, 60, 3), (200, 30, 90), np.uint8)
    raw = serialize_message(conversions.compressed_to_msg(frame_at(1.0, image)))
    back = image_decoding.frame_from_compressed(
        image_decoding.deserialize(raw, image_decoding.COMPRESSED_IMAGE)
    )
    assert np.abs(back.image.astype(int) - image).max() < 6
    assert "jpeg" in deserialize_message(raw, CompressedImage).format
