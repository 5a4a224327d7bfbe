"""Measure a node that gets camera images at full rate, with stand-in or with small models.

    camera (own process) ──> image ──> node (own process) ──> ~/emotions ──> measure()

With stand-ins, what remains is the cost of everything around the models: middleware, decoding,
tracking, messages.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import rclpy
from rclpy.qos import QoSProfile

from emotion_perception.core.labels import EMOTIC_LABELS
from emotion_perception.core.values import (
    Assessment,
    Cause,
    Detections,
    Frame,
    Scene,
    Track,
)
from emotion_perception.ros.camera_player import (
    CameraPlayer,
    config_folder,
    use_large_image_profile,
)
from emotion_perception.ros.conversions import PersonEmotionArray, people_from_msg
from emotion_perception.ros.main import main
from emotion_perception.ros.node import EmotionNode

RATE, IMAGES, SIZE = 30, 360, (1280, 720)
STAND_INS, SMALL = "stand-ins", "small_world"
_WARM_UP = 30  # images before the measured ones
_START_S = 60.0
_TOPIC = "/emotion_node/emotions"


def measure() -> list[dict[str, Any]]:
    """Return the figures of each case: models, transport, number of people, what was measured.

    Latency is counted from the stamp of an image, when it is published, to the arrival of its
    message at a subscriber; CPU time is that of the process of the node, all threads.

    Raises:
        ValueError: The node or the camera does not work.
    """
    use_large_image_profile()
    cases = [
        *itertools.product((STAND_INS,), ("raw", "compressed"), (0, 4)),
        *itertools.product((SMALL,), ("raw",), (0, 4)),
    ]
    return [measure_case(*case) for case in cases]


def measure_case(models: str, transport: str, people: int, images: int = IMAGES) -> dict[str, Any]:
    """Return the figures of one case, see `measure`.

    Args:
        models: `STAND_INS`, or the name of a parameter file.
        transport: raw or compressed.
        people: Number of people in the images.
        images: Number of images, after those that warm up.
    """
    arrived: dict[int, int] = {}

    def receive(message: PersonEmotionArray) -> None:
        now_ns, estimate = time.time_ns(), people_from_msg(message)
        if estimate.cause is Cause.FRAME:
            arrived.setdefault(estimate.stamp_ns, now_ns)

    rclpy.init(args=[])
    listener = rclpy.create_node("load_measurement")
    listener.create_subscription(PersonEmotionArray, _TOPIC, receive, QoSProfile(depth=100))
    options = ("--ros-args", "-p", f"image_transport:={transport}")
    with contextlib.ExitStack() as children:
        node = children.enter_context(_child("node", models, str(people), *options))
        end = time.monotonic() + 2 * _START_S + (images + _WARM_UP) / RATE
        while not listener.count_publishers(_TOPIC) and node.poll() is None:
            rclpy.spin_once(listener, timeout_sec=0.05)
        camera = children.enter_context(_child("camera", transport, str(people), str(images)))
        begin_s = before_s = 0.0
        while camera.poll() is None:
            rclpy.spin_once(listener, timeout_sec=0.05)
            if node.poll() is not None or time.monotonic() > end:
                raise ValueError("cannot measure the node: it ended, or no image arrives")
            if not begin_s and len(arrived) >= _WARM_UP:
                begin_s, before_s = time.monotonic(), _cpu_s(node.pid)
        used_s, seconds = _cpu_s(node.pid) - before_s, time.monotonic() - begin_s
        assert camera.stdout is not None
        first_ns = int(camera.stdout.read())
    listener.destroy_node()
    rclpy.try_shutdown()
    delays = [(at - stamp) / 1e6 for stamp, at in arrived.items() if stamp >= first_ns]
    return {
        "models": models,
        "transport": transport,
        "people": people,
        "images": images,
        "looked at": len(delays),
        "CPU [% of one core]": 100 * used_s / seconds,
        "p50 [ms]": statistics.median(delays),
        "p95 [ms]": statistics.quantiles(delays, n=20)[-1],
    }


def _cpu_s(pid: int) -> float:
    """Return the seconds that all threads of a process have computed."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def _child(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", __name__, *arguments]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        yield child
    finally:
        child.terminate()
        child.wait()


class _StandIn:
    """A detector of people who stand in a row, and a recognizer that answers at once."""

    name, calibration = "stand-in", ""
    labels = EMOTIC_LABELS
    thresholds = np.full(len(EMOTIC_LABELS), 0.5)

    def __init__(self, people: int) -> None:
        left = np.arange(people) * SIZE[0] / max(people, 1)
        corners = [[x, 100, x + 150, 700] for x in left]
        self._detections = Detections.from_lists(corners, [0.9] * people)
        self._scores = np.linspace(0.1, 0.9, len(self.labels))

    def detect(self, frame: Frame) -> Detections:
        return self._detections

    def warm_up(self) -> None:
        pass

    def assess(self, scene: Scene, people: Sequence[Track]) -> list[Assessment]:
        return [Assessment(p.person_id, scene.frame.stamp_ns, self._scores) for p in people]

    def close(self) -> None:
        pass


def _run_camera(transport: str, people: int, images: int) -> None:
    from emotion_perception import toy_world

    rclpy.init(args=[])
    node = rclpy.create_node("camera")
    player = CameraPlayer(node, "image", transport)
    image = np.full((*SIZE[::-1], 3), 128, np.uint8)
    if people:
        image = toy_world.draw_image(1, 0, size=SIZE, people=(people, people)).image
    noise = np.random.default_rng(0).normal(0, 4, image.shape)  # of a camera; JPEG has to encode it
    image = np.clip(image + noise, 0, 255).astype(np.uint8)
    message = player.to_msg(Frame(image, 0, "camera"))
    while not player.listeners:
        rclpy.spin_once(node, timeout_sec=0.1)
    begin = time.monotonic() + 1.0
    for number in range(_WARM_UP + images):
        time.sleep(max(begin + number / RATE - time.monotonic(), 0.0))
        stamp_ns = time.time_ns()
        player.send(message, stamp_ns)
        if number == _WARM_UP:
            print(stamp_ns, flush=True)
    time.sleep(0.5)
    rclpy.try_shutdown()


def _run_node(models: str, people: int, arguments: Sequence[str]) -> int:
    if models != STAND_INS:
        parameters = str(config_folder() / f"{models}.yaml")
        return main([sys.argv[0], *arguments, "--params-file", parameters])
    stand_in = _StandIn(people)
    make_node = functools.partial(
        EmotionNode, make_detector=lambda s: stand_in, make_recognizer=lambda s: stand_in
    )
    return main([sys.argv[0], *arguments], make_node)


if __name__ == "__main__":
    role, *words = sys.argv[1:]
    if role == "camera":
        _run_camera(words[0], *map(int, words[1:]))
    else:
        sys.exit(_run_node(words[0], int(words[1]), words[2:]))
