"""Draw moving scenes of the toy world."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from emotion_perception.toy_world import characters
from emotion_perception.toy_world.brush import Brush
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
_CLIP_NUMBER, _STILL_NUMBER = 1 << 32, (1 << 32) + 1
"""Seed the generators of clips; no still image has these numbers."""
_STILL_POSTURES = ("slumped", "crossed")


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
    _check_clip_arguments(seed, seconds, rate, size, people, part)
    random = np.random.default_rng((seed, _CLIP_NUMBER))
    context, combinations = sample_context(random, part)
    empty = backdrop(size, context, random)
    places = sample_positions(random, people, empty.aspect)
    swaps = _swaps(random, people, seconds)
    homes = [x for x, _, _ in places]
    actors = _sample_actors(random, combinations, homes, empty.aspect, seconds)
    return _frames(seed, seconds, rate, _Scene(context, empty, places, swaps, actors))


def draw_still_clip(
    seed: int,
    seconds: float = 60.0,
    rate: float = 10.0,
    *,
    size: tuple[int, int] = (640, 480),
    people: int = 3,
    noise: float = 3.0,
    flicker: float = 0.02,
) -> Iterator[DrawnImage]:
    """Draw a scene in which little happens: round(seconds x rate) images, the first at 0 ns.

    The people stand slumped or with crossed arms and sway, and all of them stay. One of them, the
    nearest in half of the seeds, gets another face, once, between 40 and 60 % of the clip. The
    camera adds Gaussian noise to each pixel, and its exposure varies from image to image.

    Args:
        seed: Seed of the world, at least 0.
        seconds: Length of the clip.
        rate: Images per second.
        size: Width and height in pixels, at least 64 each.
        people: Number of people, 1..8.
        noise: Standard deviation of the noise in grey levels.
        flicker: Standard deviation of the relative exposure.

    Raises:
        ValueError: As `draw_clip`.
    """
    _check_clip_arguments(seed, seconds, rate, size, people, "all")
    random = np.random.default_rng((seed, _STILL_NUMBER))
    context, combinations = sample_context(random, "all")
    combinations = [each for each in combinations if each[1] in _STILL_POSTURES]
    empty = backdrop(size, context, random)
    places = sample_positions(random, people, empty.aspect)
    changing = people - 1 if random.random() < 0.5 else int(random.integers(people))
    change_s = seconds * random.uniform(0.4, 0.6)
    actors = []
    for k in range(people):
        face, posture = sample_expression(random, combinations)
        expressions = [(-2 * _WALK_S, face, posture)]
        if k == changing:
            others = [each for each in combinations if each[1] == posture and each[0] != face]
            expressions.append((change_s, *sample_expression(random, others)))
        look, phase = Look.sample(random), random.uniform(0, 2 * math.pi)
        actors.append([
            _Actor(k, look, -2 * _WALK_S, math.inf, 0.0, phase, tuple(expressions))
        ])  # fmt: skip
    scene = _Scene(context, empty, places, [], actors)
    return _as_recorded(_frames(seed, seconds, rate, scene), seed, noise, flicker)


def _as_recorded(
    frames: Iterator[DrawnImage], seed: int, noise: float, flicker: float
) -> Iterator[DrawnImage]:
    """Yield images with the noise and the exposure of a camera, see `draw_still_clip`."""
    for i, drawn in enumerate(frames):
        random = np.random.default_rng((seed, _STILL_NUMBER, i))
        image = drawn.image * (1 + flicker * random.standard_normal(dtype=np.float32))
        image += noise * random.standard_normal(image.shape, dtype=np.float32)
        yield replace(drawn, image=np.clip(np.rint(image), 0, 255).astype(np.uint8))


def _check_clip_arguments(
    seed: int, seconds: float, rate: float, size: tuple[int, int], people: int, part: str
) -> None:
    check_arguments(seed, part, size, (people, people))
    if not (math.isfinite(seconds * rate) and seconds > 0 and rate > 0):
        raise ValueError(
            f"cannot draw a clip of {seconds} s with {rate} images per second: both must be above 0"
        )


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


@dataclass(frozen=True, slots=True, eq=False)
class _Scene:
    """What a clip shows."""

    context: str
    empty: Brush
    """The place without people."""
    places: list[tuple[float, float, float]]
    """x, y and height of the people, the farthest first."""
    swaps: list[tuple[float, list[int]]]
    """Times at which people change places, with the place of each from then on."""
    actors: list[list[_Actor]]
    """The people who stand at each place, one after the other."""


def _frames(seed: int, seconds: float, rate: float, scene: _Scene) -> Iterator[DrawnImage]:
    context, empty, places = scene.context, scene.empty, scene.places

    def position(k: int, actor: _Actor, time: float) -> float:
        x = places[k][0]
        for moment, order in scene.swaps:
            x += (places[order[k]][0] - x) * _smooth((time - moment) / _WALK_S)
        inside = min(_smooth((time - actor.start) / _WALK_S), _smooth((actor.end - time) / _WALK_S))
        return actor.outside + (x - actor.outside) * inside

    for i in range(round(seconds * rate)):
        time = i / rate
        visible, actors = [], {}
        for k, (_, y, height) in enumerate(places):
            actor = next((a for a in scene.actors[k] if a.start <= time < a.end), None)
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
