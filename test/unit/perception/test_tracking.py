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


def tracker(**settings):
    return Tracker(TrackerSettings(**settings), confidence=0.4)


def see(tracker, seconds, *boxes, confidence=STRONG):
    """The ids in a frame at that time that shows these boxes."""
    found = Detections.from_lists(boxes, [confidence] * len(boxes))
    return [person.person_id for person in tracker.update(found, round(seconds * SECOND))]


def walking(x, top=50):
    return (x, top, x + 80, top + 240)


def test_a_detection_becomes_a_person_in_its_second_frame():
    people = tracker(confirm_frames=2)
    assert see(people, 0.0, STANDING) == []
    assert see(people, 0.1, STANDING) == ["p00001"]


def test_a_person_who_walks_through_the_picture_keeps_the_id():
    people = tracker()
    ids = [see(people, i / 15, walking(10 * i)) for i in range(50)]
    assert ids == [[]] + [["p00001"]] * 49


def test_boxes_come_back_as_they_were_detected():
    people = tracker()
    see(people, 0.0, STANDING)
    (person,) = people.update(Detections.from_lists([(101, 51, 181, 291)], [0.75]), SECOND // 10)
    assert person.box == (101, 51, 181, 291)
    assert person.confidence == 0.75


def test_two_people_who_pass_each_other_keep_their_ids():
    people = tracker()
    places = {}
    for i in range(60):
        right_bound, left_bound = walking(20 + 10 * i, top=40), walking(620 - 10 * i, top=70)
        boxes = Detections.from_lists([right_bound, left_bound], [STRONG, STRONG])
        for person in people.update(boxes, i * SECOND // 20):
            places.setdefault(person.person_id, []).append(person.box)
    assert sorted(places) == ["p00001", "p00002"]
    for boxes in places.values():
        assert len({box.top for box in boxes}) == 1, "a person took over the other's box"


@pytest.mark.parametrize("rate", [1, 5, 30])
def test_in_an_empty_room_people_age_by_the_clock_and_not_by_frames(rate):
    people = tracker(lost_after=1.5)
    see(people, 0.0, STANDING)
    see(people, 0.1, STANDING)
    known_at = {}
    for i in range(1, 3 * rate + 1):
        assert see(people, 0.1 + i / rate) == []
        known_at[i / rate] = bool(people.known)
    patience = max(1.5, 2 / rate)
    assert all(known == (age <= patience) for age, known in known_at.items())


def test_somebody_out_of_sight_for_a_moment_comes_back_as_the_same_person():
    people = tracker(lost_after=1.5)
    for i in range(5):
        see(people, i / 10, STANDING)
    for i in range(5, 15):
        assert see(people, i / 10) == []
    assert people.known == {"p00001"}
    assert see(people, 1.5, STANDING) == ["p00001"]


def test_whoever_comes_after_lost_after_is_somebody_new():
    people = tracker(lost_after=1.5)
    see(people, 0.0, STANDING)
    assert see(people, 0.1, STANDING) == ["p00001"]
    see(people, 2.0)
    see(people, 2.1, STANDING)
    assert see(people, 2.2, STANDING) == ["p00002"]


def test_one_long_pause_of_the_camera_loses_everybody():
    people = tracker(lost_after=1.5)
    see(people, 0.0, STANDING)
    see(people, 0.1, STANDING)
    see(people, 60.0, STANDING)
    assert see(people, 60.1, STANDING) == ["p00002"]
    assert people.known == {"p00002"}


def test_an_id_is_never_used_twice_after_a_reset():
    people = tracker()
    see(people, 10.0, STANDING)
    assert see(people, 10.1, STANDING) == ["p00001"]
    people.reset()
    assert people.known == frozenset()
    see(people, 0.0, STANDING)
    assert see(people, 0.1, STANDING) == ["p00002"]


def test_weak_boxes_never_start_a_person():
    people = tracker()
    for i in range(20):
        assert see(people, i / 10, STANDING, confidence=WEAK) == []
    assert people.known == frozenset()


def test_weak_boxes_keep_somebody_who_is_followed():
    people = tracker(lost_after=0.5)
    see(people, 0.0, STANDING)
    assert see(people, 0.1, STANDING) == ["p00001"]
    for i in range(2, 30):
        assert see(people, i / 10, STANDING, confidence=WEAK) == ["p00001"]


def test_a_person_keeps_the_id_at_an_irregular_frame_rate():
    people = tracker()
    stamps = np.cumsum(np.random.default_rng(0).uniform(0.02, 0.4, 60))
    ids = [see(people, t, walking(60 * t)) for t in stamps]
    assert ids == [[]] + [["p00001"]] * 59


def test_stamps_of_a_real_clock_are_as_good_as_small_ones():
    people = tracker()
    epoch = 1_790_000_000.0
    ids = [see(people, epoch + i / 30, walking(5 * i)) for i in range(60)]
    assert ids == [[]] + [["p00001"]] * 59


def test_people_are_sorted_by_id():
    people = tracker()
    boxes = [walking(500), walking(20), walking(260)]
    see(people, 0.0, *boxes)
    assert see(people, 0.1, *boxes[::-1]) == ["p00001", "p00002", "p00003"]


@pytest.mark.parametrize(("lost_after", "period"), [(1.5, 2.0), (0.0, 0.1)])
def test_a_camera_slower_than_lost_after_still_shows_people(lost_after, period):
    people = tracker(lost_after=lost_after)
    seen = [see(people, i * period, STANDING) for i in range(6)]
    assert seen[3:] == [seen[3]] * 3
    assert seen[3]


def test_one_pause_of_the_camera_is_no_licence_to_keep_people():
    people = tracker(lost_after=1.5)
    for step in range(5):
        before = see(people, step / 10, STANDING)
    see(people, 10.5, STANDING)
    assert before == ["p00001"]
    assert see(people, 10.6, STANDING) == ["p00002"]
