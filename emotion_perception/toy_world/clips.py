"""Scenes of the small world that move."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from emotion_perception.toy_world import characters
from emotion_perception.toy_world.characters import Look
from emotion_perception.toy_world.places import backdrop
from emotion_perception.toy_world.rules import DrawnImage, FloatArray, Person
from emotion_perception.toy_world.stills import Figure, check, draw_context, draw_mood, paint, spots

_WALK = 1.6
"""Seconds that a person takes to come, to go, or to change places."""
_CLIPS = 1 << 32
"""No still picture has this number."""


def draw_clip(
    seed: int,
    seconds: float = 10.0,
    rate: float = 10.0,
    *,
    size: tuple[int, int] = (640, 480),
    people: int = 3,
    part: str = "all",
) -> Iterator[DrawnImage]:
    """A scene that moves: round(seconds x rate) pictures, the first at 0 ns.

    There are places for so many people. They sway, run on the spot, come and go, and now and then
    two change places, one behind the other. Their faces and postures change at moments which
    `Person.since_ns` tells; a posture takes 0.3 s to be taken up. The context stays. A person whose
    head is less than a third visible is not listed. A number is never given to another person.

    Raises:
        ValueError: as `scene`; or seconds or rate (pictures a second) is not positive.
    """
    check(seed, part, size, (people, people))
    if not (math.isfinite(seconds * rate) and seconds > 0 and rate > 0):
        raise ValueError(
            f"{seconds} s at {rate} pictures a second is no clip: both must be above 0"
        )
    return _frames(seed, seconds, rate, size, people, part)


@dataclass(frozen=True, slots=True)
class _Actor:
    """The part of one person in a clip; times in seconds."""

    number: int
    look: Look
    start: float
    end: float
    outside: float
    """Where they come from, and go to."""
    phase: float
    moods: tuple[tuple[float, str, str], ...]
    """From when on which face and posture."""

    def mood(self, time: float) -> int:
        return max(k for k, (since, *_) in enumerate(self.moods) if since <= time or not k)

    def joints(self, time: float, walking: float) -> tuple[FloatArray, float]:
        """As `characters.body`; what a posture changes into, it becomes within 0.3 s."""

        def body(k: int) -> tuple[FloatArray, float]:
            posture = self.moods[k][2]
            turns = 1.5 if posture == "running" else 0.6
            return characters.body(posture, 2 * math.pi * turns * time + self.phase, walking)

        k = self.mood(time)
        joints, turn = body(k)
        done = _smooth((time - self.moods[k][0]) / 0.3)
        if k == 0 or done == 1.0:
            return joints, turn
        before, turn_before = body(k - 1)
        return before + done * (joints - before), turn_before + done * (turn - turn_before)


def _smooth(share: float) -> float:
    """From 0 to 1, gently at both ends."""
    share = min(max(share, 0.0), 1.0)
    return share * share * (3 - 2 * share)


def _frames(
    seed: int, seconds: float, rate: float, size: tuple[int, int], people: int, part: str
) -> Iterator[DrawnImage]:
    random = np.random.default_rng((seed, _CLIPS))
    context, combinations = draw_context(random, part)
    empty = backdrop(size, context, random)
    places = spots(random, people, empty.aspect)
    swaps = _swaps(random, people, seconds)
    cast = _cast(random, combinations, [x for x, _, _ in places], empty.aspect, seconds)

    def position(k: int, actor: _Actor, time: float) -> float:
        x = places[k][0]
        for moment, order in swaps:  # each says who stands at whose place from then on
            x += (places[order[k]][0] - x) * _smooth((time - moment) / _WALK)
        inside = min(_smooth((time - actor.start) / _WALK), _smooth((actor.end - time) / _WALK))
        return actor.outside + (x - actor.outside) * inside

    for i in range(round(seconds * rate)):
        time = i / rate
        cut_out, actors = [], {}
        for k, (_, y, height) in enumerate(places):
            actor = next((a for a in cast[k] if a.start <= time < a.end), None)
            if actor is None:
                continue
            x = position(k, actor, time)
            speed = (position(k, actor, time + 0.05) - position(k, actor, time - 0.05)) / 0.1
            joints, turn = actor.joints(time, min(1.0, abs(speed) / 0.15))
            flip = int(np.sign(speed)) if abs(speed) > 0.05 else 0
            face = actor.moods[actor.mood(time)][1]
            cut_out.append(Figure(k, actor.look, face, joints, turn, x, y, height, flip))
            actors[k] = actor
        brush, seen = paint(empty, context, cut_out, np.random.default_rng((seed, _CLIPS, i)))
        found, masks = [], []
        for k, one in seen.items():
            since, face, posture = actors[k].moods[actors[k].mood(time)]
            if one.share >= 1 / 3:
                since_ns = round(max(since, 0.0) * 1e9)
                mood = (context, face, posture)
                found.append(Person(actors[k].number, one.box, *mood, one.share, since_ns))
                masks.append(one.mask)
        stamp_ns = round(i * 1e9 / rate)
        yield DrawnImage(brush.picture(), context, tuple(found), tuple(masks), stamp_ns)


def _swaps(
    random: np.random.Generator, people: int, seconds: float
) -> list[tuple[float, list[int]]]:
    """When two change places, and who stands at whose place then."""
    order, time, found = list(range(people)), random.uniform(2, 4), []
    while people > 1 and time < seconds:
        a, b = random.choice(people, 2, replace=False)
        order[a], order[b] = order[b], order[a]
        found.append((time, order.copy()))
        time += _WALK + random.uniform(2, 6)
    return found


def _cast(
    random: np.random.Generator,
    combinations: list[tuple[str, str]],
    homes: list[float],
    aspect: float,
    seconds: float,
) -> list[list[_Actor]]:
    """For each place those who stand there, one after the other."""
    found: list[list[_Actor]] = []
    number = 0
    for home in homes:
        found.append([])
        start = -2 * _WALK  # the first are there already
        while start < seconds:
            end = max(start, 0.0) + random.uniform(7, 16)
            moods, time = [], start
            while time < end:
                moods.append((time, *draw_mood(random, combinations)))
                time = max(time, 0.0) + random.uniform(2.5, 5)
            side = math.copysign(aspect / 2 + 0.35, home + random.uniform(-0.1, 0.1))
            look, phase = Look.drawn(random), random.uniform(0, 2 * math.pi)
            found[-1].append(_Actor(number, look, start, end, side, phase, tuple(moods)))
            number += 1
            start = end + random.uniform(0.3, 2)
    return found
