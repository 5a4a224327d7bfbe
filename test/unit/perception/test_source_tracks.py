"""Ids of another node become person ids that are unique and valid in the name of a topic."""

import re

import numpy as np

from emotion_perception.core.settings import Settings, TrackerSettings
from emotion_perception.core.values import Detections
from emotion_perception.perception.output_checks import checked_detections
from emotion_perception.perception.pipeline import Pipeline
from emotion_perception.perception.source_tracks import SourceTracks
from emotion_perception.testing.fakes import SECOND_NS, FakeRecognizer, ScriptedDetector, frame_at


def detections(*ids, confidence=0.9):
    corners = [(10 * n, 20, 10 * n + 8, 90) for n in range(len(ids))]
    return Detections(
        np.asarray(corners, np.float32).reshape(-1, 4),
        np.full(len(ids), confidence, np.float32),
        ids=ids,
    )


def tracks(**settings):
    return SourceTracks(TrackerSettings(**settings), confidence=0.4)


def ids_of(people):
    return [person.person_id for person in people]


def test_id_of_the_source_is_kept_across_a_gap():
    source = tracks(lost_after=1.0)
    assert ids_of(source.update(detections("b3f"), 0)) == ["p00001_b3f"]
    assert ids_of(source.update(detections("b3f", "7"), SECOND_NS)) == ["p00001_b3f", "p00002_7"]
    assert ids_of(source.update(detections("7"), 5 * SECOND_NS)) == ["p00002_7"]
    assert source.known == {"p00002_7"}
    assert ids_of(source.update(detections("b3f"), 9 * SECOND_NS)) == ["p00001_b3f"]


def test_reset_gives_new_person_ids_because_the_source_may_count_anew():
    source = tracks()
    source.update(detections("1"), 0)
    source.reset()
    assert ids_of(source.update(detections("1"), SECOND_NS)) == ["p00002_1"]


def test_person_ids_are_valid_and_unique_whatever_the_source_sends():
    source = tracks()
    hostile = ("a-b", "a_b", "ü/\n..", "x" * 10_000, "0")
    ids = ids_of(source.update(detections(*hostile), 0))
    assert len(set(ids)) == len(hostile)
    assert all(re.fullmatch(r"p\d{5}_[A-Za-z0-9_]{1,32}", person_id) for person_id in ids)


def test_number_of_ids_that_are_remembered_is_bounded():
    source = tracks(lost_after=0.0)
    for number in range(3000):
        source.update(detections(str(number)), number * SECOND_NS)
    assert len(source._person_ids) == 1000
    assert source.ids_assigned == 3000


def test_box_without_an_id_or_with_a_low_confidence_starts_no_person():
    source = tracks()
    assert source.update(detections(""), 0) == ()
    assert source.update(detections("a", confidence=0.3), 1) == ()
    assert len(source.update(detections("a"), 2)) == 1
    assert len(source.update(detections("a", confidence=0.3), 3)) == 1


def test_second_box_with_the_same_id_is_left_out_and_told():
    kept, fault = checked_detections(detections("a", "", "a", ""), 320, 240)
    assert (kept.ids, fault) == (("a", "", ""), "the id 'a' occurs twice")


def test_pipeline_keeps_the_ids_of_a_source_from_the_first_frame():
    class Source(ScriptedDetector):
        def detect(self, frame):
            return detections("b3f")

    settings = Settings.from_dict({"detector.name": "topic"})
    pipeline = Pipeline(Source([]), FakeRecognizer(), settings)
    (person,) = pipeline.on_frame(frame_at(1.0)).people
    assert person.track.person_id == "p00001_b3f"
    pipeline.reset()
    (person,) = pipeline.on_frame(frame_at(9.0)).people
    assert person.track.person_id == "p00002_b3f"
