"""Parameter files, and what ROS 2 Jazzy gives a node of them (compared by test/ros)."""

import math

NAMES = {
    # section: which of the nodes /emotion_node, /robot1/emotion_node, /a/robot1/emotion_node get it
    "/**": (True, True, True),
    "/*": (True, False, False),
    "/**/emotion_node": (True, True, True),
    "/*/emotion_node": (False, True, False),
    "emotion_node": (True, False, False),
    "/emotion_node": (True, False, False),
    "/robot1/emotion_node": (False, True, False),
    "robot1/emotion_node": (False, True, False),
    "/robot1/*": (False, True, False),
    "/robot1/**": (False, True, False),
    "*": (True, False, False),
    "**": (True, True, True),
    "/camera": (False, False, False),
}
NODES = ("/emotion_node", "/robot1/emotion_node", "/a/robot1/emotion_node")

NESTED = {
    "/**:\n  emotion_node:\n    ros__parameters: {a: 1}\n": (True, True, True),
    "/robot1:\n  emotion_node:\n    ros__parameters: {a: 1}\n": (False, True, False),
    "robot1:\n  emotion_node:\n    ros__parameters: {a: 1}\n": (False, True, False),
    "/a:\n  robot1:\n    emotion_node:\n      ros__parameters: {a: 1}\n": (False, False, True),
}

ORDERS = {
    "/emotion_node: {ros__parameters: {a: 1}}\n/**: {ros__parameters: {a: 2}}\n": {"a": 2},
    "/**: {ros__parameters: {a: 2}}\n/emotion_node: {ros__parameters: {a: 1}}\n": {"a": 1},
    "/**: {ros__parameters: {a: 1, b: 1}}\n/*: {ros__parameters: {b: 2}}\n": {"a": 1, "b": 2},
    "/**: {ros__parameters: {a.b: 1, a: {c: 2}}}\n": {"a.b": 1, "a.c": 2},
}

VALUES = {
    "1e1": 10.0, "12e03": 12000.0, "1.": 1.0, ".5": 0.5, "-1.5e-3": -0.0015, "08": 8.0,
    "y": True, "Y": True, "yes": True, "on": True, "True": True, "TRUE": True, "tRUE": "tRUE",
    "n": False, "No": False, "off": False, "false": False,
    "010": 8, "0x1F": 31, "-0x10": -16, "+5": 5, "0": 0, "1_000": "1_000", "0b11": "0b11",
    "9223372036854775808": 9223372036854775808.0,
    ".inf": math.inf, "-.inf": -math.inf, "inf": math.inf, "infinity": math.inf,
    "1e400": "1e400", "2024-01-01": "2024-01-01", "~": "~", "null": "null",
    '""': "", '"1"': "1", "'y'": "y", "hello": "hello", "1d": "1d", "!!str 5": "5",
    "[1, 2]": [1, 2], "[y, n]": [True, False], "[a, b]": ["a", "b"],
}  # fmt: skip
