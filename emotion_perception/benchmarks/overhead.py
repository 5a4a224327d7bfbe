"""What a frame costs beside the models: reading, following, holding, writing, one thread."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer

from emotion_perception import toy_world
from emotion_perception.core.labels import EMOTIC_LABELS
from emotion_perception.core.settings import Settings
from emotion_perception.core.values import Box, Frame
from emotion_perception.io.bags import Bag, image_message, typestore
from emotion_perception.io.image_decoding import COMPRESSED_IMAGE, IMAGE
from emotion_perception.perception.pipeline import Pipeline
from emotion_perception.replay.journal import Journal, JournaledDetector, JournaledRecognizer
from emotion_perception.replay.outputs import Outputs
from emotion_perception.replay.report.timeline_data import Timeline
from emotion_perception.replay.simulator import LOOKED_AT, Said
from emotion_perception.testing.fakes import FunctionRecognizer, ScriptedDetector

PEOPLE = (Box(100, 150, 330, 700), Box(500, 120, 760, 710), Box(900, 160, 1130, 690))
SIZE = (1280, 720)
RATE = 30


def measure(folder: Path, images: int = 90, compressed: bool = False) -> dict[str, float]:
    """Milliseconds a frame of three people who stand, part by part: medians.

    Args:
        folder: an empty one on a disk with some 250 MB to spare.
        compressed: the bag holds JPEGs instead of raw images.
    """
    _write(folder / "bag", images, compressed)
    judges = FunctionRecognizer(lambda person: np.linspace(0.1, 0.9, 26).tolist(), EMOTIC_LABELS)
    settings = Settings.from_dict({"scheduler.refresh": 0.0})
    spent: list[dict[str, float]] = []

    @contextmanager
    def timed(part: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        spent[-1][part] = 1e3 * (time.perf_counter() - began)

    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    (folder / "out").mkdir()
    with (
        Bag(folder / "bag") as bag,
        Journal(folder / "journal") as journal,
        Outputs(folder / "out") as outputs,
    ):
        recognizer = JournaledRecognizer(judges, journal)
        detector = JournaledDetector(ScriptedDetector(PEOPLE), journal)
        perception = Pipeline(detector, recognizer, settings)
        timeline = Timeline(bag.start_ns, bag.end_ns, images)
        recorded = bag.images()
        for _ in range(images):
            spent.append({})
            with timed("image out of the bag"):
                image = next(recorded)
            assert image.frame is not None
            with timed("people followed and held"):
                people = perception.on_frame(image.frame)
            said = [Said(image.received_ns, people, image.frame)]
            with timed("questions and answers"):
                if question := perception.next_round():
                    answer = recognizer.assess(question.scene, question.people)
                    people = perception.on_assessments(answer)
                    said.append(Said(image.received_ns, people, image.frame))
            with timed("JSON lines and MCAP"):
                for one in said:
                    outputs.add(one)
            with timed("the report"):
                timeline.on_image(image, LOOKED_AT)
                for one in said:
                    timeline.add(one)
    cv2.setNumThreads(threads)
    steady = spent[images // 10 :]
    parts = {part: float(np.median([one[part] for one in steady])) for part in steady[0]}
    return parts | {"all": float(np.median([sum(one.values()) for one in steady]))}


def _write(path: Path, images: int, compressed: bool) -> None:
    store, random = typestore(), np.random.default_rng(0)
    drawn = toy_world.scene(0, 0, size=SIZE).image
    noise = random.normal(0, 4, drawn.shape)  # as of a camera, which a JPEG has to carry, too
    picture = np.clip(drawn + noise, 0, 255).astype(np.uint8)
    kind = COMPRESSED_IMAGE if compressed else IMAGE
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connection = writer.add_connection("/camera", kind, typestore=store)
        for number in range(images):
            stamp_ns = 10**9 + number * 10**9 // RATE
            message = image_message(Frame(np.roll(picture, number, axis=1), stamp_ns, "camera"))
            if compressed:
                bgr = np.ascontiguousarray(message.data.reshape(*SIZE[::-1], 3)[..., ::-1])
                data = cv2.imencode(".jpg", bgr)[1].reshape(-1)
                message = store.types[kind](header=message.header, format="jpeg", data=data)
            writer.write(connection, stamp_ns, store.serialize_cdr(message, kind))
