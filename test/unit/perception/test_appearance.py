import numpy as np
import pytest

from emotion_perception.core.values import Box
from emotion_perception.perception.appearance import describe

RED, GREEN, BLUE, BLACK, SKIN = (
    (200, 40, 40), (40, 160, 60), (40, 60, 190), (25, 25, 30), (220, 180, 150)
)  # fmt: skip
GREY, GRASS = (150, 150, 150), (90, 120, 70)
STANDING = Box(40, 30, 120, 270)


def drawing(*people, background=GREY, size=(640, 360)):
    """An image of people, each a box with the colours of torso and legs, the last in front."""
    image = np.empty((size[1], size[0], 3), np.uint8)
    image[:] = background
    for box, torso, legs in people:
        left, width = box.left + box.width / 4, box.width / 2
        tops = [box.top, box.top + box.height * 0.2, box.top + box.height * 0.6, box.bottom]
        for colour, top, bottom in zip((SKIN, torso, legs), tops, tops[1:], strict=False):
            image[Box(left, top, left + width, bottom).pixels(*size)] = colour
    noise = np.random.default_rng(0).integers(-8, 9, image.shape)
    return np.clip(image.astype(int) + noise, 0, 255).astype(np.uint8)


def look(box, torso, legs, **options):
    """The appearance of a person who is alone in the image."""
    return describe(drawing((box, torso, legs), **options), [box])[0]


def test_same_clothes_are_similar_in_another_size_place_and_background():
    first = look(STANDING, RED, BLUE)
    second = look(Box(300, 60, 350, 200), RED, BLUE, background=GRASS)
    assert first.similarity(second) > 0.8


@pytest.mark.parametrize(("torso", "legs"), [(GREEN, BLUE), (RED, BLACK), (BLUE, RED)])
def test_other_clothes_are_less_similar_than_another_view(torso, legs):
    first, other = look(STANDING, RED, BLUE), look(STANDING, torso, legs)
    assert first.similarity(other) < 0.7


def test_pixels_of_a_nearer_person_do_not_count():
    behind, front = STANDING, Box(75, 60, 155, 330)
    image = drawing((behind, RED, BLUE), (front, GREEN, BLACK))
    hidden, nearer = describe(image, [behind, front])
    assert 0.4 < hidden.visible.mean() < 0.95
    assert nearer.visible.min() == pytest.approx(1.0)
    assert hidden.similarity(look(STANDING, RED, BLUE)) > 0.9


def test_person_whose_feet_are_below_the_image_is_hidden_by_a_taller_one():
    small, tall = Box(40, 160, 160, 360), Box(90, 60, 260, 360)
    image = drawing((small, RED, BLUE), (tall, GREEN, BLACK))
    for order in (1, -1):
        boxes = [small, tall][::order]
        looks = dict(zip(boxes, describe(image, boxes), strict=True))
        assert looks[tall].visible.min() == pytest.approx(1.0)
        assert looks[small].visible.mean() < 0.8


@pytest.mark.parametrize("box", [Box(700, 0, 800, 300), Box(50, 50, 50, 90), STANDING])
def test_people_of_whom_too_little_is_visible_cannot_be_compared(box):
    cover = Box(0, 0, 640, 360)
    hidden = describe(drawing((STANDING, RED, BLUE)), [box, cover])[0]
    assert hidden.similarity(look(STANDING, RED, BLUE)) is None


def test_grey_images_tell_dark_clothes_from_light_ones():
    dark, light = (look(STANDING, (c, c, c), (c, c, c)) for c in (40, 230))
    also_dark = look(Box(300, 60, 350, 200), (45, 45, 45), (40, 40, 40))
    assert dark.similarity(also_dark) > 0.8 > dark.similarity(light)


def test_running_average_follows_a_change_and_keeps_what_is_hidden():
    red, green = look(STANDING, RED, BLUE), look(STANDING, GREEN, BLUE)
    average = red
    for _ in range(20):
        average = average.updated(green, 0.2)
    assert average.similarity(green) > 0.95
    image = drawing((STANDING, RED, BLUE), (Box(40, 40, 120, 300), GREEN, BLACK))
    hidden, _ = describe(image, [STANDING, Box(40, 40, 120, 300)])
    assert red.updated(hidden, 1.0).similarity(red) > 0.999


def test_part_that_becomes_visible_is_learned_at_once():
    legs_hidden = Box(30, 170, 130, 300)
    image = drawing((STANDING, RED, BLUE), (legs_hidden, GREEN, BLACK))
    upper, _ = describe(image, [STANDING, legs_hidden])
    whole = look(STANDING, RED, BLUE)
    assert upper.visible[2] < 0.1
    learned = upper.updated(whole, 0.01)
    assert learned.visible[2] == pytest.approx(1.0)
    assert learned.similarity(whole) > 0.95


def test_image_without_people_has_no_appearances():
    assert describe(drawing(), []) == []
