import numpy as np
import pytest

pytest.importorskip("trackers")
pytest.importorskip("supervision")

from emotion_perception.core.settings import TrackerSettings
from emotion_perception.core.values import Detections
from emotion_perception.perception.tracking import Tracker

SECOND = 10**9
STRONG, WEAK = 0.9, 0.15
STANDING = (100, 50, 180, 290)


def make_tracker(**settings):
    return Tracker(TrackerSettings(**settings), confidence=0.4)


def ids_in(tracker, seconds, *boxes, confidence=STRONG):
    """The ids in a frame at that time that shows these boxes."""
    detections = Detections.from_lists(boxes, [confidence] * len(boxes))
    return [person.person_id for person in tracker.update(detections, round(seconds * SECOND))]


def walking(x, top=50):
    return (x, top, x + 80, top + 240)


def test_track_starts_at_the_second_detection():
    tracker = make_tracker(confirm_frames=2)
    assert ids_in(tracker, 0.0, STANDING) == []
    assert ids_in(tracker, 0.1, STANDING) == ["p00001"]


def test_walking_person_keeps_the_id():
    tracker = make_tracker()
    ids = [ids_in(tracker, i / 15, walking(10 * i)) for i in range(50)]
    assert ids == [[]] + [["p00001"]] * 49


def test_track_has_the_detected_box_and_confidence():
    tracker = make_tracker()
    ids_in(tracker, 0.0, STANDING)
    (person,) = tracker.update(Detections.from_lists([(101, 51, 181, 291)], [0.75]), SECOND // 10)
    assert person.box == (101, 51, 181, 291)
    assert person.confidence == 0.75


def test_crossing_people_keep_their_ids():
    tracker = make_tracker()
    places = {}
    for i in range(60):
        right_bound, left_bound = walking(20 + 10 * i, top=40), walking(620 - 10 * i, top=70)
        boxes = Detections.from_lists([right_bound, left_bound], [STRONG, STRONG])
        for person in tracker.update(boxes, i * SECOND // 20):
            places.setdefault(person.person_id, []).append(person.box)
    assert sorted(places) == ["p00001", "p00002"]
    for boxes in places.values():
        assert len({box.top for box in boxes}) == 1, "two tracks swapped their boxes"


@pytest.mark.parametrize("rate", [1, 5, 30])
def test_tracks_without_detections_end_by_time_not_by_frames(rate):
    tracker = make_tracker(lost_after=1.5)
    ids_in(tracker, 0.0, STANDING)
    ids_in(tracker, 0.1, STANDING)
    known_at = {}
    for i in range(1, 3 * rate + 1):
        assert ids_in(tracker, 0.1 + i / rate) == []
        known_at[i / rate] = bool(tracker.known)
    limit = max(1.5, 2 / rate)
    assert all(known == (age <= limit) for age, known in known_at.items())


def test_track_continues_after_a_short_gap():
    tracker = make_tracker(lost_after=1.5)
    for i in range(5):
        ids_in(tracker, i / 10, STANDING)
    for i in range(5, 15):
        assert ids_in(tracker, i / 10) == []
    assert tracker.known == {"p00001"}
    assert ids_in(tracker, 1.5, STANDING) == ["p00001"]


def test_person_after_lost_after_gets_a_new_id():
    tracker = make_tracker(lost_after=1.5)
    ids_in(tracker, 0.0, STANDING)
    assert ids_in(tracker, 0.1, STANDING) == ["p00001"]
    ids_in(tracker, 2.0)
    ids_in(tracker, 2.1, STANDING)
    assert ids_in(tracker, 2.2, STANDING) == ["p00002"]


def test_long_pause_of_the_camera_ends_all_tracks():
    tracker = make_tracker(lost_after=1.5)
    ids_in(tracker, 0.0, STANDING)
    ids_in(tracker, 0.1, STANDING)
    ids_in(tracker, 60.0, STANDING)
    assert ids_in(tracker, 60.1, STANDING) == ["p00002"]
    assert tracker.known == {"p00002"}


def test_no_id_is_reused_after_a_reset():
    tracker = make_tracker()
    ids_in(tracker, 10.0, STANDING)
    assert ids_in(tracker, 10.1, STANDING) == ["p00001"]
    tracker.reset()
    assert tracker.known == frozenset()
    ids_in(tracker, 0.0, STANDING)
    assert ids_in(tracker, 0.1, STANDING) == ["p00002"]


def test_weak_detections_start_no_track():
    tracker = make_tracker()
    for i in range(20):
        assert ids_in(tracker, i / 10, STANDING, confidence=WEAK) == []
    assert tracker.known == frozenset()


def test_weak_detections_extend_a_track():
    tracker = make_tracker(lost_after=0.5)
    ids_in(tracker, 0.0, STANDING)
    assert ids_in(tracker, 0.1, STANDING) == ["p00001"]
    for i in range(2, 30):
        assert ids_in(tracker, i / 10, STANDING, confidence=WEAK) == ["p00001"]


def test_person_keeps_the_id_at_an_irregular_frame_rate():
    tracker = make_tracker()
    stamps = np.cumsum(np.random.default_rng(0).uniform(0.02, 0.4, 60))
    ids = [ids_in(tracker, t, walking(60 * t)) for t in stamps]
    assert ids == [[]] + [["p00001"]] * 59


def test_large_stamps_of_a_real_clock_work():
    tracker = make_tracker()
    epoch = 1_790_000_000.0
    ids = [ids_in(tracker, epoch + i / 30, walking(5 * i)) for i in range(60)]
    assert ids == [[]] + [["p00001"]] * 59


def test_people_are_sorted_by_id():
    tracker = make_tracker()
    boxes = [walking(500), walking(20), walking(260)]
    ids_in(tracker, 0.0, *boxes)
    assert ids_in(tracker, 0.1, *boxes[::-1]) == ["p00001", "p00002", "p00003"]


@pytest.mark.parametrize(("lost_after", "period"), [(1.5, 2.0), (0.0, 0.1)])
def test_camera_slower_than_lost_after_keeps_tracks(lost_after, period):
    tracker = make_tracker(lost_after=lost_after)
    seen = [ids_in(tracker, i * period, STANDING) for i in range(6)]
    assert seen[3:] == [seen[3]] * 3
    assert seen[3]


def test_one_pause_of_the_camera_does_not_prolong_tracks():
    tracker = make_tracker(lost_after=1.5)
    for step in range(5):
        before = ids_in(tracker, step / 10, STANDING)
    ids_in(tracker, 10.5, STANDING)
    assert before == ["p00001"]
    assert ids_in(tracker, 10.6, STANDING) == ["p00002"]
