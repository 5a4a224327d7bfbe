"""Draw moving scenes of the toy world."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from emotion_perception.toy_world import characters
from emotion_perception.toy_world.characters import Look
from emotion_perception.toy_world.places import backdrop
from emotion_perception.toy_world.rules import DrawnImage, FloatArray, Person
from emotion_perception.toy_world.stills import (
    Character,
    check_arguments,
    paint_people,
    sample_context,
    sample_expression,
    sample_positions,
)

_WALK_S = 1.6
"""Seconds that a person takes to come, to go, or to change places."""
_CLIP_NUMBER = 1 << 32
"""Seeds the generator of a clip; no still image has this number."""


def draw_clip(
    seed: int,
    seconds: float = 10.0,
    rate: float = 10.0,
    *,
    size: tuple[int, int] = (640, 480),
    people: int = 3,
    part: str = "all",
) -> Iterator[DrawnImage]:
    """Draw a moving scene: round(seconds x rate) images, the first at 0 ns.

    People sway, run on the spot, come and go, and two of them change places every few seconds, one
    passing behind the other. Faces and postures change at the times in `Person.since_ns`; a change
    of posture takes 0.3 s. The context does not change. A person is listed while at least a third
    of the head is visible. Numbers of people are not reused.

    Args:
        seed: Seed of the world, at least 0.
        seconds: Length of the clip.
        rate: Images per second.
        size: Width and height in pixels, at least 64 each.
        people: Largest number of people at a time, 1..8.
        part: One of `PARTS`.

    Raises:
        ValueError: As `draw_image`, or `seconds` or `rate` is not positive.
    """
    check_arguments(seed, part, size, (people, people))
    if not (math.isfinite(seconds * rate) and seconds > 0 and rate > 0):
        raise ValueError(
            f"cannot draw a clip of {seconds} s with {rate} images per second: both must be above 0"
        )
    return _frames(seed, seconds, rate, size, people, part)


@dataclass(frozen=True, slots=True)
class _Actor:
    """A person of a clip; times are in seconds."""

    number: int
    look: Look
    start: float
    end: float
    outside: float
    """The x at which the person enters and leaves."""
    phase: float
    expressions: tuple[tuple[float, str, str], ...]
    """Start, face and posture."""

    def expression_index(self, time: float) -> int:
        """Return the index of the expression at a time."""
        return max(k for k, (since, *_) in enumerate(self.expressions) if since <= time or not k)

    def joints(self, time: float, walking: float) -> tuple[FloatArray, float]:
        """Return the pose at a time; a change of posture is interpolated over 0.3 s."""

        def pose(k: int) -> tuple[FloatArray, float]:
            posture = self.expressions[k][2]
            frequency_hz = 1.5 if posture == "running" else 0.6
            return characters.pose(posture, 2 * math.pi * frequency_hz * time + self.phase, walking)

        k = self.expression_index(time)
        joints, turn = pose(k)
        done = _smooth((time - self.expressions[k][0]) / 0.3)
        if k == 0 or done == 1.0:
            return joints, turn
        before, turn_before = pose(k - 1)
        return before + done * (joints - before), turn_before + done * (turn - turn_before)


def _smooth(share: float) -> float:
    """Return the smooth step of a share, from 0 to 1 with zero slope at both ends."""
    share = min(max(share, 0.0), 1.0)
    return share * share * (3 - 2 * share)


def _frames(
    seed: int, seconds: float, rate: float, size: tuple[int, int], people: int, part: str
) -> Iterator[DrawnImage]:
    random = np.random.default_rng((seed, _CLIP_NUMBER))
    context, combinations = sample_context(random, part)
    empty = backdrop(size, context, random)
    places = sample_positions(random, people, empty.aspect)
    swaps = _swaps(random, people, seconds)
    actors_by_place = _sample_actors(
        random, combinations, [x for x, _, _ in places], empty.aspect, seconds
    )

    def position(k: int, actor: _Actor, time: float) -> float:
        x = places[k][0]
        for moment, order in swaps:
            x += (places[order[k]][0] - x) * _smooth((time - moment) / _WALK_S)
        inside = min(_smooth((time - actor.start) / _WALK_S), _smooth((actor.end - time) / _WALK_S))
        return actor.outside + (x - actor.outside) * inside

    for i in range(round(seconds * rate)):
        time = i / rate
        visible, actors = [], {}
        for k, (_, y, height) in enumerate(places):
            actor = next((a for a in actors_by_place[k] if a.start <= time < a.end), None)
            if actor is None:
                continue
            x = position(k, actor, time)
            speed = (position(k, actor, time + 0.05) - position(k, actor, time - 0.05)) / 0.1
            joints, turn = actor.joints(time, min(1.0, abs(speed) / 0.15))
            flip = int(np.sign(speed)) if abs(speed) > 0.05 else 0
            face = actor.expressions[actor.expression_index(time)][1]
            visible.append(Character(k, actor.look, face, joints, turn, x, y, height, flip))
            actors[k] = actor
        noise = np.random.default_rng((seed, _CLIP_NUMBER, i))
        brush, parts = paint_people(empty, context, visible, noise)
        persons, masks = [], []
        for k, visible_part in parts.items():
            actor = actors[k]
            since, face, posture = actor.expressions[actor.expression_index(time)]
            if visible_part.head_share >= 1 / 3:
                since_ns = round(max(since, 0.0) * 1e9)
                truth = (context, face, posture, visible_part.head_share, since_ns)
                persons.append(Person(actor.number, visible_part.box, *truth))
                masks.append(visible_part.mask)
        stamp_ns = round(i * 1e9 / rate)
        yield DrawnImage(brush.image(), context, tuple(persons), tuple(masks), stamp_ns)


def _swaps(
    random: np.random.Generator, people: int, seconds: float
) -> list[tuple[float, list[int]]]:
    """Sample the times at which two people change places, with the place of each from then on."""
    order, time, swaps = list(range(people)), random.uniform(2, 4), []
    while people > 1 and time < seconds:
        a, b = random.choice(people, 2, replace=False)
        order[a], order[b] = order[b], order[a]
        swaps.append((time, order.copy()))
        time += _WALK_S + random.uniform(2, 6)
    return swaps


def _sample_actors(
    random: np.random.Generator,
    combinations: list[tuple[str, str]],
    homes: list[float],
    aspect: float,
    seconds: float,
) -> list[list[_Actor]]:
    """Sample for each place the people who stand there, one after the other."""
    actors: list[list[_Actor]] = []
    number = 0
    for home in homes:
        actors.append([])
        start = -2 * _WALK_S  # the first people are present from the beginning
        while start < seconds:
            end = max(start, 0.0) + random.uniform(7, 16)
            expressions, time = [], start
            while time < end:
                expressions.append((time, *sample_expression(random, combinations)))
                time = max(time, 0.0) + random.uniform(2.5, 5)
            side = math.copysign(aspect / 2 + 0.35, home + random.uniform(-0.1, 0.1))
            look, phase = Look.sample(random), random.uniform(0, 2 * math.pi)
            actors[-1].append(_Actor(number, look, start, end, side, phase, tuple(expressions)))
            number += 1
            start = end + random.uniform(0.3, 2)
    return actors
