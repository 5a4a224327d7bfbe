"""The demo: the whole system on a drawn scene, then photographs with a baseline.

The drawn scene of the toy world uses the detector and the vision-language model that were trained
on it; the photographs use models that need no download. Node, listener and camera run in separate
processes, see `demo_player`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
from rich.console import Console

from emotion_perception import toy_world
from emotion_perception.client.people_table import people_table
from emotion_perception.core.settings import SETTINGS, hint
from emotion_perception.core.values import Cause, PeopleEstimate, Status
from emotion_perception.evaluation.tracking_metrics import match, tracking_metrics
from emotion_perception.installation.demo_player import (
    Listener,
    Show,
    open_camera,
    run_node,
    wait_until_connected,
)
from emotion_perception.io import atomic, run_folder
from emotion_perception.io.json_codec import people_from_json
from emotion_perception.io.overlay import draw_overlay
from emotion_perception.io.video import Clip, read_clips

_GAP_S = 10.0  # between two clips, so that tracks of one clip end before the next
_MAX_IMAGES = 5  # written of a video

WORLD = (
    "A moving scene of the toy world, with a YOLO and a vision-language model of 2 million "
    "parameters that were trained on it: the complete system at a small scale.\n"
)
BASELINE = (
    "Photographs with the face-only baseline, since no model is named: faces by MTCNN, expressions "
    "by a small network trained on FER-2013. It uses neither body nor scene and has seven labels. "
    "Models that use the whole scene need weights, see `emotion-perception doctor`.\n"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """The options of `emotion-perception demo`.

    Raises:
        ValueError: A value is not allowed, or two values contradict each other.
    """

    world: bool = False
    """Play only the drawn scene."""
    seconds: float = 12.0
    """Length of the drawn scene."""
    seed: int = 6
    """Seed of the drawn scene."""
    detector: str = "face"
    detector_model: str | None = None
    recognizer: str = "face"
    model: str | None = None
    source: str | None = None
    """An image, a video or a folder; None: the drawn scene and two photographs."""
    transport: str = "raw"
    out: Path = Path("out/demo")
    patience: float = 180.0
    """Seconds to wait for the node to start, and for the answers to a clip."""
    parameters: Sequence[str] = ()
    """Parameters of the node as NAME:=VALUE."""

    def __post_init__(self) -> None:
        """Check the values."""
        if not 0 < self.patience < float("inf"):
            raise ValueError(f"cannot use --patience {self.patience}: choose seconds above 0")
        if not 0 < self.seconds < float("inf"):
            raise ValueError(f"cannot use --seconds {self.seconds}: choose seconds above 0")
        if self.world and self.has_choice:
            raise ValueError(
                "cannot use --world with another source or model: the drawn scene has its own; "
                "remove --world or the other options"
            )
        for parameter in self.parameters:
            name, separator, _ = parameter.partition(":=")
            if not separator:
                raise ValueError(
                    f"cannot read the parameter {parameter!r}: write it as NAME:=VALUE"
                )
            if name not in SETTINGS or name == "autostart":
                raise ValueError(
                    f"cannot use -p {name}: there is no such setting of the demo{hint(name)}"
                )

    @property
    def has_choice(self) -> bool:
        """Whether a source or a model is named."""
        names = (self.detector_model, self.model, self.source)
        return any(names) or (self.detector, self.recognizer) != ("face", "face")


@atomic.private()
def run_demo(options: DemoOptions, console: Console) -> bool:
    """Play the clips into a node, print tables, and write messages and annotated images.

    Returns:
        Whether each clip got its final answers in time.

    Raises:
        ValueError: A source cannot be read, or a process does not start.
        OSError: A file cannot be written.
    """
    with run_folder.hold(options.out, None):
        return _run(options, console)


def _run(options: DemoOptions, console: Console) -> bool:
    # Its own domain and names, so that neither a robot nor another demo receives the images.
    os.environ.setdefault("ROS_DOMAIN_ID", str(20 + os.getpid() % 80))
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)  # so that the other processes end, too
    if options.has_choice:
        return _play_source(options, options.out, console)
    complete = _play_world(options, options.out / "world", console)
    if not options.world:
        complete &= _play_source(options, options.out / "photographs", console)
    return complete


def _play_world(options: DemoOptions, out: Path, console: Console) -> bool:
    console.print(WORLD, style="yellow")
    scene = list(toy_world.draw_clip(options.seed, options.seconds))
    clip = Clip("world", 10.0, False, lambda: (drawn.image for drawn in scene))
    settings = {**toy_world.SETTINGS, "smoothing": 0.3, "scheduler.refresh": 0.5}
    complete, stamps, messages = _play(options, [clip], settings, out, console)
    truth = dict(zip(stamps, scene, strict=False))
    figures = score(messages, truth)
    atomic.write_files({out / "truth.json": run_folder.to_json(figures)})
    console.print(
        f"{figures['right']} of {figures['answers']} new answers have a true leading label; "
        f"identities kept: IDF1 {figures['identities_f1']:.2f}\n"
    )
    return complete


def _play_source(options: DemoOptions, out: Path, console: Console) -> bool:
    clips = read_clips(options.source or _sample_photographs())
    if options.detector == options.recognizer == "face":
        console.print(BASELINE, style="yellow")
    settings = {
        "detector.name": options.detector,
        "detector.model": options.detector_model,
        "recognizer.name": options.recognizer,
        "recognizer.model": options.model,
        # A large model on a small computer may take minutes; an image does not change meanwhile.
        "max_age": 600.0,
        "silence": 600.0,
        "tracker.lost_after": _GAP_S / 2,
    }
    return _play(options, clips, settings, out, console)[0]


def _play(
    options: DemoOptions,
    clips: Sequence[Clip],
    settings: Mapping[str, Any],
    out: Path,
    console: Console,
) -> tuple[bool, list[int], list[PeopleEstimate]]:
    """Return whether all clips were answered, the stamps of their frames, and all messages."""
    out.mkdir(parents=True, exist_ok=True)
    namespace, log = f"/demo_{os.getpid()}", out / "node.log"
    parameters = {**settings, "image_transport": options.transport}
    with contextlib.ExitStack() as stack:
        console.print("starting the node; loading a model takes some time")
        node = stack.enter_context(run_node(namespace, parameters, options.parameters, log))
        topic = f"{namespace}/emotion_node/emotions"
        listener = stack.enter_context(Listener(out / "emotions.jsonl", topic))
        camera = stack.enter_context(open_camera(namespace, options.transport))
        wait_until_connected(camera, node, listener, options.patience, log)
        published = stack.enter_context((out / "images.jsonl").open("w"))
        unanswered, start_ns = 0, time.time_ns()
        for clip in clips:
            console.print(f"showing {clip.name}")
            show = Show(clip, camera, node, listener, published)
            start_ns = show.play(start_ns, options.patience) + round(_GAP_S * 1e9)
            unanswered += not _report(console, show, out)
    console.print(f"{listener.received} messages in {out}/emotions.jsonl, images in {out}/*.png")
    if unanswered:
        console.print(
            f"{unanswered} of {len(clips)} clips had no final answer within {options.patience:g} s"
        )
    stamps = [json.loads(line)["stamp_ns"] for line in (out / "images.jsonl").open()]
    messages = [people_from_json(json.loads(line)) for line in (out / "emotions.jsonl").open()]
    return not unanswered, stamps, messages


def score(
    messages: Sequence[PeopleEstimate], truth: Mapping[int, toy_world.DrawnImage]
) -> dict[str, Any]:
    """Compare the messages about a drawn scene with the ground truth.

    Args:
        messages: The messages of the node; only those about an image or an answer count.
        truth: Stamp to drawn image, for each published image.
    """
    messages = [m for m in messages if m.cause in (Cause.FRAME, Cause.ASSESSMENT)]
    tracks = {m.stamp_ns: {e.track.person_id: e.track.box for e in m.people} for m in messages}
    boxes = {s: {str(p.number): p.box for p in x.people} for s, x in truth.items()}
    matches = {stamp: match(boxes[stamp], people) for stamp, people in tracks.items()}
    known: set[tuple[str, int]] = set()
    right = answers = 0
    for message in messages:
        for estimate in message.people:
            name, assessed_ns = estimate.track.person_id, estimate.assessed_ns
            if estimate.status is not Status.ASSESSED or (name, assessed_ns) in known:
                continue
            known.add((name, assessed_ns))
            number = matches.get(assessed_ns, {}).get(name)
            labels = [p.labels for p in truth[assessed_ns].people if str(p.number) == number]
            answers += 1
            right += bool(labels) and bool(labels[0][message.labels.index(estimate.label)])
    tracking = tracking_metrics(boxes, tracks)
    return {
        "answers": answers,
        "right": right,
        "messages": len(messages),
        "identities_f1": tracking.identity_f1,
        "identity_switches": tracking.identity_switches,
        "detection_recall": tracking.detection_recall,
    }


def _sample_photographs() -> Path:
    """Return the folder of the two photographs in the ultralytics wheel, without importing it.

    Raises:
        ValueError: ultralytics is not installed.
    """
    spec = find_spec("ultralytics")
    if spec is None or spec.origin is None:
        raise ValueError(
            "cannot show the sample photographs: ultralytics, which carries them, is not "
            "installed; name an image with --source"
        )
    return Path(spec.origin).parent / "assets"


def _report(console: Console, show: Show, out: Path) -> bool:
    """Print and draw the answers to a clip; return whether they are final."""
    stamps = sorted(show.answers)
    if not stamps:
        return False
    frame, people = show.answers[stamps[-1]]
    console.print(people_table(show.clip.name, people))
    chosen = stamps[-1:] if show.clip.still else stamps[:: max(len(stamps) // _MAX_IMAGES, 1)]
    for number, stamp in enumerate(chosen):
        frame, people = show.answers[stamp]
        name = show.clip.name if show.clip.still else f"{show.clip.name}_{number:02d}"
        image = cv2.cvtColor(draw_overlay(frame, people), cv2.COLOR_RGB2BGR)
        atomic.write_files({out / f"{name}.png": cv2.imencode(".png", image)[1].tobytes()})
    return show.settled
