"""Judge the camera and the model of a running node, with remedies."""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from dataclasses import dataclass, field

from emotion_perception.core.settings import SETTINGS
from emotion_perception.core.text import printable
from emotion_perception.perception import stamps

OK, WARN, ERROR = 0, 1, 2
_COUNTED = (
    *("received", "processed", "unread", "undetected", "wrong_boxes", "lost", "missing", "late"),
    "clock_jumps",
)
_WINDOW_S = 10.0  # for which a problem is reported after it last occurred
_MANY_FAILURES = 3  # in a row, which are not due to one person
_FRAME_IDS = 5  # kept for the report


@dataclass(frozen=True, slots=True)
class Finding:
    """The state of one part of the node."""

    part: str
    level: int
    message: str
    values: dict[str, object]

    def __post_init__(self) -> None:
        """Bound texts from outside, such as the name of an encoding."""
        object.__setattr__(self, "message", printable(self.message))
        shown = {key: printable(value) for key, value in self.values.items()}
        object.__setattr__(self, "values", shown)


class _Window:
    """What was counted in the last ten seconds, for reports once per second."""

    def __init__(self) -> None:
        self._counts: deque[tuple[float, Counter[str]]] = deque([(-math.inf, Counter[str]())])

    def since(self, now: float, counts: Counter[str]) -> tuple[float, Counter[str]]:
        """Return the seconds of the window and what was counted in them.

        Args:
            now: The monotonic time in seconds.
            counts: What was counted in total.
        """
        self._counts.append((now, counts))
        while len(self._counts) > 2 and self._counts[1][0] <= now - _WINDOW_S:
            self._counts.popleft()
        begin, before = self._counts[0]
        return min(max(now - begin, 1.0), _WINDOW_S), counts - before


@dataclass(slots=True)
class CameraHealth:
    """What arrives on the image topic. Times are monotonic seconds."""

    topic: str
    silence: float
    since: float = field(default_factory=time.monotonic)
    enabled: bool = True
    incompatible_qos: str = ""
    unreadable: str = ""
    received: int = 0
    processed: int = 0
    unread: int = 0
    undetected: int = 0
    wrong_boxes: int = 0
    """Images with boxes that the detector should not return; they are left out."""
    wrong_box: str = ""
    same_stamp: int = 0
    """Images in a row that were skipped for a repeated stamp."""
    repeated: int = 0
    late: int = 0
    clock_jumps: int = 0
    lost: int = 0
    missing: int = 0
    """Images that were published but neither received nor used: lost, or replaced by newer ones."""
    publishers: int = 0
    publisher_names: str = ""
    other_topic: str = ""
    """A topic of the other transport that has publishers, if this one has none."""
    frame_ids: dict[str, float] = field(default_factory=dict)
    """The last frame_ids, each with the time of its newest image."""
    interval: float = 0.0
    """Seconds between the stamps of the last two processed images."""
    processed_s: float = field(default_factory=time.monotonic)
    """When an image was last processed, or the subscription began."""
    undetected_s: float = -math.inf
    """When the detector last failed."""
    _last_ns: int | None = None
    _window: _Window = field(default_factory=_Window)

    def arrived(self) -> None:
        """Record that an image arrived."""
        self.received += 1
        self.since = time.monotonic()

    def judged(self, reason: str) -> None:
        """Record why the pipeline skips an image; empty if it does not."""
        self.same_stamp = self.same_stamp + 1 if reason == stamps.REPEATED else 0
        self.repeated += reason == stamps.REPEATED
        self.late += reason == stamps.LATE

    def processed_image(self, stamp_ns: int, frame_id: str = "") -> None:
        """Record that an image was processed; the time it took is not silence of the camera."""
        self.processed += 1
        self.since = self.processed_s = time.monotonic()
        self.frame_ids[frame_id] = self.since
        if len(self.frame_ids) > _FRAME_IDS:
            del self.frame_ids[min(self.frame_ids, key=lambda name: self.frame_ids[name])]
        if self._last_ns is not None:
            self.interval = (stamp_ns - self._last_ns) / 1e9
        self._last_ns = stamp_ns

    def report(self, now: float) -> Finding:
        """Return the finding about the last ten seconds; `now` is the monotonic time in seconds."""
        counts = Counter({name: getattr(self, name) for name in _COUNTED})
        seconds, new = self._window.since(now, counts)
        values: dict[str, object] = {
            "topic": self.topic,
            "publishers": self.publishers,
            "images received": self.received,
            "images processed": self.processed,
            "images unreadable": self.unread,
            "failures of the detector": self.undetected,
            "images with wrong boxes": self.wrong_boxes,
            "images lost on the way": self.lost,
            "images published and not looked at": self.missing,
            "images received per second": f"{new['received'] / seconds:.1f}",
            "images processed per second": f"{new['processed'] / seconds:.1f}",
            "images with a repeated stamp": self.repeated,
            "images late": self.late,
            "jumps of the camera's clock": self.clock_jumps,
            "seconds between images processed": f"{self.interval:.3f}",
        }
        level, message = self._assess(now, new)
        return Finding("camera", level, message, values)

    def _assess(self, now: float, new: Counter[str]) -> tuple[int, str]:
        """Return level and message; `new` counts the images of the last seconds."""
        received, quiet = new["received"], now - self.since
        if not self.enabled:
            return OK, "disabled: not subscribed"
        if quiet > self.silence:
            return (
                WARN,
                f"no image for {quiet:.0f} s on {self.topic}: {self._silence_reason()}",
            )
        if unread := new["unread"]:
            return WARN, f"{unread} of {received} images could not be read: {self.unreadable}"
        if failed := new["undetected"]:
            return ERROR, f"the detector failed on {failed} of {received} images: {self.unreadable}"
        if wrong := new["wrong_boxes"]:
            return WARN, (
                f"the detector returned wrong boxes for {wrong} of {received} images, which are "
                f"left out: {self.wrong_box}"
            )
        if self.same_stamp > 1:
            return WARN, (
                f"{self.same_stamp} images in a row carry the same time stamp and are skipped: "
                "check that the camera driver sets header.stamp"
            )
        if mixed := self._mixed_cameras(now):
            return WARN, mixed
        late = {stamps.LATE: new["late"]}
        if warning := "; ".join(stamps.stamp_warnings(late, new["clock_jumps"])):
            return WARN, warning
        if lost := new["lost"]:
            return WARN, (
                f"{lost} images were lost on the way: start the camera driver with the Fast DDS "
                "profile in config/, or use image_transport: compressed"
            )
        published = received + new["missing"]
        if 2 * new["missing"] > published:
            return WARN, (
                f"{new['missing']} of {published} images were not looked at, because newer ones "
                "came while the node worked; use a smaller detector or a slower camera"
            )
        looked_at = f"; {received} of {published} looked at" if new["missing"] else ""
        return OK, f"images arrive{looked_at}"

    def _mixed_cameras(self, now: float) -> str:
        """Return the problem if images of several cameras arrive as if of one."""
        if self.publishers > 1:
            return (
                f"{self.publishers} nodes publish on {self.topic} ({self.publisher_names}), and "
                "their people are followed as if seen by one camera; remap `image` to one of them"
            )
        names = [name for name, seen in self.frame_ids.items() if now - seen < _WINDOW_S]
        if len(names) > 1:
            return (
                f"the images on {self.topic} carry the frame_ids {', '.join(names)}, and their "
                "people are followed as if seen by one camera; use one topic per camera"
            )
        return ""

    def _silence_reason(self) -> str:
        publishers = self.publishers
        if publishers == 0 and self.other_topic:
            ending = self.other_topic.rpartition("/")[2]
            is_raw = ending not in SETTINGS["image_transport"].choices
            transport = "raw" if is_raw else ending
            return (
                f"no node publishes there, but on {self.other_topic}; "
                f"set image_transport to {transport}"
            )
        if publishers == 0:
            return "no node publishes there; check the topic and the remapping of `image`"
        if self.incompatible_qos:
            return (
                f"publishers there: {publishers}, with incompatible QoS ({self.incompatible_qos})"
            )
        return (
            f"publishers there: {publishers}, but nothing arrives; large images need the Fast DDS "
            "profile in config/ on the camera driver, or image_transport: compressed"
        )


@dataclass(slots=True)
class DepthHealth:
    """Whether depth images belong to the camera images."""

    topic: str
    publishers: int = 0
    received: int = 0
    matched: int = 0
    """Camera images with a depth image."""
    unmatched: int = 0
    reason: str = ""
    """Why the newest of them has none."""
    _window: _Window = field(default_factory=_Window)

    def missed(self, reason: str) -> None:
        """Record that an image has no depth image that can be used."""
        self.unmatched, self.reason = self.unmatched + 1, reason

    def report(self, now: float) -> Finding:
        """Return the finding about the last ten seconds; `now` is the monotonic time in seconds."""
        counts = Counter(matched=self.matched, unmatched=self.unmatched)
        _, new = self._window.since(now, counts)
        values: dict[str, object] = {
            "topic": self.topic,
            "publishers": self.publishers,
            "depth images received": self.received,
            "images with depth": self.matched,
            "images without depth": self.unmatched,
        }
        images = new["matched"] + new["unmatched"]
        if 2 * new["unmatched"] <= images:
            return Finding("depth", OK, "depth images arrive" if images else "waiting", values)
        reason = self.reason
        if not self.publishers:
            reason = "no node publishes there; check the topic and the remapping of `depth/image`"
        return Finding(
            "depth",
            WARN,
            f"{new['unmatched']} of {images} images have no depth image on {self.topic}, and their "
            f"people no position: {reason}",
            values,
        )


@dataclass(slots=True)
class RecognizerHealth:
    """State of the model. Times are monotonic seconds."""

    model: str
    silence: float
    timeout: float = math.inf
    """Seconds after which a round without an answer is an error."""
    busy_since: float | None = None
    answers: int = 0
    failures: int = 0
    """Failures since the last answer."""
    error: str = ""
    failing: dict[str, str] = field(default_factory=dict)
    """Reason by person whose own question failed and was not answered since."""
    every_fails: bool = True
    """Whether that holds for all people in view."""
    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=100))

    def started(self) -> None:
        """Record that a round started."""
        self.busy_since = time.monotonic()

    def answered(self) -> None:
        """Record that a round ended with assessments."""
        self._ended()
        self.answers, self.failures, self.error = self.answers + 1, 0, ""

    def failed(self, error: str) -> None:
        """Record that a round failed."""
        self._ended()
        self.failures, self.error = self.failures + 1, error

    def people(self, failing: dict[str, str], every_fails: bool) -> None:
        """Record whose questions fail."""
        self.failing, self.every_fails = failing, every_fails

    def report(self, now: float) -> Finding:
        """Return the finding at a monotonic time in seconds."""
        ordered = sorted(self.seconds) or [0.0]
        values: dict[str, object] = {
            "model": self.model,
            "answers": self.answers,
            "people without an answer": ", ".join(self.failing),
            "seconds per round, median": f"{ordered[len(ordered) // 2]:.3f}",
            "seconds per round, 95 %": f"{ordered[int(0.95 * (len(ordered) - 1))]:.3f}",
        }
        busy = 0.0 if self.busy_since is None else now - self.busy_since
        if self.failures:
            is_all = self.every_fails or self.failures >= _MANY_FAILURES
            message = f"failures in a row: {self.failures}; {self.error}"
            return Finding("recognizer", ERROR if is_all else WARN, message, values)
        if busy > self.timeout:
            message = (
                f"the model does not answer: {busy:.0f} s in one round; restart the node, or raise "
                "recognizer.timeout if it is only slow"
            )
            return Finding("recognizer", ERROR, message, values)
        if self.failing:
            person, reason = next(iter(self.failing.items()))
            message = f"no answer about {len(self.failing)} people; {person}: {reason}"
            return Finding("recognizer", ERROR if self.every_fails else WARN, message, values)
        if busy > self.silence:
            message = f"the model is slow: no answer for {busy:.0f} s"
            return Finding("recognizer", WARN, message, values)
        return Finding("recognizer", OK, "answering" if self.answers else "waiting", values)

    def _ended(self) -> None:
        if self.busy_since is not None:
            self.seconds.append(time.monotonic() - self.busy_since)
        self.busy_since = None
