"""The process of the node with models that misbehave as asked: `python hostile_node.py FAULT`."""

import ctypes
import dataclasses
import functools
import sys
import threading
import time

import numpy as np
import rclpy

from emotion_perception.core.values import Box, Vad
from emotion_perception.ros.main import main
from emotion_perception.ros.node import EmotionNode
from emotion_perception.testing.fakes import FakeRecognizer, ScriptedDetector

FAULT = sys.argv[1]


def hang():
    threading.Event().wait()


def hang_with_lock():
    """Wait in native code, which no signal interrupts, without releasing the interpreter lock."""
    mutex = ctypes.create_string_buffer(64)
    for _ in range(2):
        ctypes.PyDLL(None).pthread_mutex_lock(mutex)


class Unprintable(ValueError):
    def __str__(self):
        raise RuntimeError("no text")


def raises(error):
    def fail():
        raise error

    return fail


FAULTS = {
    "hang": hang,
    "hang_with_lock": hang_with_lock,
    "slow": lambda: time.sleep(4.0),
    "exit": raises(SystemExit()),
    "interrupt": raises(KeyboardInterrupt()),
    "unprintable": raises(Unprintable()),
    "shut_down": rclpy.shutdown,
}


def act(place):
    at, _, fault = FAULT.partition(":")
    if at == place:
        print(f"the fault {FAULT} begins", file=sys.stderr, flush=True)
        FAULTS[fault]()


def people_at(seconds):
    """One person who stays, and up to three who come and go."""
    boxes = [Box(10, 20, 60, 200)]
    if FAULT == "crowd":
        boxes += [
            Box(120 * i, 100, 120 * i + 80, 400) for i in (1, 2, 3) if seconds % (7 * i) < 3 * i
        ]
    return boxes


class Detector(ScriptedDetector):
    def detect(self, frame):
        act("detect")
        detections = super().detect(frame)
        if FAULT == "faces":
            faces = np.asarray([[20, 30, 40, 60]] * len(detections), np.float32)
            detections = dataclasses.replace(detections, faces=faces)
        return detections


class Recognizer(FakeRecognizer):
    def warm_up(self):
        act("load")

    def assess(self, scene, people):
        act("assess")
        if FAULT == "crowd":
            time.sleep(0.05)
            self.requests.clear()  # the record of a fake that would grow for ever
        assessments = super().assess(scene, people)
        if FAULT == "faces":
            vad = Vad(0.5, -0.25, 0.0)
            assessments = [dataclasses.replace(a, vad=vad) for a in assessments]
        return assessments


if __name__ == "__main__":
    make_node = functools.partial(
        EmotionNode,
        make_detector=lambda settings: Detector(people_at),
        make_recognizer=lambda settings: Recognizer(),
    )
    sys.exit(main(make_node=make_node))
