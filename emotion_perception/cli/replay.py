"""What the node would have said about a recorded bag, with a report to look at."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import shlex
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from emotion_perception.cli.options import add_parameters, plain_console, read_parameters
from emotion_perception.core.settings import SETTINGS, Settings, read_parameter_file
from emotion_perception.evaluation import runner
from emotion_perception.io import atomic
from emotion_perception.io.bags import Bag, RecordedImage
from emotion_perception.io.run_folder import RunFolder
from emotion_perception.perception.pipeline import Pipeline
from emotion_perception.replay import ground_truth, outputs
from emotion_perception.replay.journal import Journal, JournaledDetector, JournaledRecognizer
from emotion_perception.replay.report import page
from emotion_perception.replay.report.timeline_data import Timeline
from emotion_perception.replay.simulator import LOOKED_AT, Emission, Latency, Simulator

JOURNAL, FIGURES, LATENCY, REPORT = "computed.jsonl", "figures.json", "latency.json", "report.html"
_LONGEST = 1e8  # seconds, three years
_LIBRARIES = ("numpy", "opencv-python", "rosbags", "torch", "transformers", "ultralytics")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_bag_arguments(parser)
    parser.add_argument(
        "--latency",
        metavar="SECONDS|FILE",
        default="0",
        help="what the model takes for an answer: seconds, or the latency.json of a replay on "
        "another machine; default 0: it answers at once",
    )
    parser.add_argument("--labels", type=Path, metavar="FILE", help="what is true: a CSV file")
    parser.add_argument("--images", action="store_true", help="the bag holds the images, too")
    parser.add_argument(
        "--live",
        action="store_true",
        help="play into a running node over real topics, with /clock, instead",
    )
    parser.add_argument(
        "--lockstep", action="store_true", help="with --live: wait for all answers to each image"
    )
    parser.add_argument("--rate", type=float, help="with --live: how fast; default 1")
    parser.add_argument("--node", help="with --live: default /emotion_node")
    parser.add_argument("--image-topic", help="with --live: default the name in the bag")
    parser.add_argument(
        "--patience", type=float, help="with --live: seconds to wait for the node; default 60"
    )
    parser.add_argument("--out", type=Path, help="a folder; default: one in out/replay")


def add_bag_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that tell which images, and which settings."""
    parser.add_argument("bag", type=Path, help="a ROS 2 bag (sqlite3, MCAP) or a ROS 1 .bag file")
    parser.add_argument("--topic", default="", help="of the images; default: the only one")
    parser.add_argument("--params-file", type=Path, help="a parameter file of the node")
    add_parameters(parser, "a parameter of the node, as in `-p recognizer.name:=face`")
    parser.add_argument(
        "--every", type=int, default=1, help="decode only every n-th image; default: 1"
    )
    parser.add_argument("--start", type=float, default=0.0, help="seconds after the beginning")
    parser.add_argument("--duration", type=float, help="seconds from there; default: to the end")


def run(arguments: argparse.Namespace) -> int:
    """Run the command; return its exit status."""
    _check(arguments)
    console = plain_console(stderr=True)
    truth = ground_truth.GroundTruth.read(arguments.labels) if arguments.labels else None
    folder = arguments.out or Path("out/replay") / arguments.bag.stem
    with Bag(arguments.bag, arguments.topic) as bag:
        replay = _Replayed(arguments, bag, folder, console)
        try:
            if arguments.live:
                replay.live()
            else:
                replay.offline(truth)
        except KeyboardInterrupt:
            say(console, f"interrupted; what was computed is kept in {folder}: "
                         "the same command goes on")  # fmt: skip
            raise
        return replay.finish()


def read_settings(arguments: argparse.Namespace) -> Settings:
    """From the parameter file, and what is given beside it."""
    values: dict[str, Any] = {}
    if arguments.params_file:
        values |= read_parameter_file(arguments.params_file)
    return Settings.from_dict(values | read_parameters(arguments.parameter))


def check_bag_arguments(arguments: argparse.Namespace) -> None:
    """Check the options of `add_bag_arguments`.

    Raises:
        ValueError: an option is not allowed.
    """
    if arguments.every < 1:
        raise ValueError(f"--every {arguments.every}: choose 1 for every image, 2 for every other")
    if not 0 <= arguments.start < _LONGEST:
        raise ValueError(f"--start {arguments.start}: choose 0 s, the beginning, or later")
    if arguments.duration is not None and not 0 < arguments.duration < _LONGEST:
        raise ValueError(f"--duration {arguments.duration}: choose more than 0 s")


def _check(arguments: argparse.Namespace) -> None:
    check_bag_arguments(arguments)
    only_live = ("lockstep", "rate", "node", "image_topic", "patience")
    values = {name: getattr(arguments, name) for name in only_live}
    given = [name for name, value in values.items() if not (value is None or value is False)]
    if given and not arguments.live:
        raise ValueError(f"--{given[0].replace('_', '-')} is for --live: add it")
    if arguments.rate is not None and not 0 < arguments.rate <= 100:
        raise ValueError(f"--rate {arguments.rate}: choose a factor above 0, as 0.5 or 2")
    if arguments.lockstep and arguments.rate is not None:
        raise ValueError("--lockstep goes as fast as the node answers: leave --rate out")
    if arguments.patience is not None and not 0 < arguments.patience < _LONGEST:
        raise ValueError(f"--patience {arguments.patience}: choose seconds above 0")
    if arguments.live and (arguments.labels or arguments.params_file or arguments.parameter):
        raise ValueError(
            "--live plays into a node with settings of its own: set them there; --labels needs a "
            "replay without --live"
        )
    if arguments.live and arguments.latency != "0":
        raise ValueError("--latency is for a replay without --live, where time is simulated")


def say(console: Console, text: str, style: str = "") -> None:
    """Print a line as it is, however long."""
    console.print(text, style=style, highlight=False, soft_wrap=True)


class _Replayed:
    """One replay, and everything that comes out of it."""

    def __init__(
        self, arguments: argparse.Namespace, bag: Bag, folder: Path, console: Console
    ) -> None:
        self._arguments, self._bag, self._folder = arguments, bag, folder
        self._console = console
        self._part = {"start": arguments.start, "duration": arguments.duration}
        start_ns = bag.start_ns + round(arguments.start * 1e9)
        end_ns = bag.end_ns
        if not len(bag) or start_ns >= end_ns:
            raise ValueError(f"{bag.path}: no image on {bag.topic} in that time")
        if arguments.duration is not None:
            end_ns = min(end_ns, start_ns + round(arguments.duration * 1e9))
        share = max(end_ns - start_ns, 0) / max(bag.end_ns - bag.start_ns, 1)
        self._expected = round(share * len(bag) / arguments.every)
        self.timeline = Timeline(start_ns, end_ns, max(self._expected, 1))
        self._ended = ""
        """Why it ended before its time."""
        self._failures: Counter[str] = Counter()
        self._judge: ground_truth.GroundTruthScorer | None = None
        self._timing: dict[str, Any] = {}
        self._settings: dict[str, Any] = {}
        self._about: dict[str, Any] = {}

    def offline(self, truth: ground_truth.GroundTruth | None) -> None:
        """By the machine itself, in simulated time."""
        settings, latency = read_settings(self._arguments), Latency.read(self._arguments.latency)
        from emotion_perception.perception.detection import make_detector
        from emotion_perception.recognizers.registry import make_recognizer

        with ExitStack() as stack:
            detects = make_detector(settings.detector)
            stack.callback(detects.close)
            judges = make_recognizer(settings.recognizer)
            stack.callback(judges.close)
            self._claim(
                settings.to_dict(),
                {
                    "latency": [latency.image, *latency.answers],
                    "weights": runner.model_fingerprint(
                        settings.recognizer, getattr(settings.detector, "model", "")
                    ),
                    "calibration": judges.calibration,
                },
            )
            journal = stack.enter_context(Journal(self._folder / JOURNAL))
            detector = JournaledDetector(detects, journal)
            recognizer = JournaledRecognizer(judges, journal)
            recognizer.warm_up()
            if truth is not None:
                self._judge = ground_truth.GroundTruthScorer(
                    truth, self._bag.start_ns, recognizer.labels, recognizer.thresholds
                )
            perception = Pipeline(detector, recognizer, settings)
            with self._sink() as sink:
                machine = Simulator(perception, recognizer, latency, sink.on_image)
                self._failures = machine.failures
                for said in machine.run(self._images()):
                    sink.add(said)
                self._refuse_nothing()
            if journal.remembered:
                say(self._console, f"{journal.remembered:,} results were remembered")
            self._timing = _timing(journal)

    def live(self) -> None:
        """By a running node, in real time or in lockstep."""
        from emotion_perception.ros.live_replay import LivePlayer

        arguments = self._arguments
        topic = arguments.image_topic or self._bag.topic
        node = arguments.node or "/emotion_node"
        with LivePlayer(topic, node, arguments.patience or 60.0) as player:
            say(self._console, f"looking for {node}, which is to look at {topic}")
            settings = player.connect()
            self._claim(settings, {"live": True, "lockstep": arguments.lockstep})
            with self._sink() as sink:
                images = self._images()
                try:
                    for said in player.run(
                        images, sink.on_image, arguments.lockstep, arguments.rate or 1.0
                    ):
                        sink.add(said)
                except ValueError as error:
                    self._ended = str(error)
                except KeyboardInterrupt:
                    self._ended = "interrupted"
                self._refuse_nothing()

    def _refuse_nothing(self) -> None:
        if not self.timeline.fates[LOOKED_AT]:
            reasons = "; ".join(self._warnings()) or "none was looked at"
            raise ValueError(
                f"{self._bag.path}: no image on {self._bag.topic} in that time: {reasons}"
            )

    def finish(self) -> int:
        """Write what is left to be written, and say so. Returns the exit status."""
        figures = self.timeline.figures()
        figures["skipped"] = dict(self._bag.skipped)
        figures["ended"] = self._ended
        figures["failures"] = dict(self._failures)
        figures["timing"] = self._timing
        figures["labelled"], complaint = None, None
        if self._judge is not None:
            shutil.rmtree(self._folder / "labelled", ignore_errors=True)
            try:
                figures["labelled"] = self._judge.measured(self._folder / "labelled")
            except ValueError as error:
                complaint = error
        html = page.page(
            f"Replay of {self._bag.path.name}",
            self.timeline,
            self._facts(),
            figures,
            {k: v for k, v in self._settings.items() if v != SETTINGS[k].default},
            self._warnings(),
        )
        contents = {FIGURES: _json(figures), REPORT: html.encode()}
        if self._timing.get("answer_seconds"):
            medians = {n: x["median"] for n, x in self._timing["answer_seconds"].items()}
            image = self._timing["image_seconds"]["median"]
            contents[LATENCY] = _json(
                {"machine": _machine(), "image_seconds": image, "answer_seconds": medians}
            )
        atomic.write_files({self._folder / name: content for name, content in contents.items()})
        for warning in self._warnings():
            say(self._console, f"Warning: {warning}", style="yellow")
        self._say(figures)
        if complaint is not None:
            raise complaint
        return 1 if self._ended or self._failures else 0

    def _say(self, figures: dict[str, Any]) -> None:
        looked_at = figures["fates"][LOOKED_AT]
        say(
            self._console,
            f"{figures['messages']:,} messages about {looked_at:,} of {figures['images']:,} images "
            f"and {figures['people']} people; {figures['answers']:,} answers",
        )
        if found := figures["labelled"]:
            if "detection_recall" in found:
                say(
                    self._console,
                    f"of the labelled people {100 * found['detection_recall']:.1f} % were found; "
                    f"IDF1 {found['identity_f1']:.3f}, {found['identity_switches']} switches",
                )
            if not found["answers"]:
                say(
                    self._console, "no answer is about anybody with labels: is the table filled in?"
                )
            say(
                self._console,
                f"{found['answers_with_a_true_leading_label']} of {found['answers']} answers about "
                "them lead with a true label",
            )
        say(self._console, f"look at {self._folder / REPORT}")

    def _claim(self, settings: dict[str, Any], how: dict[str, Any]) -> None:
        """The folder is this replay's, or empty."""
        self._settings = settings
        arguments = self._arguments
        self._about = {
            "bag": arguments.bag.name,
            "topic": self._bag.topic,
            "data": self._bag.fingerprint(),
            "part": {**self._part, "every": arguments.every},
            **how,
            "settings": settings,
        }
        RunFolder.claim(self._folder, self._about).release()

    def _images(self) -> Iterator[RecordedImage]:
        """Those of the bag, up to where it is damaged."""
        try:
            yield from self._bag.images(every=self._arguments.every, **self._part)
        except ValueError as error:
            self._ended = str(error)

    def _sink(self) -> _Sink:
        topic = self._bag.topic if self._arguments.images else ""
        observers = [self.timeline, *([self._judge] if self._judge else [])]
        return _Sink(self._folder, topic, observers, self._expected, self._console)

    def _warnings(self) -> list[str]:
        skipped = [
            f"{n} messages are no pictures: {why}" for why, n in self._bag.skipped.most_common()
        ]
        failed = [f"{n} questions had no answer: {why}" for why, n in self._failures.items()]
        return [*([self._ended] if self._ended else []), *failed, *skipped]

    def _facts(self) -> dict[str, str]:
        """For the head of the report."""
        recorded = datetime.fromtimestamp(self._bag.start_ns / 1e9, timezone.utc)
        detector = self._settings["detector.name"]
        model = self._settings["detector.model"] if detector == "yolo" else ""
        part = ", ".join(f"{k} {v}" for k, v in self._about["part"].items() if v is not None)
        if self._arguments.live:
            step = "waiting for every answer" if self._arguments.lockstep else "in real time"
            how = f"played into a running node, {step}"
        else:
            how = f"simulated, answers after {self._arguments.latency} s"
        return {
            "bag": f"{self._bag.path}, {self._bag.topic}",
            "recorded": f"{recorded:%Y-%m-%d %H:%M:%S} UTC by the recorder's clock",
            "part": part,
            "fingerprint of the data": self._about["data"],
            "emotions by": self.timeline.model or "no recognizer was called",
            "calibration": self.timeline.calibration or "none",
            "people by": " ".join(filter(None, (detector, model))),
            "time": how,
            "command": shlex.join(["emotion-perception", *sys.argv[1:]]),
            "computed": f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC on {_machine()}",
            "versions": _versions(),
        }


class _Sink:
    """Where images and messages go: files, observers and a progress bar. A context manager."""

    def __init__(
        self, folder: Path, topic: str, observers: list[Any], images: int, console: Console
    ) -> None:
        self._outputs = outputs.Outputs(folder, topic)
        self._observers = observers
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        self._bar = Progress(*columns, TimeRemainingColumn(), console=console)
        self._task = self._bar.add_task("images", total=images)

    def __enter__(self) -> _Sink:
        self._outputs.__enter__()
        self._bar.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._bar.stop()
        self._outputs.__exit__(*error)

    def on_image(self, image: RecordedImage, outcome: str) -> None:
        self._bar.advance(self._task)
        self._outputs.add_image(image)
        for observer in self._observers:
            observer.on_image(image, outcome)

    def add(self, said: Emission) -> None:
        self._outputs.add(said)
        for observer in self._observers:
            observer.add(said)


def _timing(journal: Journal) -> dict[str, Any]:
    """What the models took on this machine."""
    return {
        "image_seconds": _median(journal.detecting),
        "answer_seconds": {
            str(people): _median(seconds) for people, seconds in sorted(journal.assessing.items())
        },
    }


def _median(seconds: list[float]) -> dict[str, float]:
    middle, high = np.percentile(seconds or [0.0], (50, 95))
    return {"median": round(float(middle), 6), "percentile_95": round(float(high), 6)}


def _machine() -> str:
    return f"{platform.node()} ({platform.machine()}, {platform.system()})"


def _versions() -> str:
    found = [f"emotion_perception {importlib.metadata.version('emotion_perception')}"]
    for name in _LIBRARIES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return ", ".join([*found, f"Python {platform.python_version()}"])


def _json(content: dict[str, Any]) -> bytes:
    return f"{json.dumps(content, indent=2)}\n".encode()
