"""Visible changes of people and their surroundings on drawn clips with a noisy camera."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from emotion_perception import toy_world
from emotion_perception.core.values import Box, Frame, Scene, Track
from emotion_perception.perception.change import LASTS_NS, ChangeDetector
from emotion_perception.toy_world import characters, stills

THRESHOLD = 10.0
STEP_NS = 10**8


def with_jitter(scene, random):
    """Return a scene with boxes as a detector gives them, a pixel or two aside."""
    boxes = [Box(*(np.array(p.box) + random.normal(0, 1.5, 4))) for p in scene.people]
    people = (replace(p, box=box) for p, box in zip(scene.people, boxes, strict=True))
    return Scene(scene.frame, tuple(people))


@pytest.mark.parametrize(
    ("seed", "head"),
    [(0, characters.HEAD), (4, characters.HEAD), (2, 0.075)],
    ids=["office", "park", "heads of real proportions"],
)
def test_swaying_people_do_not_change_until_one_gets_another_face(monkeypatch, seed, head):
    """The camera has noise and no steady exposure, the detector no steady boxes."""
    monkeypatch.setattr(characters, "HEAD", head)
    monkeypatch.setattr(stills, "HEAD", head)
    random, detector, first_change = np.random.default_rng(0), ChangeDetector(), {}
    clip = list(toy_world.draw_still_clip(seed, 5.0, 10.0))
    for drawn in clip:
        scene = with_jitter(drawn.scene(), random)
        if drawn is clip[0]:
            detector.ask(scene, scene.people)
        for person_id in detector.see(scene, scene.people, THRESHOLD):
            first_change.setdefault(person_id, drawn.stamp_ns)
    changed = {
        f"p{new.number:05d}": b.stamp_ns
        for a, b in itertools.pairwise(clip)
        for old, new in zip(a.people, b.people, strict=True)
        if old.face != new.face
    }
    assert len(changed) == 1
    assert first_change == {i: at_ns + LASTS_NS for i, at_ns in changed.items()}


def grey_scene(stamp_ns, *patches, size=(320, 240), people=(), gain=1.0):
    """Return a scene of a smooth image with a light patch in each of the boxes."""
    x, y = np.meshgrid(np.linspace(0, 6, size[0]), np.linspace(0, 5, size[1]))
    grey = 110 + 50 * np.sin(x) * np.cos(y)
    for patch in patches:
        grey[patch.pixels(*size)] += 70
    image = np.clip(gain * grey, 0, 255).astype(np.uint8)[..., None].repeat(3, axis=2)
    return Scene(Frame(image, stamp_ns, "camera"), tuple(people))


ALICE = Track("p00001", Box(20, 40, 100, 230), 0.9)
BOB = Track("p00002", Box(200, 40, 280, 230), 0.9)
PEOPLE = (ALICE, BOB)
HAND = Box(30, 120, 60, 150)
LAMP = Box(120, 20, 180, 70)


def changed_after(*scenes, people=PEOPLE):
    """Return who has changed in the last scene, when all are asked about in the first."""
    detector, changed = ChangeDetector(), None
    for number, scene in enumerate(scenes):
        scene = Scene(replace(scene.frame, stamp_ns=number * STEP_NS), scene.people)
        if not number:
            detector.ask(scene, people)
        changed = detector.see(scene, people, THRESHOLD)
    return changed


BEFORE = grey_scene(0, people=PEOPLE)


def test_change_of_a_person_is_not_a_change_of_others():
    raised = grey_scene(0, HAND, people=PEOPLE)
    assert changed_after(BEFORE, *[raised] * 4) == {ALICE.person_id}


def test_change_of_the_surroundings_is_a_change_of_all_people():
    switched_on = grey_scene(0, LAMP, people=PEOPLE)
    assert changed_after(BEFORE, *[switched_on] * 4) == {p.person_id for p in PEOPLE}


def test_blink_is_not_a_change():
    raised = grey_scene(0, HAND, people=PEOPLE)
    assert changed_after(BEFORE, *[raised] * 3) == set()
    assert changed_after(BEFORE, *[raised] * 3, BEFORE, *[raised] * 3) == set()


@pytest.mark.parametrize("gain", [0.7, 1.4])
def test_exposure_is_not_a_change(gain):
    assert changed_after(BEFORE, *[grey_scene(0, people=PEOPLE, gain=gain)] * 4) == set()


def test_small_change_counts_in_the_box_of_a_face():
    mouth = grey_scene(0, Box(56, 62, 66, 65), people=PEOPLE)
    with_face = (replace(ALICE, face=Box(48, 45, 74, 75)), BOB)
    assert changed_after(BEFORE, *[mouth] * 4) == set()
    assert changed_after(BEFORE, *[mouth] * 4, people=with_face) == {ALICE.person_id}


def test_person_who_moves_or_an_image_of_another_size_is_a_change():
    detector = ChangeDetector()
    detector.ask(BEFORE, PEOPLE)
    walked = replace(ALICE, box=Box(60, 40, 140, 230))
    smaller = grey_scene(0, people=PEOPLE, size=(160, 240))
    for scene, people, expected in (
        (BEFORE, (walked, BOB), {ALICE.person_id}),
        (smaller, PEOPLE, {p.person_id for p in PEOPLE}),
    ):
        for step in (1, 5):
            later = Scene(replace(scene.frame, stamp_ns=step * STEP_NS), people)
            changed = detector.see(later, people, THRESHOLD)
        assert changed == expected


def test_people_who_were_not_asked_about_or_are_forgotten_count_as_changed():
    detector = ChangeDetector()
    detector.ask(BEFORE, PEOPLE)
    assert detector.see(BEFORE, (*PEOPLE, replace(BOB, person_id="p00003")), 10.0) == {"p00003"}
    detector.retain([BOB.person_id])
    assert detector.see(BEFORE, PEOPLE, 10.0) == {ALICE.person_id}
    detector.reset()
    assert detector.see(BEFORE, PEOPLE, 10.0) == {p.person_id for p in PEOPLE}
