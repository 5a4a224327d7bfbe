"""Draw still images of the toy world, and paint people into a place."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from emotion_perception.core.values import Box
from emotion_perception.toy_world.brush import Brush
from emotion_perception.toy_world.characters import HEAD, Look, paint_character, pose
from emotion_perception.toy_world.places import OBSTACLES, backdrop, obstacle, rain, shadow
from emotion_perception.toy_world.rules import (
    CONTEXTS,
    FACES,
    OCCURS,
    POSTURES,
    BoolArray,
    DrawnImage,
    FloatArray,
    Person,
    check_part,
)

Size = tuple[int, int]
"""Width and height in pixels."""

SIZE: Size = (192, 192)
MAX_PEOPLE = 8
_MIN_HEAD_SHARE = 0.72
"""Visible share of each head that an image should have; fewer after `_ATTEMPTS` attempts."""
_ATTEMPTS = 12


def draw_image(
    seed: int,
    number: int,
    part: str = "all",
    *,
    size: tuple[int, int] = SIZE,
    people: tuple[int, int] = (1, 3),
) -> DrawnImage:
    """Draw an image. It depends on the arguments alone, not on what was drawn before.

    Args:
        seed: Seed of the world, at least 0.
        number: Number of the image, at least 0.
        part: "seen": no combination is in `HELD_OUT`; "unseen": each is; or "all".
        size: Width and height in pixels, at least 64 each.
        people: Smallest and largest number of people, 1..8.

    Raises:
        ValueError: An argument is not allowed.
    """
    check_arguments(seed, part, size, people)
    if number < 0:
        raise ValueError(f"cannot draw image {number}: the first image has the number 0")
    random = np.random.default_rng((seed, number))
    context, combinations = sample_context(random, part)
    count = int(random.integers(people[0], people[1] + 1))
    expressions = [sample_expression(random, combinations) for _ in range(count)]
    looks = [Look.sample(random) for _ in range(count)]
    phases = random.choice((-1, 1), count) * random.uniform(0.25 * np.pi, 0.5 * np.pi, count)
    blocked = random.random() < 0.3
    empty = backdrop(size, context, random)
    # If a head is hidden, only the positions are sampled again, for smaller people: sampling faces
    # and postures again would change their frequencies.
    best: tuple[float, Brush, dict[int, VisiblePart]] | None = None
    for attempt in range(_ATTEMPTS):
        places = sample_positions(random, count, empty.aspect, 0.95**attempt)
        characters = [
            Character(k, look, face, *pose(posture, phase), *place)
            for k, (look, (face, posture), phase, place) in enumerate(
                zip(looks, expressions, phases, places, strict=True)
            )
        ]
        hidden = int(random.integers(count)) if blocked else None
        brush, parts = paint_people(empty, context, characters, random, hidden)
        worst = min(parts[k].head_share if k in parts else 0.0 for k in range(count))
        if best is None or worst > best[0]:
            best = worst, brush, parts
        if worst >= _MIN_HEAD_SHARE:
            break
    assert best is not None
    _, brush, parts = best
    drawn = (Person(k, p.box, context, *expressions[k], p.head_share) for k, p in parts.items())
    masks = tuple(p.mask for p in parts.values())
    return DrawnImage(brush.image(), context, tuple(drawn), masks)


def draw_images(
    seed: int,
    n: int,
    part: str = "all",
    *,
    size: Size | Sequence[Size] = SIZE,
    people: tuple[int, int] = (1, 3),
) -> Iterator[DrawnImage]:
    """Yield the first n images of a world, as `draw_image` draws them.

    Args:
        seed: Seed of the world, at least 0.
        n: Number of images, at least 0.
        part: One of `PARTS`.
        people: Smallest and largest number of people, 1..8.
        size: Width and height in pixels, or several sizes that are used in turn.

    Raises:
        ValueError: As `draw_image`, or n is negative.
    """
    sizes = as_sizes(size)
    for each in sizes:
        check_arguments(seed, part, each, people)
    if n < 0:
        raise ValueError(f"cannot draw {n} images: choose 0 or more")
    return (draw_image(seed, i, part, size=sizes[i % len(sizes)], people=people) for i in range(n))


def as_sizes(size: Size | Sequence[Size]) -> list[Size]:
    """Return one or several sizes as a list.

    Raises:
        ValueError: `size` is empty.
    """
    sizes = np.array(size).reshape(-1, 2).tolist()
    if not sizes:
        raise ValueError("cannot draw images without a size: pass one, as in (640, 480)")
    return [(width, height) for width, height in sizes]


def check_arguments(seed: int, part: str, size: Size, people: tuple[int, int]) -> None:
    """Check the arguments of `draw_image`.

    Raises:
        ValueError: An argument is not allowed.
    """
    if seed < 0:
        raise ValueError(f"the seed {seed} is negative: choose 0 or more")
    check_part(part)
    if min(size) < 64:
        raise ValueError(f"cannot draw faces in {size[0]} x {size[1]} pixels: use at least 64 x 64")
    if not 1 <= people[0] <= people[1] <= MAX_PEOPLE:
        raise ValueError(
            f"cannot draw {people[0]} to {people[1]} people: give the smallest and the largest "
            f"number, 1..{MAX_PEOPLE}"
        )


def sample_context(random: np.random.Generator, part: str) -> tuple[str, list[tuple[str, str]]]:
    """Sample a context; return it with its faces and postures in the part.

    The frequency of a context is proportional to its number of combinations in the part.
    """
    combinations = np.argwhere(OCCURS[part])
    c = int(random.choice(combinations)[0])
    in_context = combinations[combinations[:, 0] == c]
    return CONTEXTS[c], [(FACES[f], POSTURES[p]) for _, f, p in in_context]


def sample_expression(
    random: np.random.Generator, combinations: list[tuple[str, str]]
) -> tuple[str, str]:
    """Sample a face and posture."""
    return combinations[int(random.integers(len(combinations)))]


def sample_positions(
    random: np.random.Generator, count: int, aspect: float, shrink: float = 1.0
) -> list[tuple[float, float, float]]:
    """Sample x, y and height of people side by side, the farthest first, in image heights."""
    slot = aspect / count
    largest = min(0.84, 1.75 * slot) * shrink
    positions = []
    for x in (random.permutation(count) + 0.5) * slot - aspect / 2:
        height = largest * random.uniform(0.74, 1.0)
        room = max(0.0, aspect / 2 - 0.29 * height)
        x = float(np.clip(x + random.uniform(-0.28, 0.28) * slot, -room, room))
        # Nearer people are larger, and lower in the image.
        y = 0.97 - 0.6 * (largest - height) - random.uniform(0, 0.03)
        positions.append((x, max(y, 1.03 * height), height))
    return sorted(positions, key=lambda position: position[1])


# --- Painting people, and their visible parts ---------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Character:
    """A person to be painted."""

    key: int
    """From 0 to `MAX_PEOPLE` - 1; determines the tags."""
    look: Look
    face: str
    joints: FloatArray
    turn: float
    x: float
    y: float
    height: float
    flip: int = 0
    """-1 or 1 to face left or right; 0 to face as in `look`."""


@dataclass(frozen=True, slots=True, eq=False)
class VisiblePart:
    """The visible part of a person."""

    box: Box
    head_share: float
    """Visible share of the head, 0..1."""
    mask: BoolArray
    """(H, W); without the edge of the person, whose pixels mix with what is behind."""


def paint_people(
    empty: Brush,
    context: str,
    characters: Sequence[Character],
    random: np.random.Generator,
    hidden: int | None = None,
) -> tuple[Brush, dict[int, VisiblePart]]:
    """Paint people on a copy of an empty place.

    Args:
        empty: The place.
        context: The context of the place.
        characters: The people, the farthest first.
        random: The rain, and the kind and position of the obstacle.
        hidden: Index of the person behind an obstacle, if any.

    Returns:
        The painted copy, and the visible part by key of each person who is visible at all.
    """
    brush = replace(empty, canvas=empty.canvas.copy())
    if context == "storm":
        rain(brush, random)
    for k, person in enumerate(characters):
        x, y, height = person.x, person.y, person.height
        shadow(brush, context, x, y, height)
        own = brush.moved(x, y, ((person.flip or person.look.flip) * height, -height))
        tags = _tags(person.key)
        paint_character(own, person.look, person.face, person.joints, person.turn, tags)
        if k == hidden:
            aside = random.uniform(-0.3, 0.3) * height
            size = random.uniform(0.34, 0.5) * height
            kind = str(random.choice(OBSTACLES))
            obstacle(brush, context, kind, x + aside, y + 0.02, size)
    parts = {}
    owners = cv2.extractChannel(brush.canvas, 3)
    for person in characters:
        body, head = _tags(person.key)
        # The blended edge of two other people may have this tag, but it is only one pixel wide.
        owned = cv2.inRange(owners, body, head)
        mask = cv2.morphologyEx(owned, cv2.MORPH_OPEN, np.ones((2, 2), np.uint8))
        left, top, width, height_ = cv2.boundingRect(mask)
        if width and height_:
            box = Box(left - 1, top - 1, left + width + 1, top + height_ + 1)
            radius = HEAD * person.height * empty.canvas.shape[0]
            share = int(np.count_nonzero(owners == head)) / (math.pi * radius**2)
            inside = box.clipped(owners.shape[1], owners.shape[0])
            unmixed = cv2.erode(owned, np.ones((3, 3), np.uint8)) > 0
            parts[person.key] = VisiblePart(inside, min(share, 1.0), unmixed)
    return brush, parts


def _tags(key: int) -> tuple[int, int]:
    """Return the tags that mark the pixels of a person's body and head."""
    return 20 + 25 * key, 21 + 25 * key
