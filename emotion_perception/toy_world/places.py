"""Paint the seven contexts of the toy world, and the obstacles that may hide people there."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np

from emotion_perception.toy_world.brush import TURN, Brush, Light, Random, curve, shade


def _tree(b: Brush, x: float, y: float, size: float, leaf: str) -> None:
    b = b.moved(x, y, size)
    b.convex([(-0.06, 0), (-0.035, -0.5), (0.035, -0.5), (0.06, 0)], "7a5a3f")
    for dx, dy, radius in ((-0.17, -0.55, 0.19), (0.17, -0.55, 0.19), (0, -0.75, 0.24)):
        b.disc(dx, dy, radius, leaf)
    b.disc(-0.06, -0.8, 0.13, shade(leaf, 1.12))


def _cloud(b: Brush, x: float, y: float, size: float, colour: str) -> None:
    for dx, dy, wide, high in ((-1, 0, 0.8, 0.45), (0, -0.3, 0.9, 0.75), (1, 0, 0.85, 0.5)):
        b.oval(x + dx * size, y + dy * size, wide * size, high * size, colour)
    b.oval(x, y + 0.2 * size, 1.7 * size, 0.4 * size, colour)


def _party(b: Brush, random: Random) -> None:
    half = b.aspect / 2
    bright = ["ef476f", "ffd166", "06d6a0", "3a86ff", "9b5de5", "ff8c42"]
    random.shuffle(bright)
    b.sky("ffe3d8", "ffc9c2", 0.7)
    stripe = np.array([(0, -0.5), (0.08, -0.5), (0.08, 1), (0, 1)])
    b.shapes(
        np.array([stripe + np.array((x, 0)) for x in np.arange(-half - 0.2, half + 0.2, 0.16)]),
        "ffd9d0",
    )
    b.ground(0.72, "c98a5e")
    b.ground(0.735, "d79b6d")
    for i, y in enumerate((0.06, 0.02)):
        ends = np.linspace(-half - 0.1, half + 0.1, 3 + i)
        for left, right in pairwise(ends):
            rope = curve((left, y), ((left + right) / 2, y + 0.17), (right, y), steps=8)
            b.line(rope, 0.006, "8d6e63")
            tips = (rope[:-1] + rope[1:]) / 2 + np.array((0, 0.075))
            flags = np.stack([rope[:-1], rope[1:], tips], axis=1)
            for k in range(6):
                b.shapes(flags[k::6], bright[(k + i) % 6])
    for side in (-1, 1):
        for k in range(3):
            x = side * (half - 0.09 - 0.1 * k + random.uniform(-0.02, 0.02))
            y = 0.32 + 0.09 * ((k + 1) % 2) + random.uniform(-0.03, 0.03)
            b.line(curve((x, y), (x + 0.03, y + 0.2), (side * (half - 0.1), 0.74)), 0.004, "a1887f")
            b.oval(x, y, 0.06, 0.075, bright[(k + side) % 6])
            b.oval(x - 0.02, y - 0.028, 0.014, 0.02, "ffffff")
    cake = b.moved(random.uniform(-0.5, 0.5) * half, 0.72)
    cake.box(-0.22, -0.10, 0.22, 0.09, "fff3ee")
    cake.box(-0.24, -0.12, 0.24, -0.085, "ffffff")
    for wide, bottom, top, colour in (
        (0.13, -0.12, -0.22, "f78fb3"),
        (0.085, -0.22, -0.30, "fde2ea"),
    ):
        cake.box(-wide, top, wide, bottom, colour)
        for x in np.linspace(-wide + 0.02, wide - 0.02, 5):
            cake.disc(x, top + 0.012, 0.02, "ffffff")
    for x in (-0.05, 0, 0.05):
        cake.line([(x, -0.31), (x, -0.36)], 0.012, "3a86ff")
        cake.oval(x, -0.378, 0.011, 0.018, "ffb703")
    papers = random.uniform((-half, 0), (half, 0.95), (24, 1, 2))
    along = random.uniform(-0.011, 0.011, (24, 1, 2))
    across = 0.7 * along[..., ::-1] * (1, -1)
    confetti = papers + np.concatenate([along, across, -along, -across], axis=1)
    for k in range(6):
        b.shapes(confetti[k::6], bright[k])


_FLOWERS = ("39663f", "efe9f2", "4c7d50", "b98fc0")


def _funeral(b: Brush, random: Random) -> None:
    half = b.aspect / 2
    b.sky("8b93a0", "c3c6cb", 0.6)
    for _ in range(3):
        _cloud(b, random.uniform(-half, half), random.uniform(0.05, 0.2), 0.13, "9ba2ad")
    b.convex([(-half - 0.3, 0.6), (0, 0.5), (half + 0.3, 0.6), (half, 0.8), (-half, 0.8)], "6d756f")
    b.ground(0.6, "4d554f")
    for side in (-1, 1):
        tree = b.moved(side * (half - 0.1), 0.62, (side * 0.9, 0.9))
        twigs = [[(0, 0), (0.02, -0.5)], [(0.01, -0.3), (-0.13, -0.47), (-0.15, -0.56)],
                 [(0.01, -0.24), (0.12, -0.4)], [(0.02, -0.42), (-0.05, -0.6)],
                 [(0.02, -0.46), (0.1, -0.58)]]  # fmt: skip
        tree.lines(twigs[:1], 0.035, "3b3a3d")
        tree.lines(twigs[1:], 0.016, "3b3a3d")
    for x in np.arange(-half, half + 0.1, 0.24) + random.uniform(-0.08, 0.08):
        stone = b.moved(x, 0.66, random.uniform(0.8, 1.1))
        if random.random() < 0.5:
            stone.lines([[(0, 0), (0, -0.17)], [(-0.05, -0.12), (0.05, -0.12)]], 0.028, "8c9298")
        else:
            stone.oval(0, -0.11, 0.055, 0.055, "9ba1a6")
            stone.box(-0.055, -0.11, 0.055, 0, "9ba1a6")
    coffin = b.moved(random.uniform(-0.35, 0.35) * half, 0.74)
    coffin.oval(0, 0.07, 0.4, 0.035, "3c433e")
    for x in (-0.22, 0.22):
        coffin.box(x - 0.025, -0.06, x + 0.025, 0.07, "2f2a2a")
    coffin.convex([(-0.36, -0.19), (0.36, -0.19), (0.33, -0.04), (-0.33, -0.04)], "5b3a26")
    coffin.convex([(-0.36, -0.19), (-0.27, -0.245), (0.27, -0.245), (0.36, -0.19)], "744b31")
    coffin.lines([[(-0.26, -0.1), (-0.16, -0.1)], [(0.16, -0.1), (0.26, -0.1)]], 0.014, "d9b45b")
    for k, angle in enumerate(TURN[::2]):
        x, y = 0.085 * math.cos(angle), -0.27 + 0.085 * math.sin(angle)
        coffin.disc(x, y, 0.032, _FLOWERS[k % 4])
    for side in (-1, 1):
        x = side * 0.45
        coffin.line([(x, 0.07), (x, -0.2)], 0.014, "2b2b2f")
        coffin.box(x - 0.022, -0.31, x + 0.022, -0.2, "f3eedd")
        coffin.oval(x, -0.345, 0.045, 0.055, "b9a987")
        coffin.oval(x, -0.34, 0.018, 0.032, "ffd166")


def _dog(b: Brush, random: Random) -> None:
    half = b.aspect / 2
    b.sky("9fd3ec", "e6f4f1", 0.6)
    _cloud(b, random.uniform(-half, half), 0.1, 0.08, "ffffff")
    b.ground(0.56, "8fbf6a")
    for x in np.arange(-half - 0.1, half + 0.15, 0.085):
        b.convex([(x, 0.6), (x, 0.33), (x + 0.033, 0.29), (x + 0.066, 0.33), (x + 0.066, 0.6)],
                 "f4ead7")  # fmt: skip
    b.box(-2, 0.38, 2, 0.405, "dfd1b8")
    b.box(-2, 0.51, 2, 0.535, "dfd1b8")
    b.ground(0.7, "cbbfae")
    b.ground(0.715, "d8cebf")
    side = random.choice((-1, 1))
    size = random.uniform(0.95, 1.1)
    dog = b.moved(side * (half - 0.3) + random.uniform(-0.05, 0.05), 0.8, (-side * size, size))
    coat = str(random.choice(["6b4226", "3f3a3a", "8a5a2b", "54463c"]))
    dark, light = shade(coat, 0.72), shade(coat, 1.35)
    dog.oval(0, 0.0, 0.33, 0.035, "b3a794")
    dog.line(curve((-0.24, -0.27), (-0.36, -0.34), (-0.32, -0.46)), 0.045, coat)
    for x, y, colour in (
        (-0.2, -0.02, dark),
        (0.1, -0.02, dark),
        (-0.15, 0, coat),
        (0.15, 0, coat),
    ):
        dog.line([(x, -0.2), (x - 0.01, -0.1), (x + 0.01, y - 0.03)], 0.07, colour)
        dog.oval(x + 0.025, y - 0.02, 0.05, 0.025, colour)
    dog.oval(-0.04, -0.27, 0.25, 0.115, coat)
    dog.oval(0.1, -0.3, 0.14, 0.14, coat)
    for x in np.linspace(-0.16, 0.06, 5):  # raised hackles
        dog.convex([(x - 0.03, -0.36), (x - 0.02, -0.44), (x + 0.04, -0.36)], dark)
    dog.line([(0.12, -0.38), (0.25, -0.29)], 0.03, "d62828")
    for x in (0.09, 0.27):
        dog.convex([(x - 0.05, -0.54), (x - 0.03, -0.68), (x + 0.055, -0.55)], dark)
    dog.disc(0.18, -0.48, 0.135, coat)
    dog.oval(0.29, -0.44, 0.125, 0.06, light)
    dog.shape([(0.2, -0.42), (0.41, -0.43), (0.37, -0.33), (0.24, -0.32)], "7a1020")
    dog.oval(0.3, -0.315, 0.085, 0.028, light)
    for x in np.linspace(0.23, 0.385, 5):
        dog.convex([(x - 0.017, -0.43), (x, -0.375), (x + 0.017, -0.43)], "ffffff")
        dog.convex([(x - 0.02, -0.325), (x - 0.007, -0.365), (x + 0.006, -0.325)], "ffffff")
    dog.oval(0.4, -0.475, 0.032, 0.026, "1d1a1a")
    dog.disc(0.225, -0.52, 0.034, "fff3b0")
    dog.disc(0.235, -0.515, 0.016, "c1121f")
    dog.line([(0.17, -0.58), (0.265, -0.545)], 0.025, "1d1a1a")
    for angle in (-0.5, 0, 0.5):  # barking
        dog.moved(0.34, -0.4, 1, angle).line([(0.16, 0), (0.23, 0)], 0.016, "c1121f")


def _race(b: Brush, random: Random) -> None:
    half = b.aspect / 2
    b.sky("7ec8f2", "d9f0fb", 0.4)
    b.box(-2, 0.25, 2, 0.5, "8d99ae")
    for row, y in enumerate((0.28, 0.34, 0.4)):
        b.box(-2, y + 0.015, 2, y + 0.05, "737f95")
        crowd = ("ef476f", "ffd166", "f1faee", "3a86ff", "ff8c42", "06d6a0")
        seats = np.arange(-half - 0.05, half + 0.05, 0.055) + 0.02 * (row % 2)
        taken = random.integers(6, size=len(seats))
        b.ovals(np.column_stack([seats, np.full(len(seats), y)]), 0.019, 0.019, "e8b796")
        for k, colour in enumerate(crowd):
            some = seats[taken == k]
            b.ovals(np.column_stack([some, np.full(len(some), y + 0.034)]), 0.024, 0.022, colour)
    b.ground(0.46, "6cab4e")
    b.ground(0.55, "c8553d")
    vanish = random.uniform(-0.15, 0.15)
    for lane in range(-6, 7):
        near, far = vanish + lane * 0.42, vanish + lane * 0.17
        b.convex([(far - 0.004, 0.55), (far + 0.004, 0.55), (near + 0.012, 1.1),
                  (near - 0.012, 1.1)], "fbeee6")  # fmt: skip
    reach = min(half - 0.07, 0.62)
    for x in (-reach, reach):
        b.box(x - 0.02, 0.05, x + 0.02, 0.66, "e9ecef")
        b.box(x - 0.045, 0.64, x + 0.045, 0.68, "495057")
    b.box(-reach - 0.04, 0.04, reach + 0.04, 0.2, "f8f9fa")
    squares = np.linspace(-reach - 0.04, reach + 0.04, 2 * round(reach / 0.04) + 1)
    checks = []
    for k, (left, right) in enumerate(pairwise(squares)):
        for top in (0.04, 0.16) if k % 2 else (0.08, 0.12):
            checks.append([(left, top), (right, top), (right, top + 0.04), (left, top + 0.04)])
    b.shapes(np.array(checks), "212529")
    b.box(-reach - 0.04, 0.1, reach + 0.04, 0.155, "d62828")


def _office(b: Brush, random: Random) -> None:
    half = b.aspect / 2
    b.sky("e3ebf3", "d3dfea", 0.7)
    b.ground(0.7, "b7c0cb")
    b.box(-2, 0.68, 2, 0.705, "f6f9fc")
    b.ground(0.73, "8e9bab")
    b.ground(0.745, "99a6b5")
    side = random.choice((-1, 1))
    board = b.moved(side * half * 0.45 + random.uniform(-0.03, 0.03), 0.25, (side, 1))
    board.box(-0.25, -0.17, 0.25, 0.17, "adb5bd")
    board.box(-0.235, -0.155, 0.235, 0.155, "ffffff")
    board.line([(-0.18, 0.08), (-0.08, 0), (0, 0.05), (0.16, -0.1)], 0.013, "3a86ff")
    for x, high in ((-0.17, 0.05), (-0.11, 0.09), (-0.05, 0.07)):
        board.box(x, 0.12 - high, x + 0.035, 0.12, "ef476f")
    board.lines([[(0.03, 0.08), (0.18, 0.08)], [(0.03, 0.12), (0.14, 0.12)]], 0.009, "495057")
    window = b.moved(-side * half * 0.55, 0.24)
    window.box(-0.17, -0.17, 0.17, 0.19, "ffffff")
    window.box(-0.15, -0.15, 0.15, 0.17, "a9d6f5")
    for x, high in ((-0.13, 0.14), (-0.05, 0.22), (0.04, 0.11), (0.1, 0.18)):
        window.box(x, 0.17 - high, x + 0.06, 0.17, "86a8c4")
    window.lines([[(0, -0.15), (0, 0.17)], [(-0.15, 0), (0.15, 0)]], 0.014, "ffffff")
    desk = b.moved(random.uniform(-0.3, 0.3) * half, 0.68, (side, 1))
    for x in (-0.36, 0.33):
        desk.box(x, -0.06, x + 0.03, 0.17, "6d5443")
    desk.box(0.14, -0.06, 0.34, 0.12, "94705a")
    desk.box(-0.41, -0.1, 0.41, -0.055, "b78a66")
    for x in (-0.13, 0.17):
        desk.box(x - 0.02, -0.16, x + 0.02, -0.1, "343a40")
        desk.box(x - 0.06, -0.115, x + 0.06, -0.1, "343a40")
        desk.box(x - 0.14, -0.34, x + 0.14, -0.14, "2b3036")
        desk.box(x - 0.125, -0.325, x + 0.125, -0.165, "4f6d8f")
        desk.lines([[(x - 0.1, y), (x + w, y)] for y, w in ((-0.29, 0.05), (-0.25, 0.08),
                   (-0.21, 0))], 0.011, "bfe3ff")  # fmt: skip
    desk.box(-0.37, -0.16, -0.31, -0.1, "ef476f")
    lamp = b.moved(random.uniform(-0.2, 0.2) * half, 0)
    lamp.line([(0, -0.2), (0, 0.04)], 0.008, "495057")
    lamp.convex([(-0.04, 0.03), (0.04, 0.03), (0.11, 0.09), (-0.11, 0.09)], "f9c74f")


def _storm(b: Brush, random: Random) -> None:
    half = b.aspect / 2
    b.sky("262c3d", "66708a", 0.65)
    for x in (-0.6, 0.6):
        b.oval(x * half, 0.66, 0.8, 0.2, "39443f")
    b.ground(0.66, "2f3b35")
    bolts = [random.uniform(-0.85, 0.85) * half]
    bolts += [bolts[0] + half * (0.9 if bolts[0] < 0 else -0.9)]
    for x in bolts:
        path = np.array([(0, 0.1), (-0.07, 0.33), (-0.01, 0.31), (-0.06, 0.55), (0.09, 0.25),
                         (0.025, 0.27), (0.09, 0.1)])  # fmt: skip
        b.moved(x, -0.02, (1.25, 1.06)).shape(path, "8f93b5")
        b.moved(x, 0).shape(path, "fff6b0")
    clouds = np.linspace(-half, half, 2 + round(b.aspect * 3))
    for colour, y in (("414a60", 0.12), ("2f3547", 0.05)):
        for x in clouds + random.uniform(-0.06, 0.06, len(clouds)):
            _cloud(b, x, y + random.uniform(-0.03, 0.03), 0.14, colour)
    tree = b.moved(random.choice((-1, 1)) * (half - 0.12), 0.7)
    tree.line(curve((0, 0), (0, -0.25), (0.1, -0.4)), 0.035, "231f20")
    for x, y, wide in ((0.13, -0.44, 0.12), (0.24, -0.4, 0.1), (0.05, -0.36, 0.08)):
        tree.oval(x, y, wide, 0.06, "22362c")
    for x in random.uniform(-half, half, 4):
        b.oval(x, random.uniform(0.78, 0.97), 0.13, 0.018, "566a78")


def _park(b: Brush, random: Random) -> None:
    half = b.aspect / 2
    b.sky("8fd3f4", "e8f7ee", 0.6)
    side = random.choice((-1, 1))
    for radius, colour in ((0.13, "c9e9e0"), (0.1, "ffe9a0"), (0.075, "ffd24a")):
        b.disc(side * (half - 0.16), 0.14, radius, colour)
    _cloud(b, -side * half * random.uniform(0.3, 0.8), 0.13, 0.08, "ffffff")
    b.oval(-0.5 * half, 0.68, 0.8, 0.2, "a9d88e")
    b.oval(0.7 * half, 0.7, 0.75, 0.19, "9bcf80")
    b.ground(0.62, "86c06c")
    for x in (-0.92, -0.42, 0.3, 0.85):
        leaf = str(random.choice(["4f9d5b", "62ad58", "3f8f63"]))
        _tree(b, x * half + random.uniform(-0.06, 0.06), random.uniform(0.62, 0.67),
              random.uniform(0.42, 0.6), leaf)  # fmt: skip
    b.shape([(0.05, 0.62), (0.1, 0.62), (0.25, 0.75), (-0.15, 0.86), (0.5, 1.1), (-0.7, 1.1),
             (-0.5, 0.85), (0.02, 0.74)], "e6d5a8")  # fmt: skip
    bench = b.moved(random.uniform(-0.55, 0.55) * half, 0.75)
    bench.lines([[(x, -0.17), (x, 0.03)] for x in (-0.17, 0.17)], 0.02, "4a4e54")
    for y in (-0.17, -0.125, -0.06):
        bench.line([(-0.22, y), (0.22, y)], 0.032, "a9683c")
    for x, y in random.uniform((-half, 0.68), (half, 0.99), (14, 2)):
        b.disc(x, y, 0.011, ("ffffff", "ffd24a", "f78fb3")[int(x * 99) % 3])


PLACES: dict[str, tuple[Callable[[Brush, Random], None], str]] = {
    "party": (_party, "b97f55"),
    "funeral": (_funeral, "39403b"),
    "dog": (_dog, "b9ae9c"),
    "race": (_race, "a34330"),
    "office": (_office, "7d8a9a"),
    "storm": (_storm, "222c28"),
    "park": (_park, "6ba654"),
}
"""Context to its painter, and the colour of shadows on its ground."""


def backdrop(size: tuple[int, int], context: str, random: Random) -> Brush:
    """Return a new image of (width, height) without people."""
    brush = Brush.from_size(size, _daylight(random), random.uniform(-0.035, 0.035))
    PLACES[context][0](brush, random)
    return brush


def _daylight(random: Random) -> Light:
    """Sample brightness, contrast and colour temperature."""
    warm = random.uniform(-0.05, 0.05) * np.array([[1], [0], [-1]])
    curve = (np.arange(256) / 255) ** random.uniform(0.85, 1.15)
    lit = np.rint(255 * curve * random.uniform(0.82, 1.08) * (1 + warm)).clip(0, 255)
    red, green, blue = (row.tobytes() for row in lit.astype(np.uint8))
    return red, green, blue


def shadow(brush: Brush, context: str, x: float, y: float, height: float) -> None:
    """Draw the shadow of a person of this height at x, y."""
    brush.oval(x, y, 0.2 * height, 0.03 * height, PLACES[context][1])


OBSTACLES = ("crate", "plant", "bin", "bush")
"""They occur in every context: the outline of a hidden person must not tell the context."""


def obstacle(brush: Brush, context: str, kind: str, x: float, y: float, size: float) -> None:
    """Paint one of `OBSTACLES` at x, y, about one `size` high."""
    b = brush.moved(x, y, size)
    b.oval(0, 0, 0.5, 0.06, PLACES[context][1])
    match kind:
        case "crate":
            b.box(-0.42, -0.62, 0.42, 0.02, "9a7446")
            b.box(-0.46, -0.74, 0.46, -0.56, "b58b57")
            b.lines([[(-0.4, y), (0.4, y)] for y in (-0.38, -0.2)], 0.03, "7d5c35")
        case "plant":
            for angle in (-1.0, -0.5, 0, 0.5, 1.0):
                leaf = b.moved(0, -0.35, 1, angle)
                leaf.oval(0, -0.3, 0.13, 0.36, "3f8f63" if angle in (-0.5, 0.5) else "57a773")
            b.convex([(-0.27, -0.4), (0.27, -0.4), (0.2, 0.02), (-0.2, 0.02)], "d9773f")
        case "bin":
            b.convex([(-0.33, -0.7), (0.33, -0.7), (0.27, 0.02), (-0.27, 0.02)], "4c5a67")
            b.box(-0.38, -0.8, 0.38, -0.68, "5d6d7c")
            b.lines([[(x, -0.6), (x * 0.8, -0.08)] for x in (-0.16, 0, 0.16)], 0.05, "3c4853")
        case _:
            for dx, dy, radius, colour in (
                (-0.32, -0.22, 0.27, "3e8a4e"), (0.32, -0.22, 0.27, "3e8a4e"),
                (0, -0.4, 0.36, "4a9a59"), (-0.1, -0.5, 0.17, "60ad6a"), (0, -0.1, 0.3, "3e8a4e"),
            ):  # fmt: skip
                b.disc(dx, dy, radius, colour)


def rain(brush: Brush, random: Random) -> None:
    """Draw rain. People are painted over it: seen on them, it would tell the context."""
    half = brush.aspect / 2 + 0.1
    drops = random.uniform((-half, -0.05), (half, 1), (round(50 * brush.aspect), 2))
    brush.lines(list(np.stack([drops, drops + np.array((-0.02, 0.065))], axis=1)), 0.004, "9fb2cc")
