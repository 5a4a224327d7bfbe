"""The main job: a camera, the node and a listener, each in its own process.

First a moving scene of the small drawn world, with the detector and the vision-language model that
were trained on it; then photographs, with models that need no download.

camera (this process) --image--> emotion_node --emotions--> watch --json --pipe--> this process
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import cv2
from rich.console import Console

from emotion_perception import toy_world
from emotion_perception.cli.options import add_parameters, people_table, plain_console
from emotion_perception.core.settings import SETTINGS, hint
from emotion_perception.core.values import Frame, PeopleEstimate, Status
from emotion_perception.evaluation.tracking_metrics import match, tracking_metrics
from emotion_perception.io.json_codec import people_from_json
from emotion_perception.io.overlay import draw_overlay
from emotion_perception.io.video import Clip, read_clips

_CAMERA = "demo_camera"
_GAP = 10.0  # seconds between two clips: the people of one are not those of the next
_SHORTEST = 2.0  # seconds for which a picture is shown at least
_CONFIRMED = 4  # assessed frames after which each person has been detected
_SHUTDOWN = 20.0  # seconds that a process has to end by itself
_PR_SET_PDEATHSIG = 1  # of linux/prctl.h
_KEPT_FRAMES = 5  # annotated pictures of a video

WORLD = (
    "A moving scene of the small drawn world, seen by a YOLO and a vision-language model of 2 "
    "million parameters that were trained on it: the complete system, at the size of a toy.\n"
)
EMBEDDED = (
    "Photographs. No model was named, so this is the embedded face-only baseline: faces by MTCNN, "
    "expressions by a small network trained on FER-2013. It sees no body and no scene, and knows "
    "seven words; what looks at the whole scene needs weights, see `emotion-perception doctor`.\n"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--world", action="store_true", help="the drawn scene alone")
    parser.add_argument("--seconds", type=float, default=12.0, help="of the moving scene")
    parser.add_argument("--seed", type=int, default=8, help="of the moving scene")
    parser.add_argument("--detector", choices=SETTINGS["detector.name"].choices, default="face")
    parser.add_argument("--detector-model", help="a YOLO file (with --detector yolo)")
    parser.add_argument("--recognizer", choices=SETTINGS["recognizer.name"].choices, default="face")
    parser.add_argument("--model", help="a hub name or folder (with --recognizer vlm)")
    parser.add_argument(
        "--source", help="a picture, a video, or a folder of them, instead of both parts"
    )
    parser.add_argument("--transport", choices=SETTINGS["image_transport"].choices, default="raw")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("out/demo"),
        help="of the two parts, each in a folder of its own; or of what you name",
    )
    parser.add_argument(
        "--patience",
        type=float,
        default=180.0,
        help="seconds to wait for the node to start, and for the answers to a clip",
    )
    add_parameters(parser, "a parameter of the node, as in `-p smoothing:=0.0`")


def run(arguments: argparse.Namespace) -> int:
    """Run the command; return its exit status."""
    console = plain_console()
    _check(arguments)
    # A domain and names of its own, so that neither a robot nor another demo hears this one.
    os.environ.setdefault("ROS_DOMAIN_ID", str(20 + os.getpid() % 80))
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    arguments.namespace = f"/demo_{os.getpid()}"
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)  # the other processes are ended, too
    given = (arguments.detector_model, arguments.model, arguments.source)
    named = any(given) or (arguments.detector, arguments.recognizer) != ("face", "face")
    if arguments.world and named:
        raise ValueError("--world brings its own scene and models: leave the others out")
    if named:
        return _play_pictures(arguments, arguments.out, console)
    failed = _play_world(arguments, arguments.out / "world", console)
    if not arguments.world:
        failed |= _play_pictures(arguments, arguments.out / "photographs", console)
    return failed


def _play_world(arguments: argparse.Namespace, out: Path, console: Console) -> int:
    console.print(WORLD, style="yellow")
    scene = list(toy_world.draw_clip(arguments.seed, arguments.seconds))
    clip = Clip("world", 10.0, False, lambda: (picture.image for picture in scene))
    settings = {**toy_world.SETTINGS, "smoothing": 0.3, "scheduler.refresh": 0.5}
    failed, stamps, messages = _play(arguments, [clip], settings, out, console)
    truth = dict(zip(stamps, scene, strict=False))
    told = score(messages, truth)
    (out / "truth.json").write_text(json.dumps(told, indent=2) + "\n")
    console.print(
        f"{told['right']} of {told['answers']} new answers lead with a true label; "
        f"identities kept: IDF1 {told['identities_f1']:.2f}\n"
    )
    return failed


def _play_pictures(arguments: argparse.Namespace, out: Path, console: Console) -> int:
    played = read_clips(arguments.source or _sample_photographs())
    if arguments.detector == arguments.recognizer == "face":
        console.print(EMBEDDED, style="yellow")
    settings = {
        "detector.name": arguments.detector,
        "detector.model": arguments.detector_model,
        "recognizer.name": arguments.recognizer,
        "recognizer.model": arguments.model,
        # A big model on a small machine may take minutes for an answer that is still true of a
        # picture that stands still.
        "max_age": 600.0,
        "tracker.lost_after": _GAP / 2,
    }
    return _play(arguments, played, settings, out, console)[0]


def _play(
    arguments: argparse.Namespace,
    played: list[Clip],
    settings: dict[str, Any],
    out: Path,
    console: Console,
) -> tuple[int, list[int], list[PeopleEstimate]]:
    """The exit status, the stamps of the images, and all that was said about them."""
    out.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        console.print("starting the node; a model takes its time to load")
        node = stack.enter_context(_node(arguments, settings, out))
        topic = f"{arguments.namespace}/emotion_node/emotions"
        listener = stack.enter_context(_Listener(out / "emotions.jsonl", topic))
        camera = stack.enter_context(_camera(arguments))
        _wait_until_connected(camera, node, listener, arguments.patience, out / "node.log")
        published = stack.enter_context((out / "images.jsonl").open("w"))
        missed, start_ns = 0, time.time_ns()
        for clip in played:
            console.print(f"showing {clip.name}")
            show = _Show(clip, camera, node, listener, published)
            start_ns = show.play(start_ns, arguments.patience) + round(_GAP * 1e9)
            missed += _report(console, show, out)
    console.print(f"{listener.received} messages in {out}/emotions.jsonl, pictures in {out}/*.png")
    if missed:
        console.print(
            f"{missed} of {len(played)} had no final answer within {arguments.patience:g} s"
        )
    stamps = [json.loads(line)["stamp_ns"] for line in (out / "images.jsonl").open()]
    messages = [people_from_json(json.loads(line)) for line in (out / "emotions.jsonl").open()]
    return (1 if missed else 0), stamps, messages


def score(
    messages: Sequence[PeopleEstimate], truth: Mapping[int, toy_world.DrawnImage]
) -> dict[str, Any]:
    """Compare the messages about a drawn scene with the ground truth.

    Args:
        messages: of the node.
        truth: stamp to drawn image, for each published image.
    """
    found = {m.stamp_ns: {e.track.person_id: e.track.box for e in m.people} for m in messages}
    boxes = {s: {str(p.number): p.box for p in x.people} for s, x in truth.items()}
    matched = {stamp: match(boxes[stamp], people) for stamp, people in found.items()}
    known: set[tuple[str, int]] = set()
    right = answers = 0
    for message in messages:
        for estimate in message.people:
            name, looked_ns = estimate.track.person_id, estimate.assessed_ns
            if estimate.status is not Status.ASSESSED or (name, looked_ns) in known:
                continue
            known.add((name, looked_ns))
            number = matched.get(looked_ns, {}).get(name)
            labels = [p.labels for p in truth[looked_ns].people if str(p.number) == number]
            answers += 1
            right += bool(labels) and bool(labels[0][message.labels.index(estimate.label)])
    kept = tracking_metrics(boxes, found)
    return {
        "answers": answers,
        "right": right,
        "messages": len(messages),
        "identities_f1": kept.identity_f1,
        "identity_switches": kept.identity_switches,
        "detection_recall": kept.detection_recall,
    }


def _check(arguments: argparse.Namespace) -> None:
    if not 0 < arguments.patience < float("inf"):
        raise ValueError(f"--patience takes seconds above 0, not {arguments.patience}")
    for parameter in arguments.parameter:
        name, separator, _ = parameter.partition(":=")
        if not separator:
            raise ValueError(f"-p {parameter} is not NAME:=VALUE")
        if name not in SETTINGS or name == "autostart":
            raise ValueError(f"-p {name}: there is no such setting here{hint(name)}")
    try:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / ".writable").touch()
        (arguments.out / ".writable").unlink()
    except OSError as error:
        raise ValueError(
            f"--out {arguments.out} must be a folder that can be written: {error.strerror}"
        ) from error


def _sample_photographs() -> Path:
    """The two that the ultralytics wheel carries; its code is not imported for them."""
    spec = find_spec("ultralytics")
    if spec is None or spec.origin is None:
        raise ValueError("the sample photographs come with ultralytics, which is not installed: "
                         "name your own with --source")  # fmt: skip
    return Path(spec.origin).parent / "assets"


@contextlib.contextmanager
def _node(
    arguments: argparse.Namespace, settings: dict[str, Any], out: Path
) -> Iterator[subprocess.Popen[bytes]]:
    parameters = {**settings, "image_transport": arguments.transport}
    command = [sys.executable, "-m", "emotion_perception.ros.node", "--ros-args"]
    command += ["-r", f"__ns:={arguments.namespace}"]
    for name, value in parameters.items():
        command += ["-p", f"{name}:={value}"] if value is not None else []
    for parameter in arguments.parameter:
        command += ["-p", parameter]
    with (out / "node.log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, preexec_fn=_die_with_parent
        )
        try:
            yield process
        finally:
            _end(process)


@contextlib.contextmanager
def _camera(arguments: argparse.Namespace) -> Iterator[Any]:
    import rclpy

    from emotion_perception.client.listener import start_ros
    from emotion_perception.ros.camera_player import CameraPlayer, use_large_image_profile

    use_large_image_profile()
    start_ros()
    node = rclpy.create_node(_CAMERA)
    try:
        yield CameraPlayer(node, f"{arguments.namespace}/image", arguments.transport)
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


class _Listener:
    """`emotion-perception watch --json` in a process of its own; its lines are kept in a file."""

    def __init__(self, path: Path, topic: str) -> None:
        self._path, self._topic = path, topic
        self.newest: PeopleEstimate | None = None
        self.received = 0

    def __enter__(self) -> _Listener:
        command = [sys.executable, "-m", "emotion_perception.cli.main", "watch", "--json"]
        command += ["--topic", self._topic]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, preexec_fn=_die_with_parent
        )
        assert self.process.stdout is not None
        self._thread = threading.Thread(target=self._read, args=(self.process.stdout,), daemon=True)
        self._thread.start()
        return self

    @property
    def alive(self) -> bool:
        return self._thread.is_alive() and self.process.poll() is None

    def __exit__(self, *_: object) -> None:
        _end(self.process)
        self._thread.join(timeout=_SHUTDOWN)

    def _read(self, lines: IO[str]) -> None:
        with self._path.open("w") as file:
            for line in lines:
                file.write(line)
                file.flush()
                self.newest = people_from_json(json.loads(line))
                self.received += 1


class _Show:
    """One clip, played until each person in it has been assessed."""

    def __init__(
        self,
        clip: Clip,
        camera: Any,
        node: subprocess.Popen[bytes],
        listener: _Listener,
        published: IO[str],
    ) -> None:
        self.clip = clip
        self._camera, self._node, self._listener = camera, node, listener
        self._published = published
        self._shown: dict[int, Frame] = {}
        self.answers: dict[int, tuple[Frame, PeopleEstimate]] = {}
        """Estimates about frames of the clip, by stamp: the newest, and some before it."""
        self._answered = 0

    @property
    def settled(self) -> bool:
        """Return whether each person in the newest message of this clip has been assessed."""
        if self._answered < (_CONFIRMED if self.clip.still else 1):
            return False
        _, people = self.answers[max(self.answers)]
        return all(estimate.status is not Status.PENDING for estimate in people.people)

    def play(self, start_ns: int, patience: float) -> int:
        """Publish the clip's frames at its rate. Returns the stamp of the last one."""
        stamp_ns, started = start_ns, time.monotonic()
        for number, image in enumerate(self.clip.images()):
            stamp_ns = start_ns + round(number / self.clip.rate * 1e9)
            elapsed = time.monotonic() - started
            done = elapsed > _SHORTEST and self.settled
            if self.clip.still and (done or elapsed > patience):
                break
            self._camera.publish(self._frame(image, stamp_ns))
            self._take_answers()
            if self._node.poll() is not None or not self._listener.alive:
                raise ValueError("the node or the listener has ended; see node.log in --out")
            time.sleep(max(0.0, started + (number + 1) / self.clip.rate - time.monotonic()))
        # What was answered to the last frames may still be on its way.
        until = time.monotonic() + patience
        while time.monotonic() < until and not self.settled:
            self._take_answers()
            time.sleep(0.05)
        return stamp_ns

    def _frame(self, image: Any, stamp_ns: int) -> Frame:
        print(json.dumps({"stamp_ns": stamp_ns, "clip": self.clip.name}), file=self._published)
        frame = Frame(image, stamp_ns, _CAMERA)
        self._shown[stamp_ns] = frame
        if len(self._shown) > 50:  # so old a frame is not answered any more
            self._shown.pop(next(iter(self._shown)))
        return frame

    def _take_answers(self) -> None:
        newest = self._listener.newest
        if newest is None or newest.stamp_ns not in self._shown:
            return
        self._answered += newest.stamp_ns not in self.answers
        self.answers[newest.stamp_ns] = (self._shown[newest.stamp_ns], newest)
        if len(self.answers) > 4 * _KEPT_FRAMES:  # a long video: every other one is enough
            stamps = sorted(self.answers)
            self.answers = {s: self.answers[s] for s in (*stamps[:-1:2], stamps[-1])}


def _wait_until_connected(
    camera: Any,
    node: subprocess.Popen[bytes],
    listener: _Listener,
    patience: float,
    log: Path,
) -> None:
    started = time.monotonic()
    while not camera.listeners:
        if time.monotonic() - started > patience:
            raise ValueError(
                f"the node has not started within {patience:g} s: see {log}, "
                "or have more --patience"
            )
        if node.poll() is not None:
            lines = log.read_text(errors="replace").strip().splitlines()
            raise ValueError("the node did not start:\n" + "\n".join(lines[-8:]))
        if not listener.alive:
            raise ValueError("the listener did not start")
        time.sleep(0.1)
    time.sleep(1.0)  # let the listener find the node, too


def _report(console: Console, show: _Show, out: Path) -> int:
    """Print and draw what was said about a clip. Returns 1 if it has no final answer."""
    stamps = sorted(show.answers)
    if not stamps:
        return 1
    frame, people = show.answers[stamps[-1]]
    console.print(people_table(show.clip.name, people))
    kept = stamps[-1:] if show.clip.still else stamps[:: max(len(stamps) // _KEPT_FRAMES, 1)]
    for number, stamp in enumerate(kept):
        frame, people = show.answers[stamp]
        name = show.clip.name if show.clip.still else f"{show.clip.name}_{number:02d}"
        picture = cv2.cvtColor(draw_overlay(frame, people), cv2.COLOR_RGB2BGR)
        if not cv2.imwrite(str(out / f"{name}.png"), picture):
            raise OSError(f"cannot write {out / name}.png")
    return 0 if show.settled else 1


def _die_with_parent() -> None:
    """In a new process: be told to end when the demo ends, however that happens."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGINT)


def _end(process: subprocess.Popen[Any]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=_SHUTDOWN)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
