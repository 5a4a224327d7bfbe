"""Still pictures of the small world, and how people are painted into a place."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from emotion_perception.core.values import Box
from emotion_perception.toy_world.brush import Brush
from emotion_perception.toy_world.characters import HEAD, Look, body
from emotion_perception.toy_world.characters import figure as paint_figure
from emotion_perception.toy_world.places import backdrop, obstacle, rain, shadow
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
MOST_PEOPLE = 8
_ENOUGH = 0.72
"""The share of a head that has to be seen in a still picture, if places can be found for that."""
_ATTEMPTS = 12


def draw_image(
    seed: int,
    number: int,
    part: str = "all",
    *,
    size: tuple[int, int] = SIZE,
    people: tuple[int, int] = (1, 3),
) -> DrawnImage:
    """Picture `number` of the world with that seed, however many were drawn before.

    Args:
        seed: of the world, 0 or more.
        number: of the picture, 0 or more.
        part: "seen" or "unseen": no or each combination is one of `HELD_OUT`; or "all".
        size: width and height in pixels, at least 64 each.
        people: the fewest and the most people in a picture, 1..8.

    Raises:
        ValueError: an argument is none of these.
    """
    check(seed, part, size, people)
    if number < 0:
        raise ValueError(f"there is no picture {number}: the first has the number 0")
    random = np.random.default_rng((seed, number))
    context, combinations = draw_context(random, part)
    count = int(random.integers(people[0], people[1] + 1))
    moods = [draw_mood(random, combinations) for _ in range(count)]
    looks = [Look.drawn(random) for _ in range(count)]
    phases = random.choice((-1, 1), count) * random.uniform(0.25 * np.pi, 0.5 * np.pi, count)
    blocked = random.random() < 0.3
    empty = backdrop(size, context, random)
    # If a person is hidden, the places are drawn again, smaller, but not what people feel, which
    # would no longer be equally frequent.
    best: tuple[float, Brush, dict[int, Seen]] | None = None
    for attempt in range(_ATTEMPTS):
        places = spots(random, count, empty.aspect, 0.95**attempt)
        figures = [
            Figure(k, look, face, *body(posture, phase), *place)
            for k, (look, (face, posture), phase, place) in enumerate(
                zip(looks, moods, phases, places, strict=True)
            )
        ]
        behind = int(random.integers(count)) if blocked else None
        brush, seen = paint(empty, context, figures, random, behind)
        worst = min(seen[k].share if k in seen else 0.0 for k in range(count))
        if best is None or worst > best[0]:
            best = worst, brush, seen
        if worst >= _ENOUGH:
            break
    assert best is not None
    _, brush, seen = best
    found = (Person(k, one.box, context, *moods[k], one.share) for k, one in seen.items())
    masks = tuple(one.mask for one in seen.values())
    return DrawnImage(brush.picture(), context, tuple(found), masks)


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
        seed: the number of the world.
        n: the number of images.
        part: one of `PARTS`.
        people: the smallest and largest number of people.
        size: width and height in pixels, or several of them in turn.

    Raises:
        ValueError: as `scene`, or n is negative.
    """
    sizes = in_turn(size)
    for one in sizes:
        check(seed, part, one, people)
    if n < 0:
        raise ValueError(f"{n} pictures cannot be drawn: ask for 0 or more")
    return (draw_image(seed, i, part, size=sizes[i % len(sizes)], people=people) for i in range(n))


def in_turn(size: Size | Sequence[Size]) -> list[Size]:
    """The sizes that pictures have in turn, from one or several.

    Raises:
        ValueError: there is none.
    """
    given = np.array(size).reshape(-1, 2).tolist()
    if not given:
        raise ValueError("no size is given: name one, as in (640, 480)")
    return [(width, height) for width, height in given]


def check(seed: int, part: str, size: tuple[int, int], people: tuple[int, int]) -> None:
    """Raises ValueError for arguments that `scene` does not take."""
    if seed < 0:
        raise ValueError(f"the seed {seed} is negative: choose 0 or more")
    check_part(part)
    if min(size) < 64:
        raise ValueError(f"cannot draw faces in {size[0]} x {size[1]} pixels: use at least 64 x 64")
    if not 1 <= people[0] <= people[1] <= MOST_PEOPLE:
        raise ValueError(
            f"{people[0]} to {people[1]} people: give the fewest and the most, 1..{MOST_PEOPLE}"
        )


def draw_context(random: np.random.Generator, part: str) -> tuple[str, list[tuple[str, str]]]:
    """A context, as often as the part has combinations with it, and its faces and postures."""
    every = np.argwhere(OCCURS[part])
    c = int(random.choice(every)[0])
    return CONTEXTS[c], [(FACES[f], POSTURES[p]) for _, f, p in every[every[:, 0] == c]]


def draw_mood(random: np.random.Generator, combinations: list[tuple[str, str]]) -> tuple[str, str]:
    """Draw a combination of face and posture."""
    return combinations[int(random.integers(len(combinations)))]


def spots(
    random: np.random.Generator, count: int, aspect: float, shrink: float = 1.0
) -> list[tuple[float, float, float]]:
    """x, y and height of people side by side, the farthest first, in heights of the picture."""
    slot = aspect / count
    largest = min(0.84, 1.75 * slot) * shrink
    found = []
    for x in (random.permutation(count) + 0.5) * slot - aspect / 2:
        height = largest * random.uniform(0.74, 1.0)
        room = max(0.0, aspect / 2 - 0.29 * height)
        x = float(np.clip(x + random.uniform(-0.28, 0.28) * slot, -room, room))
        # Who stands nearer is larger, and lower in the picture.
        y = 0.97 - 0.6 * (largest - height) - random.uniform(0, 0.03)
        found.append((x, max(y, 1.03 * height), height))
    return sorted(found, key=lambda place: place[1])


# --- Painting people, and what is to be seen of them --------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Figure:
    """A person to be painted."""

    key: int
    """0 up to `MOST_PEOPLE`."""
    look: Look
    face: str
    joints: FloatArray
    turn: float
    x: float
    y: float
    height: float
    flip: int = 0
    """-1 or 1 for who looks elsewhere than usual."""


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """The visible part of a person."""

    box: Box
    share: float
    """Of the head, 0..1."""
    mask: BoolArray
    """(H, W)."""


def paint(
    empty: Brush,
    context: str,
    figures: Sequence[Figure],
    random: np.random.Generator,
    hidden: int | None = None,
) -> tuple[Brush, dict[int, Seen]]:
    """People on a copy of an empty place; what is to be seen of each of them, if anything is.

    Something stands in the way of number `hidden`, if there is one.
    """
    brush = replace(empty, canvas=empty.canvas.copy())
    for k, figure in enumerate(figures):
        x, y, height = figure.x, figure.y, figure.height
        shadow(brush, context, x, y, height)
        own = brush.moved(x, y, ((figure.flip or figure.look.flip) * height, -height))
        paint_figure(own, figure.look, figure.face, figure.joints, figure.turn, _tags(figure.key))
        if k == hidden:
            aside = random.uniform(-0.3, 0.3) * height
            size = random.uniform(0.34, 0.5) * height
            obstacle(brush, context, x + aside, y + 0.02, size)
    seen = {}
    owners = cv2.extractChannel(brush.canvas, 3)
    for figure in figures:
        body, head = _tags(figure.key)
        # Mixed edges of two others may have this number by chance, but only one pixel wide.
        mask = cv2.morphologyEx(cv2.inRange(owners, body, head), cv2.MORPH_OPEN, _SQUARE)
        left, top, width, height_ = cv2.boundingRect(mask)
        if width and height_:
            box = Box(left - 1, top - 1, left + width + 1, top + height_ + 1)
            radius = HEAD * figure.height * empty.canvas.shape[0]
            share = int(np.count_nonzero(owners == head)) / (math.pi * radius**2)
            inside = box.clipped(owners.shape[1], owners.shape[0])
            seen[figure.key] = Seen(inside, min(share, 1.0), mask > 0)
    if context == "storm":
        rain(brush, random)
    return brush, seen


_SQUARE = np.ones((2, 2), np.uint8)


def _tags(key: int) -> tuple[int, int]:
    """Return the tags that mark the pixels of a person's body and head."""
    return 20 + 25 * key, 21 + 25 * key
