"""Measure the cost of a frame without the models: read, track, estimate, write, on one thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path

import cv2
import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer

from emotion_perception import toy_world
from emotion_perception.core.labels import EMOTIC_LABELS
from emotion_perception.core.process import REARM_S, Watchdog
from emotion_perception.core.settings import Settings
from emotion_perception.core.values import Box, Frame
from emotion_perception.io.bags import Bag, image_message, typestore
from emotion_perception.io.image_decoding import COMPRESSED_IMAGE, IMAGE
from emotion_perception.perception.pipeline import Pipeline
from emotion_perception.replay.journal import Journal, JournaledDetector, JournaledRecognizer
from emotion_perception.replay.outputs import Outputs
from emotion_perception.replay.report.timeline_data import Timeline
from emotion_perception.replay.simulator import LOOKED_AT, Emission
from emotion_perception.testing.fakes import FakeRecognizer, ScriptedDetector

PEOPLE = (Box(100, 150, 330, 700), Box(500, 120, 760, 710), Box(900, 160, 1130, 690))
SIZE = (1280, 720)
RATE = 30


def measure(folder: Path, images: int = 90, compressed: bool = False) -> dict[str, float]:
    """Return the median milliseconds per frame of each part, with three standing people.

    Args:
        folder: an empty folder on a disk with 250 MB of free space.
        images: number of frames.
        compressed: whether the bag holds JPEG images instead of raw images.
    """
    _write(folder / "bag", images, compressed)
    stand_in = FakeRecognizer(lambda person: np.linspace(0.1, 0.9, 26).tolist(), EMOTIC_LABELS)
    settings = Settings.from_dict({"scheduler.refresh": 0.0})
    spent: list[dict[str, float]] = []

    @contextmanager
    def timed(part: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        spent[-1][part] = 1e3 * (time.perf_counter() - start)

    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    (folder / "out").mkdir()
    with (
        Bag(folder / "bag") as bag,
        Journal(folder / "journal") as journal,
        Outputs(folder / "out") as outputs,
    ):
        recognizer = JournaledRecognizer(stand_in, journal)
        detector = JournaledDetector(ScriptedDetector(PEOPLE), journal)
        pipeline = Pipeline(detector, recognizer, settings)
        timeline = Timeline(bag.start_ns, bag.end_ns, images)
        recorded = bag.images()
        for _ in range(images):
            spent.append({})
            with timed("read the image from the bag"):
                image = next(recorded)
            assert image.frame is not None
            with timed("track people, hold estimates"):
                people = pipeline.on_frame(image.frame)
            emissions = [Emission(image.received_ns, people, image.frame)]
            with timed("pass rounds and assessments"):
                if question := pipeline.next_round():
                    answer = recognizer.assess(question.scene, question.people)
                    people = pipeline.on_assessments(answer)
                    emissions.append(Emission(image.received_ns, people, image.frame))
            with timed("write JSON lines and MCAP"):
                for emission in emissions:
                    outputs.add(emission)
            with timed("update the report"):
                timeline.on_image(image, LOOKED_AT)
                for emission in emissions:
                    timeline.add(emission)
    cv2.setNumThreads(threads)
    steady = spent[images // 10 :]
    parts = {part: float(np.median([times[part] for times in steady])) for part in steady[0]}
    return parts | {"all": float(np.median([sum(times.values()) for times in steady]))}


def measure_watchdog(repeats: int = 200) -> dict[str, float]:
    """Return the milliseconds that the node's watchdog takes per frame and per answer.

    A step of the executor allows the next one; twice a second that replaces the timer. A frame at
    30 Hz takes two steps, its image and a share of the node's timers; an answer takes one.
    """

    def median_ms(step: Callable[[], None]) -> float:
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            step()
            times.append(1e3 * (time.perf_counter() - start))
        return float(np.median(times))

    watchdog = Watchdog()
    try:
        limits = cycle((1000.0, 2000.0))  # another limit replaces the timer
        replaced = median_ms(lambda: watchdog.allow(next(limits)))
        kept = median_ms(lambda: watchdog.allow(1000.0))
    finally:
        watchdog.close()
    share = replaced / (REARM_S * RATE)
    return {"a frame at 30 Hz": 2 * kept + share, "an answer": kept + share}


def _write(path: Path, images: int, compressed: bool) -> None:
    store, random = typestore(), np.random.default_rng(0)
    drawn = toy_world.draw_image(0, 0, size=SIZE).image
    noise = random.normal(0, 4, drawn.shape)  # of a camera; JPEG has to encode it
    image_array = np.clip(drawn + noise, 0, 255).astype(np.uint8)
    kind = COMPRESSED_IMAGE if compressed else IMAGE
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connection = writer.add_connection("/camera", kind, typestore=store)
        for number in range(images):
            stamp_ns = 10**9 + number * 10**9 // RATE
            message = image_message(Frame(np.roll(image_array, number, axis=1), stamp_ns, "camera"))
            if compressed:
                bgr = np.ascontiguousarray(message.data.reshape(*SIZE[::-1], 3)[..., ::-1])
                data = cv2.imencode(".jpg", bgr)[1].reshape(-1)
                message = store.types[kind](header=message.header, format="jpeg", data=data)
            writer.write(connection, stamp_ns, store.serialize_cdr(message, kind))
