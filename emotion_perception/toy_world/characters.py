"""Looks, postures and faces of the people of the toy world.

Body coordinates: the origin is between the feet, y points up, and one unit is the body height.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from emotion_perception.toy_world.brush import (
    CIRCLE,
    Brush,
    Floats,
    Random,
    curve,
    lightness,
    shade,
)

HEAD = 0.19
"""Radius of a head in body heights."""

_SKIN = ("ffe0c7", "f6c9a4", "e8b088", "c98c5f", "a56c43", "7c4c2e")
_HAIR = ("2a211f", "4b3226", "7d4f2b", "c08a3e", "e3c26f", "9c3d24", "8b8b92")
_CLOTH = ("e4572e", "17bebb", "ffc914", "2e86ab", "76b041", "8e5aa8", "f7f7f2", "3d405b", "f28fad")
_LEGS = ("2f3e5c", "4a4a4f", "6b4f3a", "1f2a36", "55708d", "7a3b4e")
_STYLES = ("short", "long", "bun", "curly", "spiky", "hat")

_LEFT, _RIGHT = 0, 1


@dataclass(frozen=True, slots=True)
class Look:
    """The clothes and colours of a person, which never change."""

    skin: str
    hair: str
    style: str
    top: str
    legs: str
    sleeves: bool
    flip: int
    """-1 if the person faces left, else 1."""

    @classmethod
    def sample(cls, random: Random) -> Look:
        """Draw a look at random."""

        def choose(options: Sequence[str]) -> str:
            return options[int(random.integers(len(options)))]

        skin, style, top, legs = (choose(options) for options in (_SKIN, _STYLES, _CLOTH, _LEGS))
        # Hair in the colour of the skin would be invisible.
        hair = choose([colour for colour in _HAIR if abs(lightness(colour) - lightness(skin)) > 35])
        sleeves, flip = random.random() < 0.6, int(random.choice((-1, 1)))
        return cls(skin, hair, style, top, legs, sleeves, flip)


# Rows of a body: head, shoulders, elbows, hands, hips, knees, feet; left before right.
_HEAD, _SHOULDER, _ELBOW, _HAND, _HIP, _KNEE, _FOOT = 0, 1, 3, 5, 7, 9, 11


def _body(head: tuple[float, float], *pairs: tuple[float, float, float, float]) -> Floats:
    return np.array([head, *(point for p in pairs for point in (p[:2], p[2:]))])


_LEGS_APART = ((-0.055, 0.29, 0.055, 0.29), (-0.07, 0.15, 0.07, 0.15), (-0.085, 0.02, 0.085, 0.02))
_LEGS_BENT = ((-0.055, 0.25, 0.055, 0.25), (-0.10, 0.14, 0.10, 0.14), (-0.07, 0.02, 0.07, 0.02))
_COLLAR = np.array((0.0, 0.035))
_SHOULDERS = (-0.115, 0.515, 0.115, 0.515)
BODIES: dict[str, tuple[Floats, Floats, float]] = {
    "arms_up": (
        _body((0, 0.755), _SHOULDERS, (-0.235, 0.61, 0.235, 0.61), (-0.3, 0.82, 0.3, 0.82),
              *_LEGS_APART),
        _body((0, 0), (0, 0.01, 0, 0.01), (0.01, 0.01, 0.01, -0.01), (0.035, 0.02, 0.035, -0.02),
              *[(0, 0, 0, 0)] * 3),
        0.0,
    ),
    "slumped": (
        _body((0.085, 0.62), (-0.085, 0.455, 0.125, 0.44), (-0.115, 0.31, 0.165, 0.29),
              (-0.06, 0.17, 0.19, 0.15), *_LEGS_BENT),
        _body((0, -0.012), (0, -0.008, 0, -0.008), (0, -0.006, 0, -0.006), (0.012, 0, 0.012, 0),
              *[(0, 0, 0, 0)] * 3),
        -0.33,
    ),
    "running": (
        _body((0.06, 0.755), (-0.07, 0.52, 0.13, 0.52), (-0.1, 0.41, 0.1, 0.41),
              (0.03, 0.46, 0.23, 0.46), (-0.045, 0.29, 0.045, 0.29), (0, 0.17, 0, 0.17),
              (-0.08, 0.05, -0.08, 0.05)),
        _body((0, 0), (0, 0, 0, 0), (-0.13, 0.02, 0.13, 0.02), (-0.16, 0.07, 0.16, -0.07),
              (0, 0, 0, 0), (0.14, 0.03, -0.14, -0.03), (0.15, 0.05, -0.15, -0.05)),
        -0.1,
    ),
    "crossed": (
        _body((0, 0.755), _SHOULDERS, (-0.2, 0.4, 0.2, 0.4), (0.085, 0.375, -0.085, 0.435),
              *_LEGS_APART),
        _body((0.006, 0), (0, 0.005, 0, 0.005), (0.004, 0.004, -0.004, 0.004), *[(0, 0, 0, 0)] * 4),
        0.05,
    ),
    "waving": (
        _body((-0.01, 0.755), _SHOULDERS, (-0.22, 0.41, 0.24, 0.58), (-0.095, 0.31, 0.31, 0.79),
              *_LEGS_APART),
        _body((0.008, 0), (0, 0, 0, 0), (0, 0, 0.012, 0), (0, 0, 0.055, -0.01),
              *[(0, 0, 0, 0)] * 3),
        0.08,
    ),
}  # fmt: skip
"""Posture to joints at rest, their displacement by the movement, and the turn of the head."""


def pose(posture: str, phase: float, stride: float = 0.0) -> tuple[Floats, float]:
    """Return joints, (13, 2), and turn of the head in radians.

    Args:
        posture: One of `rules.POSTURES`.
        phase: Phase of the posture's movement in radians.
        stride: Amplitude of the legs of a walking person, 0..1; ignored for "running".
    """
    rest, swing, turn = BODIES[posture]
    joints = rest + swing * math.sin(phase)
    if posture == "running":
        joints[:_FOOT] += (0, 0.015 * math.cos(2 * phase))
    elif stride:
        for side in (_LEFT, _RIGHT):
            swung = math.sin(2 * phase + math.pi * side)
            lift = max(0.0, math.cos(2 * phase + math.pi * side))
            joints[_KNEE + side] += stride * np.array([0.09 * swung, 0.02 * lift])
            joints[_FOOT + side] += stride * np.array([0.13 * swung - 0.03, 0.06 * lift])
    return joints, turn


def paint_character(
    brush: Brush, look: Look, face: str, joints: Floats, turn: float, tags: tuple[int, int]
) -> None:
    """Paint a person with a brush in body units; the tags mark body and head."""
    b = replace(brush, tag=tags[0])
    skin, top, dark = look.skin, look.top, shade(look.top, 0.84)
    head = replace(b, tag=tags[1]).moved(
        float(joints[_HEAD, 0]), float(joints[_HEAD, 1]), HEAD, turn
    )
    if look.style == "long":
        fall = [(-1.1, 0.3), (-1.2, -1.25), (-0.7, -1.4), (0.7, -1.4), (1.2, -1.25), (1.1, 0.3)]
        replace(head, tag=tags[0]).shape(fall, shade(look.hair, 0.8))
    for side in (_RIGHT, _LEFT):
        leg = joints[[_HIP + side, _KNEE + side, _FOOT + side]]
        b.line(leg, 0.088, look.legs if side == _LEFT else shade(look.legs, 0.86))
        b.oval(leg[2, 0] + 0.025, leg[2, 1], 0.06, 0.028, "2b2320")
    left, right = joints[_SHOULDER], joints[_SHOULDER + 1]
    hips = joints[[_HIP + 1, _HIP]] + [(0.055, -0.02), (-0.055, -0.02)]
    b.line([(left + right) / 2, joints[_HEAD]], 0.09, shade(skin, 0.88))
    b.convex([left, left + _COLLAR, right + _COLLAR, right, *hips], top)
    b.line([left, right], 0.075, top)
    for side in (_LEFT, _RIGHT):
        shoulder, elbow, hand = joints[[_SHOULDER + side, _ELBOW + side, _HAND + side]]
        # The arm that is painted last has a darker tone, to stand out where the arms cross.
        forearm = shade(dark if look.sleeves else skin, 0.93 if side == _LEFT else 1.0)
        b.line([elbow, hand], 0.068, forearm)
        b.line([shoulder, elbow], 0.074, dark)
        b.disc(float(hand[0]), float(hand[1]), 0.043, skin)
    _head(head, look, face)


def _head(b: Brush, look: Look, face: str) -> None:
    """Paint a head with a brush whose unit is the radius of the head."""
    for x in (-1.0, 1.0):
        b.oval(x, -0.05, 0.17, 0.22, shade(look.skin, 0.92))
    b.oval(0, 0, 1, 1.02, look.skin)
    _FACES[face](b, look.skin)
    hair, cap = look.hair, CIRCLE * 1.08
    crown = cap[(cap[:, 1] > 0.3)]
    match look.style:
        case "hat":
            b.shape([*(crown * (1, 1.03)), (-0.98, 0.42), (0.98, 0.42)], look.top)
            b.line([(-1.02, 0.45), (1.02, 0.45)], 0.2, shade(look.top, 0.75))
            b.disc(0, 1.2, 0.2, shade(look.top, 0.75))
        case "curly":
            for x, y in CIRCLE[CIRCLE[:, 1] > 0.25][::2]:
                b.disc(x * 0.92, y * 0.92, 0.33, hair)
        case "spiky":
            spikes = [(r * math.cos(a), r * math.sin(a)) for r, a in zip(
                (1.05, 1.3, 1.02, 1.36, 1.05, 1.36, 1.02, 1.3, 1.05), np.linspace(0.3, 2.84, 9),
                strict=True)]  # fmt: skip
            b.shape([*spikes, (-0.55, 0.62), (-0.2, 0.5), (0.15, 0.66), (0.5, 0.52)], hair)
        case _:
            if look.style == "bun":
                b.disc(0, 1.13, 0.33, shade(hair, 0.9))
            b.shape([*crown, (-0.95, 0.25), (-0.55, 0.62), (0.1, 0.7), (0.6, 0.5), (0.97, 0.25)],
                    hair)  # fmt: skip


_INK, _MOUTH, _LIPS = "2a1a1a", "7d1b2d", "4a0d1c"


def _eyes(b: Brush, wide: float, high: float, pupil: float, look_down: float = 0.0) -> None:
    for x in (-0.4, 0.4):
        b.oval(x, 0.08, wide, high, "ffffff")
        b.oval(x, 0.08 - look_down, pupil, min(pupil * 1.15, high), _INK)
        b.disc(x + pupil * 0.35, 0.08 - look_down + pupil * 0.35, pupil * 0.3, "ffffff")


def _brows(b: Brush, inner: float, outer: float, width: float = 0.13) -> None:
    b.lines([[(side * 0.16, inner), (side * 0.64, outer)] for side in (-1, 1)], width, _INK)


def _smile(b: Brush, skin: str) -> None:
    for x in (-0.62, 0.62):
        b.oval(x, -0.22, 0.2, 0.14, "f5908a")
    b.lines([curve((x - 0.2, 0.05), (x, 0.38), (x + 0.2, 0.05)) for x in (-0.4, 0.4)], 0.13, _INK)
    mouth = curve((-0.56, -0.25), (0, -1.28), (0.56, -0.25))
    b.convex(mouth, _MOUTH)
    b.convex([(-0.53, -0.25), (0.53, -0.25), (0.44, -0.43), (-0.44, -0.43)], "ffffff")


def _sad(b: Brush, skin: str) -> None:
    _eyes(b, 0.2, 0.2, 0.13, 0.06)
    for side in (-1, 1):  # eyelids that droop outwards
        b.convex([(side * 0.14, 0.36), (side * 0.68, 0.36), (side * 0.66, 0.02),
                  (side * 0.16, 0.26)], shade(skin, 0.93))  # fmt: skip
    _brows(b, 0.5, 0.2)
    b.line(curve((-0.42, -0.72), (0, -0.24), (0.42, -0.72)), 0.15, _LIPS)
    b.convex([(0.52, -0.05), (0.4, -0.33), (0.52, -0.47), (0.64, -0.33)], "4cb5f5")
    b.disc(0.52, -0.36, 0.12, "4cb5f5")


def _angry(b: Brush, skin: str) -> None:
    for x in (-0.6, 0.6):
        b.oval(x, -0.2, 0.24, 0.17, "e2583e")
    _eyes(b, 0.21, 0.19, 0.11)
    for side in (-1, 1):
        b.convex([(side * 0.1, 0.36), (side * 0.7, 0.4), (side * 0.68, 0.3), (side * 0.12, 0.06)],
                 shade(skin, 0.93))  # fmt: skip
    _brows(b, 0.1, 0.44, 0.19)
    b.convex(CIRCLE * (0.5, 0.24) + (0, -0.56), _INK)
    b.convex([(-0.38, -0.47), (0.38, -0.47), (0.38, -0.66), (-0.38, -0.66)], "ffffff")
    b.lines([[(x, -0.46), (x, -0.67)] for x in (-0.19, 0, 0.19)], 0.05, _INK)


def _gasp(b: Brush, skin: str) -> None:
    for x in (-0.4, 0.4):
        b.oval(x, 0.06, 0.31, 0.35, _INK)
    _eyes(b, 0.26, 0.3, 0.1)
    b.lines([curve((x - 0.22, 0.52), (x, 0.74), (x + 0.22, 0.52)) for x in (-0.4, 0.4)], 0.12, _INK)
    b.oval(0, -0.58, 0.27, 0.34, _MOUTH)
    b.oval(0, -0.72, 0.17, 0.14, "d6556a")


def _calm(b: Brush, skin: str) -> None:
    _eyes(b, 0.2, 0.2, 0.13, 0.03)
    for x in (-0.4, 0.4):  # half closed
        b.box(x - 0.25, 0.32, x + 0.25, 0.1, shade(skin, 0.95))
    b.lines([[(x - 0.22, 0.1), (x + 0.22, 0.1)] for x in (-0.4, 0.4)], 0.09, _INK)
    _brows(b, 0.4, 0.4, 0.1)
    b.line([(-0.24, -0.52), (0.24, -0.52)], 0.13, _LIPS)


_FACES: dict[str, Callable[[Brush, str], None]] = {
    "smile": _smile, "sad": _sad, "angry": _angry, "gasp": _gasp, "calm": _calm,
}  # fmt: skip
