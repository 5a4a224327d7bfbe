"""One replay of a bag: simulated, or by a running node; with all files that come out of it.

    bag ──> Simulator or Player ──> Emission ──> Outputs       messages: lines, bag, table
                                        ├──────> Timeline      figures.json and report.html
                                        └──────> GroundTruthScorer  with --labels: labelled/

The session holds its run folder from the first result to the report.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from datetime import datetime, timezone
from types import TracebackType
from typing import Any, Protocol

import numpy as np

from emotion_perception.core.settings import SETTINGS, Settings
from emotion_perception.core.values import Cause
from emotion_perception.evaluation import runner
from emotion_perception.io import atomic, run_folder
from emotion_perception.io.bags import RecordedImage
from emotion_perception.io.run_folder import RunFolder, to_json
from emotion_perception.io.video_recording import VideoRecording
from emotion_perception.perception.pipeline import Pipeline
from emotion_perception.perception.privacy import FaceBlur
from emotion_perception.perception.stamps import LATE, REPEATED, stamp_warnings
from emotion_perception.replay.ground_truth import GroundTruth, GroundTruthScorer
from emotion_perception.replay.journal import Journal, JournaledDetector, JournaledRecognizer
from emotion_perception.replay.options import LiveOptions, Recording, ReplayOptions
from emotion_perception.replay.outputs import Outputs
from emotion_perception.replay.report import page
from emotion_perception.replay.report.timeline_data import Timeline
from emotion_perception.replay.simulator import LOOKED_AT, Emission, Latency, Simulator

JOURNAL, FIGURES, LATENCY, REPORT = "computed.jsonl", "figures.json", "latency.json", "report.html"
LABELLED = "labelled"
_LIBRARIES = ("numpy", "opencv-python", "rosbags", "torch", "transformers", "ultralytics")

Log = Callable[[str], None]
Progress = Callable[[int, int], None]
"""Receives the number of images done and the approximate number of images."""
OnImage = Callable[[RecordedImage, str], None]


class Player(Protocol):
    """Plays images into a running node; `ros.live_replay` has one."""

    def connect(self) -> dict[str, Any]:
        """Wait for the node, and return its parameters.

        Raises:
            ValueError: The node does not exist or is not ready.
        """

    def run(
        self, images: Iterator[RecordedImage], on_image: OnImage, lockstep: bool, rate: float
    ) -> Iterator[Emission]:
        """Play the images, and yield the messages of the node.

        Raises:
            ValueError: The node ends or does not answer.
        """


OpenPlayer = Callable[[LiveOptions, str], AbstractContextManager[Player]]
"""Connects to the node of the options, for an image topic."""


@atomic.private()
def replay(
    options: ReplayOptions,
    log: Log = print,
    progress: Progress = lambda done, total: None,
    open_player: OpenPlayer | None = None,
) -> bool:
    """Replay a recording, or resume; write messages, figures and the report into the run folder.

    Args:
        options: What is replayed, and how.
        log: Called with each line for the user.
        progress: Called after each image.
        open_player: Connects to a running node; needed with `options.live`.

    Returns:
        Whether all images were replayed and all questions answered.

    Raises:
        ValueError: An option is not allowed, the bag or the ground truth cannot be used, or the
            folder holds another run.
        OSError: A file cannot be read or written.
    """
    truth = GroundTruth.read(options.labels) if options.labels else None
    with (
        run_folder.hold(options.folder),
        options.bag.open() as bag,
        ReplaySession(options, bag, log, progress) as session,
    ):
        try:
            if options.live is None:
                session.simulate(truth)
            else:
                assert open_player is not None
                session.play(options.live, open_player)
        except KeyboardInterrupt:
            log(
                f"interrupted; {options.folder} keeps what was computed: start the same command "
                "again to resume"
            )
            raise
        return session.finish()


class ReplaySession:
    """One replay and everything that comes out of it. A context manager."""

    def __init__(
        self, options: ReplayOptions, bag: Recording, log: Log, progress: Progress
    ) -> None:
        """Prepare a replay; nothing is written yet.

        Raises:
            ValueError: The selected part of the bag contains no image.
        """
        self._options, self._bag = options, bag
        self._log, self._progress = log, progress
        start_ns, end_ns = options.bag.interval(bag)
        if not len(bag) or start_ns >= bag.end_ns:
            raise ValueError(self._no_image("the bag has no image there"))
        self._expected = options.bag.expected_images(bag)
        self._timeline = Timeline(start_ns, end_ns, max(self._expected, 1))
        self._observers: list[Timeline | GroundTruthScorer] = [self._timeline]
        self._scorer: GroundTruthScorer | None = None
        self._error = ""
        """Why the replay ended early."""
        self._failures: Counter[str] = Counter()
        self._wrong_boxes: Counter[str] = Counter()
        self._timing: dict[str, Any] = {}
        self._manifest: dict[str, Any] = {}
        self._stack = ExitStack()

    def __enter__(self) -> ReplaySession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def simulate(self, truth: GroundTruth | None) -> None:
        """Replay in simulated time, with the models of this computer.

        Raises:
            ValueError: A setting is not allowed, or the folder holds another run.
            ModelError: A model cannot be loaded.
        """
        settings, latency = self._options.bag.settings(), Latency.read(self._options.latency)
        from emotion_perception.perception.detection import make_detector
        from emotion_perception.recognizers.computation import explicit
        from emotion_perception.recognizers.registry import make_recognizer

        settings = replace(settings, recognizer=explicit(settings.recognizer))
        with ExitStack() as models:
            detector = make_detector(settings.detector)
            models.callback(detector.close)
            recognizer = make_recognizer(settings.recognizer)
            models.callback(recognizer.close)
            weights = runner.model_fingerprint(
                settings.recognizer, getattr(settings.detector, "model", "")
            )
            folder = self._claim(
                settings.to_dict(),
                latency=[latency.image, *latency.answers],
                weights=weights,
                calibration=recognizer.calibration,
            )
            journal = models.enter_context(Journal(folder.path / JOURNAL))
            journaled = JournaledRecognizer(recognizer, journal)
            journaled.warm_up()
            if truth is not None:
                self._scorer = GroundTruthScorer(
                    truth, self._bag.start_ns, journaled.labels, journaled.thresholds
                )
                self._observers.append(self._scorer)
            pipeline = Pipeline(
                JournaledDetector(detector, journal), journaled, settings, run_id=self._run_id()
            )

            def run(on_image: OnImage) -> Iterator[Emission]:
                simulator = Simulator(pipeline, journaled, latency, on_image)
                self._failures = simulator.failures
                self._wrong_boxes = pipeline.wrong_detections
                return simulator.run(self._images())

            self._record(folder, run, settings)
            if journal.remembered:
                self._log(f"{journal.remembered:,} results were read from the interrupted replay")
            self._timing = _timing(journal)

    def play(self, live: LiveOptions, open_player: OpenPlayer) -> None:
        """Replay with a running node, in real time or in lockstep.

        Raises:
            ValueError: The node does not exist or is not ready, or the folder holds another run.
        """
        topic = live.topic or self._bag.topic
        with open_player(live, topic) as player:
            self._log(f"waiting for {live.node}, which has to subscribe to {topic}")
            parameters = player.connect()
            folder = self._claim(parameters, live=True, lockstep=live.lockstep)

            def run(on_image: OnImage) -> Iterator[Emission]:
                images = self._images()
                try:
                    yield from player.run(images, on_image, live.lockstep, live.rate or 1.0)
                except ValueError as error:  # the messages so far are kept
                    self._error = str(error)

            self._record(folder, run, Settings.from_dict(parameters))

    def finish(self) -> bool:
        """Write figures and report, log a summary, and return whether the replay is complete.

        It is not if most images were skipped for their stamps.

        Raises:
            ValueError: No row of the ground truth is about an image of the replay.
            OSError: A file cannot be written.
        """
        folder = self._options.folder
        figures = self._timeline.figures() | {
            "skipped": dict(self._bag.skipped),
            "ended": self._error,
            "failures": dict(self._failures),
            "timing": self._timing,
            "labelled": None,
        }
        labels_error: ValueError | None = None
        if self._scorer is not None:
            shutil.rmtree(folder / LABELLED, ignore_errors=True)
            try:
                figures["labelled"] = self._scorer.figures(folder / LABELLED)
            except ValueError as error:
                labels_error = error
        files = {FIGURES: to_json(figures), REPORT: self._report(figures).encode()}
        if self._timing.get("answer_seconds"):
            files[LATENCY] = to_json(_latency_file(self._timing))
        self._stack.enter_context(RunFolder.claim(folder, self._manifest)).write(files)
        for warning in self._warnings():
            self._log(f"Warning: {warning}")
        self._log_summary(figures)
        if labels_error is not None:
            raise labels_error
        outcomes = self._timeline.outcomes
        misstamped = outcomes[REPEATED] + outcomes[LATE] > outcomes[LOOKED_AT]
        return not (self._error or self._failures or misstamped)

    def _claim(self, settings: Mapping[str, Any], **how: Any) -> RunFolder:
        """Claim the run folder until the end of the session."""
        self._manifest = {
            "bag": self._options.bag.path.resolve().name,
            "topic": self._bag.topic,
            "data": self._bag.fingerprint(),
            "part": self._options.bag.part(),
            **how,
            "settings": dict(settings),
        }
        return self._stack.enter_context(RunFolder.claim(self._options.folder, self._manifest))

    def _run_id(self) -> str:
        """Return an id of the bag and of everything that the ids of its people depend on."""
        manifest = json.dumps(self._manifest, sort_keys=True, default=str)
        return f"{self._manifest['data']}-{hashlib.sha256(manifest.encode()).hexdigest()[:8]}"

    def _record(
        self,
        folder: RunFolder,
        run: Callable[[OnImage], Iterator[Emission]],
        settings: Settings,
    ) -> None:
        """Pass images and messages to the output files and the observers.

        Recorded images pass as they are, or blurred; then only those that were looked at, since the
        people in the others are unknown.

        Raises:
            ValueError: No image was looked at.
        """
        done, blur = 0, FaceBlur(settings)
        self._timeline.blur = blur
        with Outputs(folder.path, self._bag.topic if self._options.images else "") as outputs:

            def on_image(image: RecordedImage, outcome: str) -> None:
                nonlocal done
                done += 1
                self._progress(done, max(self._expected, done))
                if not blur.is_on:
                    outputs.add_image(image)
                for observer in self._observers:
                    observer.on_image(image, outcome)

            try:
                for emission in run(on_image):
                    if blur.is_on and emission.people.cause is Cause.FRAME:
                        outputs.add_frame(emission, blur)
                    outputs.add(emission)
                    for observer in self._observers:
                        observer.add(emission)
            except KeyboardInterrupt:
                if self._options.live is None:
                    raise  # the journal keeps the answers, and the next start resumes
                self._error = "interrupted"
            if not self._timeline.outcomes[LOOKED_AT]:
                raise ValueError(
                    self._no_image("; ".join(self._warnings()) or "no image was looked at")
                )

    def _images(self) -> Iterator[RecordedImage]:
        """Yield the images of the bag, up to where it is damaged."""
        try:
            yield from self._options.bag.images(self._bag)
        except ValueError as error:
            self._error = str(error)

    def _no_image(self, reason: str) -> str:
        return (
            f"cannot replay {self._bag.path}: no image on {self._bag.topic} in the selected time: "
            f"{reason}; choose another --topic, --start or --duration"
        )

    def _warnings(self) -> list[str]:
        failed = [f"{n} questions had no answer: {why}" for why, n in self._failures.items()]
        stamps = stamp_warnings(self._timeline.outcomes, self._timeline.clock_jumps)
        ended = [self._error] if self._error else []
        failed += [f"{n} images had wrong boxes: {why}" for why, n in self._wrong_boxes.items()]
        enabled = self._manifest["settings"].get("depth.enabled")
        depth = ["depth.enabled has no effect: a replay reads no depth images"] if enabled else []
        return [*ended, *failed, *stamps, *depth, *self._bag.skip_warnings()]

    def _report(self, figures: Mapping[str, Any]) -> str:
        """Return the report as HTML."""
        settings = self._manifest["settings"]
        changed = {k: v for k, v in settings.items() if v != SETTINGS[k].default}
        title = f"Replay of {self._bag.path.name}"
        return page.page(title, self._timeline, self._facts(), figures, changed, self._warnings())

    def _facts(self) -> dict[str, str]:
        """Return what the report states about how it was made."""
        start = datetime.fromtimestamp(self._bag.start_ns / 1e9, timezone.utc)
        recorded = f"{start:%Y-%m-%d %H:%M:%S} UTC by the recorder's clock"
        if isinstance(self._bag, VideoRecording):
            recorded = "unknown: the times of a video count from its first frame"
        settings, live = self._manifest["settings"], self._options.live
        detector = settings["detector.name"]
        model = settings["detector.model"] if detector in ("yolo", "detr") else ""
        part = self._manifest["part"].items()
        if live is None:
            time = f"simulated, answers after {self._options.latency} s"
        else:
            step = "waiting for every answer" if live.lockstep else "in real time"
            time = f"played into a running node, {step}"
        return {
            "bag": f"{self._bag.path}, {self._bag.topic}",
            "recorded": recorded,
            "part": ", ".join(f"{name} {value}" for name, value in part if value is not None),
            "fingerprint of the data": self._manifest["data"],
            "emotions by": self._timeline.model or "no recognizer was called",
            "calibration": self._timeline.calibration or "none",
            "people by": " ".join(filter(None, (detector, model))),
            "time": time,
            "command": self._options.command,
            "computed": f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC on {_machine()}",
            "versions": _versions(),
        }

    def _log_summary(self, figures: Mapping[str, Any]) -> None:
        self._log(
            f"{figures['messages']:,} messages about {figures['fates'][LOOKED_AT]:,} of "
            f"{figures['images']:,} images and {figures['people']} people; "
            f"{figures['answers']:,} answers"
        )
        if labelled := figures["labelled"]:
            if "detection_recall" in labelled:
                self._log(
                    f"{100 * labelled['detection_recall']:.1f} % of the labelled people were "
                    f"detected; IDF1 {labelled['identity_f1']:.3f}, "
                    f"{labelled['identity_switches']} switches"
                )
            if not labelled["answers"]:
                self._log("no answer is about a person with labels: fill in the table")
            self._log(
                f"{labelled['answers_with_a_true_leading_label']} of {labelled['answers']} answers "
                "about them have a true leading label"
            )
        self._log(f"the report is {self._options.folder / REPORT}")


def _timing(journal: Journal) -> dict[str, Any]:
    """Return what the models took on this machine."""
    return {
        "image_seconds": _median(journal.detecting),
        "answer_seconds": {
            str(people): _median(seconds) for people, seconds in sorted(journal.assessing.items())
        },
    }


def _median(seconds: list[float]) -> dict[str, float]:
    middle, high = np.percentile(seconds or [0.0], (50, 95))
    return {"median": round(float(middle), 6), "percentile_95": round(float(high), 6)}


def _latency_file(timing: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of latency.json, which `Latency.read` reads on another machine."""
    medians = {people: x["median"] for people, x in timing["answer_seconds"].items()}
    image = timing["image_seconds"]["median"]
    return {"machine": _machine(), "image_seconds": image, "answer_seconds": medians}


def _machine() -> str:
    return f"{platform.node()} ({platform.machine()}, {platform.system()})"


def _versions() -> str:
    versions = runner.library_versions(_LIBRARIES)
    own = importlib.metadata.version("emotion_perception")
    names = [f"emotion_perception {own}", *(f"{n} {version}" for n, version in versions.items())]
    return ", ".join([*names, f"Python {platform.python_version()}"])
