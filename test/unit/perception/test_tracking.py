import numpy as np
import pytest

pytest.importorskip("trackers")
pytest.importorskip("supervision")

from emotion_perception.core.settings import TrackerSettings
from emotion_perception.core.values import Detections
from emotion_perception.perception import tracking
from emotion_perception.perception.tracking import Tracker

SECOND = 10**9
GREY, SKIN = (150, 150, 150), (220, 180, 150)
RED, GREEN = ((200, 40, 40), (40, 60, 190)), ((40, 160, 60), (25, 25, 30))
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


def scene(*people):
    """An image of people in the order of their distance, each a box with torso and legs colours."""
    image = np.empty((360, 900, 3), np.uint8)
    image[:] = GREY
    for (left, top, right, bottom), (torso, legs) in people:
        rows = np.linspace(top, bottom, 6).astype(int)
        columns = slice(int(left + (right - left) / 5), int(right - (right - left) / 5))
        image[rows[0] : rows[1], columns] = SKIN
        image[rows[1] : rows[3], columns] = torso
        image[rows[3] : rows[5], columns] = legs
    return image


def ids_at(tracker, seconds, *people, hidden=()):
    """The ids in a drawn frame, by the colours of the people; those in `hidden` are drawn only."""
    shown = [person for person in people if person not in hidden]
    boxes = Detections.from_lists([box for box, _ in shown], [STRONG] * len(shown))
    tracks = tracker.update(boxes, round(seconds * SECOND), scene(*people))
    ids = {track.box: track.person_id for track in tracks}
    return {look: ids[box] for box, look in shown if box in ids}


def stand(tracker, start, end, *people):
    """The ids of people who stand still, in the last frame."""
    for seconds in np.arange(start, end, 0.1):
        ids = ids_at(tracker, seconds, *people)
    return ids


@pytest.mark.parametrize(("remember", "ids_per_person"), [(10.0, 1), (0.0, 2)])
def test_people_who_meet_behind_a_pillar_and_turn_round_keep_their_ids(remember, ids_per_person):
    """By their places alone they have gone past each other."""
    tracker, ids = make_tracker(remember=remember), {RED: set(), GREEN: set()}
    for i in range(60):
        distance = abs(30 - i) * 5 - 15
        people = (walking(410 + distance), RED), (walking(400 - distance), GREEN)
        hidden = people if 26 <= i <= 34 else ()
        for look, person_id in ids_at(tracker, i / 20, *people, hidden=hidden).items():
            ids[look].add(person_id)
    assert len(ids[RED]) == len(ids[GREEN]) == ids_per_person
    assert len(ids[RED] | ids[GREEN]) == 2


def test_two_people_who_swap_places_unseen_keep_their_ids():
    tracker = make_tracker()
    before = stand(tracker, 0.0, 1.0, (walking(100), RED), (walking(250), GREEN))
    stand(tracker, 1.0, 1.5)
    after = stand(tracker, 1.5, 2.5, (walking(250), RED), (walking(100), GREEN))
    assert before == after == {RED: "p00001", GREEN: "p00002"}


@pytest.mark.parametrize(
    ("remember", "away", "expected"),
    [(10.0, 8.0, "p00001"), (10.0, 11.0, "p00002"), (0.0, 8.0, "p00002")],
)
def test_person_who_comes_back_within_remember_gets_the_same_id(remember, away, expected):
    tracker = make_tracker(remember=remember)
    assert stand(tracker, 0.0, 1.0, (walking(100), RED)) == {RED: "p00001"}
    stand(tracker, 1.0, 1.0 + away)
    assert tracker.known == ({"p00001"} if expected == "p00001" else set())
    assert stand(tracker, 1.0 + away, 2.0 + away, (walking(300), RED)) == {RED: expected}
    assert tracker.known == {expected}


def test_other_person_at_the_same_place_gets_a_new_id():
    tracker = make_tracker()
    stand(tracker, 0.0, 1.0, (walking(100), RED))
    stand(tracker, 1.0, 3.0)
    assert stand(tracker, 3.0, 4.0, (walking(100), GREEN)) == {GREEN: "p00002"}


def test_other_person_in_the_predicted_box_does_not_take_over_the_track():
    tracker = make_tracker()
    stand(tracker, 0.0, 1.0, (walking(100), RED))
    assert stand(tracker, 1.0, 1.5, (walking(100), GREEN)) == {GREEN: "p00002"}


def test_one_of_two_lost_people_in_the_same_clothes_gets_a_new_id():
    tracker = make_tracker()
    stand(tracker, 0.0, 1.0, (walking(100), RED), (walking(300), RED))
    assert tracker.known == {"p00001", "p00002"}
    stand(tracker, 1.0, 4.0)
    assert stand(tracker, 4.0, 5.0, (walking(200), RED)) == {RED: "p00003"}


def test_person_who_looks_the_same_but_cannot_have_walked_there_gets_a_new_id():
    tracker = make_tracker()
    stand(tracker, 0.0, 1.0, (walking(20), RED))
    ids_at(tracker, 1.0)
    assert stand(tracker, 1.1, 2.0, (walking(800), RED)) == {RED: "p00002"}


def test_person_of_another_size_gets_a_new_id():
    tracker = make_tracker()
    stand(tracker, 0.0, 1.0, ((100, 50, 180, 290), RED))
    stand(tracker, 1.0, 4.0)
    assert stand(tracker, 4.0, 5.0, ((120, 200, 150, 290), RED)) == {RED: "p00002"}


def test_lost_person_in_front_of_whom_another_stands_waits_for_a_better_view():
    tracker, front = make_tracker(), (walking(120, 60), GREEN)
    behind = (walking(100), RED)
    stand(tracker, 0.0, 1.0, behind)
    stand(tracker, 1.0, 3.0)
    stand(tracker, 3.0, 4.0, front)
    almost_hidden = (walking(125), RED)
    assert stand(tracker, 4.0, 4.35, almost_hidden, front) == {GREEN: "p00002"}
    assert stand(tracker, 4.35, 4.7, (walking(20), RED), front) == {GREEN: "p00002", RED: "p00001"}


def test_hidden_person_waits_half_a_second_at_most():
    tracker, front = make_tracker(), (walking(120, 60), GREEN)
    stand(tracker, 0.0, 1.0, (walking(100), RED))
    stand(tracker, 1.0, 3.0, front)
    seen = [RED in ids_at(tracker, 3 + i / 10, (walking(125), RED), front) for i in range(10)]
    assert seen == [False] * 6 + [True] * 4
    assert tracker.ids_assigned == 3


def test_reset_forgets_lost_people():
    tracker = make_tracker()
    stand(tracker, 0.0, 1.0, (walking(100), RED))
    stand(tracker, 1.0, 3.0)
    tracker.reset()
    assert tracker.known == frozenset()
    assert stand(tracker, 0.0, 1.0, (walking(100), RED)) == {RED: "p00002"}


def test_number_of_lost_people_is_bounded_and_the_newest_are_kept(monkeypatch):
    monkeypatch.setattr(tracking, "_MAX_LOST", 2)
    tracker = make_tracker(lost_after=0.0)
    colours = [(0, 0, 0), (250, 250, 250), *RED, *GREEN]
    for i, colour in enumerate(colours):
        stand(tracker, i, i + 0.3, (walking(100), (colour, colour)))
        ids_at(tracker, i + 0.4)
    assert tracker.ids_assigned == len(colours)
    assert tracker.known == {"p00005", "p00006"}
