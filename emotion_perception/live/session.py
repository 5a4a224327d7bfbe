"""Look at a camera of this computer as the node does at one of the robot, without ROS.

    Camera ──► Pipeline.on_frame ──► Hub.publish
                   └─► Worker: recognizer.assess ──► Pipeline.on_assessments ──► Hub.publish

The session thread owns the pipeline. The worker thread only computes `assess` and `explain`.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from emotion_perception.core.errors import RecognizerError, describe
from emotion_perception.core.interfaces import Detector, Explainer, Recognizer
from emotion_perception.core.settings import Settings
from emotion_perception.core.values import (
    Assessment,
    Cause,
    Frame,
    PeopleEstimate,
    SourceStatus,
)
from emotion_perception.io import atomic
from emotion_perception.io.json_codec import people_to_json
from emotion_perception.live.camera import Camera
from emotion_perception.live.hub import Hub, Picture, jpeg
from emotion_perception.perception.pipeline import Pipeline, Round
from emotion_perception.perception.privacy import FaceBlur

_TICK_S = 0.05
_EXPLAIN_S = 120.0


class Rate:
    """Events per second over the last seconds."""

    def __init__(self, window_s: float = 5.0) -> None:
        """Start without events."""
        self._window_s = window_s
        self._times: deque[float] = deque()

    def count(self) -> None:
        """Record an event."""
        self._times.append(time.monotonic())

    @property
    def per_second(self) -> float:
        """The events of the window, per second."""
        start = time.monotonic() - self._window_s
        while self._times and self._times[0] < start:
            self._times.popleft()
        return len(self._times) / self._window_s


def view(people: PeopleEstimate, now_ns: int, **facts: Any) -> dict[str, Any]:
    """Return the state that the page shows: a message as JSON, ages, and facts of the session.

    Args:
        people: the estimates of all people in the picture.
        now_ns: the present time, on the clock of their stamps.
        facts: what else the page shows.
    """
    state = people_to_json(people)
    for person in state["people"]:
        assessed_ns = person["assessed_ns"]
        person["age_s"] = round((now_ns - assessed_ns) / 1e9, 2) if assessed_ns else None
    return {**state, **facts}


class LiveSession:
    """A camera, a pipeline and a recognizer of this computer, and what a page can ask of them."""

    def __init__(
        self,
        open_camera: Callable[[], Camera],
        detector: Detector,
        recognizer: Recognizer,
        settings: Settings,
        hub: Hub,
        folder: Path,
    ) -> None:
        """Prepare; nothing is read before `start`.

        Args:
            open_camera: opens the source, again each time that the session is enabled.
            detector: detects people in frames.
            recognizer: assesses them.
            settings: those of the node.
            hub: gets each picture.
            folder: of saved moments.
        """
        self._open_camera, self._hub, self._folder = open_camera, hub, folder
        self._detector, self._recognizer, self._settings = detector, recognizer, settings
        self._pipeline = Pipeline(detector, recognizer, settings)
        self._pipeline.since_arrival_ns = lambda: time.monotonic_ns() - self._arrived_ns
        self._pipeline.source_status = SourceStatus.INACTIVE
        self._blur = FaceBlur(settings)
        self._arrived_ns = time.monotonic_ns()
        self._camera: Camera | None = None
        self._enabled = True
        self._worker = ThreadPoolExecutor(1, "recognizer")
        self._round: tuple[Round, Future[list[Assessment]], float] | None = None
        self._explaining = 0
        self._round_s = 0.0
        self._frames, self._rounds = Rate(), Rate()
        self._problem = ""
        self._moment: tuple[Frame, PeopleEstimate] | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="session", daemon=True)

    def start(self) -> None:
        """Start to look."""
        self._thread.start()

    def close(self) -> None:
        """Stop, and free the camera; a round in progress is not waited for."""
        self._stop.set()
        self._thread.join(5.0)
        self._worker.shutdown(wait=False, cancel_futures=True)

    # What a page can ask, see `hub.Controls`

    def set_enabled(self, enabled: bool) -> None:
        """Look at the camera, or free it."""
        self._enabled = enabled

    def explain(self, person_id: str) -> str:
        """Return a short reason, in the model's words, for the assessment of a person.

        Raises:
            ValueError: there is no such person, or the recognizer gives no reason.
        """
        scene = self._pipeline.scene
        people = scene.people if scene else ()
        person = next((p for p in people if p.person_id == person_id), None)
        if scene is None or person is None:
            raise ValueError(f"cannot explain {person_id}: this person is not in view")
        if not isinstance(self._recognizer, Explainer):
            raise ValueError(
                f"cannot explain {person_id}: {self._recognizer.name} gives no reasons; choose "
                "recognizer.name = vlm"
            )
        self._explaining += 1
        try:
            return self._worker.submit(self._recognizer.explain, scene, person).result(_EXPLAIN_S)
        except (RecognizerError, TimeoutError) as error:
            raise ValueError(str(error) or f"no reason within {_EXPLAIN_S:.0f} s") from error
        finally:
            self._explaining -= 1

    def save_moment(self) -> str:
        """Write the newest picture and its estimates, and return the path of the picture.

        Raises:
            ValueError: there is no picture yet.
            OSError: the files cannot be written.
        """
        if self._moment is None:
            raise ValueError("cannot save a moment: there is no picture yet")
        frame, people = self._moment
        return save_moment(self._folder, self._shown(frame, people), people)

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self._step()
        finally:
            if self._camera is not None:
                self._camera.close()

    def _step(self) -> None:
        self._switch()
        if self._camera is None:
            self._stop.wait(_TICK_S)
            return
        frame = self._camera.take(_TICK_S)
        answered = self._finish_round()
        if frame is not None and self._pipeline.accepts(frame.stamp_ns):
            self._arrived_ns = time.monotonic_ns()
            self._frames.count()
            try:
                people = self._pipeline.on_frame(frame)
                self._problem = ""
            except Exception as error:  # a broken detector must not end the page
                self._problem = f"detector failed: {describe(error)}"
                self._pipeline.source_status = SourceStatus.DETECTOR_FAILED
                people = self._pipeline.now(Cause.HEARTBEAT)
            self._publish(people)
        elif self._is_silent():
            self._pipeline.source_status = SourceStatus.CAMERA_SILENT
            self._publish(self._pipeline.now(Cause.HEARTBEAT))
        elif answered:
            self._publish(self._pipeline.now(Cause.ASSESSMENT))
        self._start_round()

    def _switch(self) -> None:
        """Open or free the camera as the page wants."""
        if self._enabled and self._camera is None:
            try:
                self._camera, self._problem = self._open_camera(), ""
                self._arrived_ns = time.monotonic_ns()
            except ValueError as error:
                self._problem, self._enabled = str(error), False
                self._publish(self._pipeline.now(Cause.HEARTBEAT))
        elif self._camera is not None and not self._enabled:
            self._camera.close()
            self._camera = None
            self._pipeline.reset()
            self._pipeline.source_status = SourceStatus.INACTIVE
            self._moment = None
            self._publish(self._pipeline.now(Cause.DEACTIVATED))

    def _is_silent(self) -> bool:
        """Return whether the camera became silent, once per silence."""
        assert self._camera is not None
        waited_s = (time.monotonic_ns() - self._arrived_ns) / 1e9
        is_live = self._pipeline.source_status is SourceStatus.LIVE
        if self._camera.ended and not self._problem:
            self._problem = self._camera.error or f"{self._camera.name} has ended"
        return is_live and (waited_s > self._settings.silence or self._camera.ended)

    def _start_round(self) -> None:
        if self._round is None and not self._explaining and (asked := self._pipeline.next_round()):
            answer = self._worker.submit(self._recognizer.assess, asked.scene, asked.people)
            self._round = asked, answer, time.monotonic()

    def _finish_round(self) -> bool:
        """Pass the answer of a round that ended to the pipeline; return whether there is one."""
        if self._round is None or not self._round[1].done():
            return False
        asked, answer, started = self._round
        self._round = None
        self._rounds.count()
        self._round_s = time.monotonic() - started
        try:
            self._pipeline.on_assessments(answer.result())
        except Exception as error:  # what a recognizer of others raises is a failed round
            self._problem = f"recognizer failed: {describe(error)}"
            self._pipeline.on_failure(asked, describe(error))
        return True

    def _publish(self, people: PeopleEstimate) -> None:
        scene = self._pipeline.scene
        frame = scene.frame if scene and people.stamp_ns else None
        self._moment = (frame, people) if frame is not None else None
        now_ns = people.stamp_ns + time.monotonic_ns() - self._arrived_ns
        self._hub.publish(lambda: self._picture(frame, people, now_ns))

    def _picture(self, frame: Frame | None, people: PeopleEstimate, now_ns: int) -> Picture:
        camera = self._camera
        state = view(
            people,
            now_ns,
            source=camera.name if camera else "",
            looking=camera is not None and not camera.ended,
            enabled=self._enabled,
            problem=self._problem,
            device=getattr(self._settings.recognizer, "device", "cpu"),
            frames_per_second=round(self._frames.per_second, 1),
            rounds_per_second=round(self._rounds.per_second, 2),
            round_s=round(self._round_s, 3),
            can_explain=isinstance(self._recognizer, Explainer),
        )
        return Picture(None if frame is None else self._shown(frame, people).image, state)

    def _shown(self, frame: Frame, people: PeopleEstimate) -> Frame:
        """Return the frame as people may see it, see `privacy.blur_faces`."""
        return self._blur.frame(frame, [person.track.box for person in people.people])


def save_moment(folder: Path, frame: Frame, people: PeopleEstimate) -> str:
    """Write a picture and its estimates into a folder, and return the path of the picture.

    Raises:
        OSError: the files cannot be written.
    """
    path = atomic.make_folder(folder) / f"moment-{people.stamp_ns}"
    state = json.dumps(people_to_json(people), indent=1).encode()
    picture = path.with_suffix(".jpg")
    image = jpeg(frame.image, max(frame.image.shape[:2]))
    atomic.write_files({picture: image, path.with_suffix(".json"): state})
    return str(picture)
