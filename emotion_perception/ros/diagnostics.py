"""What is well and what is wrong with a running node, in words a user can act on."""

from __future__ import annotations

import collections
import re
import time
from dataclasses import dataclass, field

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from emotion_perception.ros.conversions import time_to_msg

OK, WARN, ERROR = 0, 1, 2
_SAID_AGAIN = 30.0  # seconds after which trouble that lasts is logged again
_LEVELS = (DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR)


@dataclass(frozen=True, slots=True)
class Finding:
    """The state of one part of the node."""

    part: str
    level: int
    message: str
    values: dict[str, object]


class Complaints:
    """What was said already: a log wants news, not the same once a second."""

    def __init__(self) -> None:
        self._said: dict[str, tuple[str, float]] = {}

    def is_due(self, finding: Finding) -> bool:
        """Whether to log a finding: it is trouble, and new, or was last said half a minute ago."""
        if finding.level == OK:
            self._said.pop(finding.part, None)
            return False
        kind = re.sub(r"\d+", "", finding.message)  # the same trouble, with other numbers
        said, when = self._said.get(finding.part, ("", 0.0))
        if said == kind and time.monotonic() - when < _SAID_AGAIN:
            return False
        self._said[finding.part] = (kind, time.monotonic())
        return True


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
    looked_at: int = 0
    unread: int = 0
    undetected: int = 0
    same_stamp: int = 0
    lost: int = 0
    interval: float = 0.0
    """Seconds between the last two images that were looked at, by their stamps."""
    _last_ns: int | None = None
    _reported: tuple[int, ...] = (0, 0, 0, 0)

    def arrived(self) -> None:
        """Record that an image arrived."""
        self.received += 1
        self.since = time.monotonic()

    def looked(self, stamp_ns: int) -> None:
        """An image has been dealt with; the time that took was no silence of the camera."""
        self.looked_at += 1
        self.since = time.monotonic()
        if self._last_ns is not None:
            self.interval = (stamp_ns - self._last_ns) / 1e9
        self._last_ns = stamp_ns

    def report(self, publishers: int, now: float) -> Finding:
        """Return the finding since the last report.

        Args:
            publishers: number of publishers on the topic.
            now: the monotonic time in seconds.
        """
        counts = (self.received, self.unread, self.undetected, self.lost)
        new = tuple(now - before for now, before in zip(counts, self._reported, strict=True))
        self._reported = counts
        values: dict[str, object] = {
            "topic": self.topic,
            "publishers": publishers,
            "images received": self.received,
            "images looked at": self.looked_at,
            "images unreadable": self.unread,
            "failures of the detector": self.undetected,
            "images lost on the way": self.lost,
            "seconds between images looked at": f"{self.interval:.3f}",
        }
        level, message = self._judge(publishers, now - self.since, *new)
        return Finding("camera", level, message, values)

    def _judge(
        self, publishers: int, quiet: float, received: int, unread: int, failed: int, lost: int
    ) -> tuple[int, str]:
        if not self.enabled:
            return OK, "disabled: no frame is looked at"
        if quiet > self.silence:
            return WARN, f"no image for {quiet:.0f} s on {self.topic}: {self._why(publishers)}"
        if unread:
            return WARN, f"{unread} of {received} images could not be read: {self.unreadable}"
        if failed:
            return ERROR, f"the detector failed on {failed} of {received} images: {self.unreadable}"
        if self.same_stamp > 1:
            return WARN, (
                f"{self.same_stamp} images in a row carry the same time stamp and are not looked "
                "at: does the camera driver fill header.stamp?"
            )
        if lost:
            return WARN, (
                f"{lost} images were lost on the way: give the camera driver the Fast DDS profile "
                "in config/, or use image_transport: compressed"
            )
        return OK, "images arrive"

    def _why(self, publishers: int) -> str:
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
class RecognizerHealth:
    """How the model does. Times are monotonic seconds."""

    model: str
    silence: float
    busy_since: float | None = None
    answers: int = 0
    failures: int = 0
    """Failures since the last answer."""
    error: str = ""
    seconds: collections.deque[float] = field(default_factory=lambda: collections.deque(maxlen=100))

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

    def report(self, now: float) -> Finding:
        """The finding at this time."""
        ordered = sorted(self.seconds) or [0.0]
        values: dict[str, object] = {
            "model": self.model,
            "answers": self.answers,
            "seconds a round, median": f"{ordered[len(ordered) // 2]:.3f}",
            "seconds a round, 95 %": f"{ordered[int(0.95 * (len(ordered) - 1))]:.3f}",
        }
        busy = 0.0 if self.busy_since is None else now - self.busy_since
        if self.failures:
            return Finding(
                "recognizer", ERROR, f"failures in a row: {self.failures}; {self.error}", values
            )
        if busy > self.silence:
            message = f"the model is slow: no answer for {busy:.0f} s"
            return Finding("recognizer", WARN, message, values)
        return Finding("recognizer", OK, "answering" if self.answers else "waiting", values)

    def _ended(self) -> None:
        if self.busy_since is not None:
            self.seconds.append(time.monotonic() - self.busy_since)
        self.busy_since = None


def findings_to_msg(node: str, stamp_ns: int, findings: list[Finding]) -> DiagnosticArray:
    """The findings as the rest of ROS reads them on /diagnostics."""
    message = DiagnosticArray()
    message.header.stamp = time_to_msg(stamp_ns)
    message.status = [
        DiagnosticStatus(
            level=_LEVELS[finding.level],
            name=f"{node}: {finding.part}",
            message=finding.message,
            hardware_id=node,
            values=[KeyValue(key=k, value=str(v)) for k, v in finding.values.items()],
        )
        for finding in findings
    ]
    return message
