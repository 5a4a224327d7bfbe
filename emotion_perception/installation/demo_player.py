"""Play clips as a camera into a node, and collect what it publishes, for the demo.

camera (this process) ──image──> emotion_node ──emotions──> watch --json ──pipe──> this process
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from emotion_perception.core.values import Frame, PeopleEstimate, Status
from emotion_perception.io.json_codec import people_from_json
from emotion_perception.io.video import Clip

_CAMERA = "demo_camera"
_MIN_SHOWN_S = 2.0  # an image is shown at least this long
_MIN_ASSESSED = 4  # assessed frames after which each person has been detected
_SHUTDOWN_S = 20.0  # that a process has to end by itself
_MAX_FRAMES = 50  # that are kept for answers; older frames get none
_MAX_ANSWERS = 20  # that are kept of a clip
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PR_SET_PDEATHSIG = 1  # of linux/prctl.h


@contextlib.contextmanager
def run_node(
    namespace: str, parameters: Mapping[str, Any], more: Sequence[str], log_file: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a node in a process of its own until the end of the block.

    Args:
        namespace: The namespace of the node.
        parameters: Its parameters; those that are None keep their defaults.
        more: Parameters as NAME:=VALUE, which override the others.
        log_file: The file that receives its output.
    """
    command = [sys.executable, "-m", "emotion_perception.ros.main", "--ros-args"]
    command += ["-r", f"__ns:={namespace}"]
    for name, value in parameters.items():
        command += ["-p", f"{name}:={value}"] if value is not None else []
    for parameter in more:
        command += ["-p", parameter]
    with log_file.open("wb") as log:
        process = _start(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            yield process
        finally:
            _end(process)


@contextlib.contextmanager
def open_camera(namespace: str, transport: str) -> Iterator[Any]:
    """Open a `CameraPlayer` on the image topic of a namespace until the end of the block."""
    import rclpy

    from emotion_perception.client.listener import start_ros
    from emotion_perception.ros.camera_player import CameraPlayer, use_large_image_profile

    use_large_image_profile()
    start_ros()
    node = rclpy.create_node(_CAMERA)
    try:
        yield CameraPlayer(node, f"{namespace}/image", transport)
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


class Listener:
    """`emotion-perception watch --json` in a process of its own, whose lines go into a file."""

    def __init__(self, path: Path, topic: str) -> None:
        self._path, self._topic = path, topic
        self.newest: PeopleEstimate | None = None
        self.received = 0

    def __enter__(self) -> Listener:
        command = [sys.executable, "-m", "emotion_perception.cli.main", "watch", "--json"]
        command += ["--topic", self._topic]
        self.process = _start(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self._thread = threading.Thread(target=self._read, args=(self.process.stdout,), daemon=True)
        self._thread.start()
        return self

    @property
    def alive(self) -> bool:
        """Whether the process runs and its output is read."""
        return self._thread.is_alive() and self.process.poll() is None

    def __exit__(self, *_: object) -> None:
        _end(self.process)
        self._thread.join(timeout=_SHUTDOWN_S)

    def _read(self, lines: IO[str]) -> None:
        with self._path.open("w") as file:
            for line in lines:
                file.write(line)
                file.flush()
                self.newest = people_from_json(json.loads(line))
                self.received += 1


class Show:
    """One clip, played until each person in it has been assessed."""

    def __init__(
        self,
        clip: Clip,
        camera: Any,
        node: subprocess.Popen[bytes],
        listener: Listener,
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
        if self._answered < (_MIN_ASSESSED if self.clip.still else 1):
            return False
        _, people = self.answers[max(self.answers)]
        return all(estimate.status is not Status.PENDING for estimate in people.people)

    def play(self, start_ns: int, patience: float) -> int:
        """Publish the frames of the clip at its rate, and return the stamp of the last one.

        Args:
            start_ns: The stamp of the first frame.
            patience: Seconds to wait for the answers.

        Raises:
            ValueError: The node or the listener ended.
        """
        stamp_ns, started = start_ns, time.monotonic()
        for number, image in enumerate(self.clip.images()):
            stamp_ns = start_ns + round(number / self.clip.rate * 1e9)
            elapsed = time.monotonic() - started
            done = elapsed > _MIN_SHOWN_S and self.settled
            if self.clip.still and (done or elapsed > patience):
                break
            self._camera.publish(self._frame(image, stamp_ns))
            self._take_answers()
            if self._node.poll() is not None or not self._listener.alive:
                raise ValueError(
                    "cannot play the clip: the node or the listener ended; see node.log in --out"
                )
            time.sleep(max(0.0, started + (number + 1) / self.clip.rate - time.monotonic()))
        # The answers to the last frames may still be on their way.
        until = time.monotonic() + patience
        while time.monotonic() < until and not self.settled:
            self._take_answers()
            time.sleep(0.05)
        return stamp_ns

    def _frame(self, image: Any, stamp_ns: int) -> Frame:
        print(json.dumps({"stamp_ns": stamp_ns, "clip": self.clip.name}), file=self._published)
        frame = Frame(image, stamp_ns, _CAMERA)
        self._shown[stamp_ns] = frame
        if len(self._shown) > _MAX_FRAMES:
            self._shown.pop(next(iter(self._shown)))
        return frame

    def _take_answers(self) -> None:
        newest = self._listener.newest
        if newest is None or newest.stamp_ns not in self._shown:
            return
        self._answered += newest.stamp_ns not in self.answers
        self.answers[newest.stamp_ns] = (self._shown[newest.stamp_ns], newest)
        if len(self.answers) > _MAX_ANSWERS:  # of a long video every second one is kept
            stamps = sorted(self.answers)
            self.answers = {s: self.answers[s] for s in (*stamps[:-1:2], stamps[-1])}


def wait_until_connected(
    camera: Any,
    node: subprocess.Popen[bytes],
    listener: Listener,
    patience: float,
    log: Path,
) -> None:
    """Wait until the node subscribes to the camera and the listener runs.

    Raises:
        ValueError: The node or the listener does not start.
    """
    started = time.monotonic()
    while not camera.listeners:
        if time.monotonic() - started > patience:
            raise ValueError(
                f"cannot use the node: it did not start within {patience:g} s; see {log}, or raise "
                "--patience"
            )
        if node.poll() is not None:
            lines = log.read_text(errors="replace").strip().splitlines()
            raise ValueError("cannot start the node:\n" + "\n".join(lines[-8:]))
        if not listener.alive:
            raise ValueError("cannot start the listener: its process ended; see the output above")
        time.sleep(0.1)
    time.sleep(1.0)  # so that the listener discovers the node


def _start(command: Sequence[str], **streams: Any) -> subprocess.Popen[Any]:
    """Start a process that is interrupted when this one ends for any reason."""
    # Python would drop the KeyboardInterrupt of a signal that arrives while it forks.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    try:
        return subprocess.Popen(command, preexec_fn=_die_with_parent, **streams)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _die_with_parent() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGINT)


def _end(process: subprocess.Popen[Any]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=_SHUTDOWN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
