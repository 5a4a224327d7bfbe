"""Show on the live page what a running node sees, from its images and its messages."""

from __future__ import annotations

import contextlib
import struct
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.qos import QoSProfile, ReliabilityPolicy
from std_srvs.srv import SetBool

from emotion_perception.client.listener import EmotionListener, start_ros, valid_names
from emotion_perception.core.errors import FrameError
from emotion_perception.core.values import Cause, Frame, PeopleEstimate, SourceStatus
from emotion_perception.io import image_decoding
from emotion_perception.live.hub import Hub, Picture
from emotion_perception.live.session import Rate, save_moment, view
from emotion_perception.ros.camera import TRANSPORTS
from emotion_perception.ros.camera_player import use_large_image_profile
from emotion_perception.ros.conversions import Explain

_KEPT = 60  # images that wait for their message
_SILENCE_S = 3.0
_PATIENCE_S = 120.0


class LiveNode:
    """A page's view of a running node. A context manager."""

    def __init__(self, hub: Hub, topic: str, node: str, transport: str, folder: Path) -> None:
        """Subscribe to the images and to the messages about them.

        Args:
            hub: gets a picture for each message.
            topic: of the images that the node looks at.
            node: the full name of the node.
            transport: raw or compressed.
            folder: of saved moments.

        Raises:
            ValueError: ROS cannot start, or a name is not valid.
        """
        self._hub, self._topic, self._name, self._folder = hub, topic, node, folder
        self._transport = TRANSPORTS[transport]
        self._images: deque[tuple[int, bytes]] = deque(maxlen=_KEPT)
        self._newest: tuple[PeopleEstimate, bytes | None] | None = None
        self._arrived_s = time.monotonic()
        self._messages, self._rounds = Rate(), Rate()
        use_large_image_profile()
        start_ros()
        self._node = rclpy.create_node("emotion_live")
        with valid_names():
            self._node.create_subscription(
                self._transport.message_class(),
                topic + self._transport.suffix,
                self._on_image,
                QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT),
                raw=True,
            )
            self._enabling = self._node.create_client(SetBool, f"{node}/set_enabled")
            self._explaining = self._node.create_client(Explain, f"{node}/explain")
        EmotionListener(self._node, self._on_people, f"{node}/emotions")
        self._node.create_timer(1.0, self._on_tick)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._spin, name="ros", daemon=True)

    def __enter__(self) -> LiveNode:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown()
        self._thread.join(5.0)
        self._node.destroy_node()
        rclpy.try_shutdown()

    # What a page can ask, see `live.hub.Controls`

    def set_enabled(self, enabled: bool) -> None:
        """Let the node look at the camera, or not.

        Raises:
            ValueError: the node does not answer, or refuses.
        """
        answer = self._call(self._enabling, SetBool.Request(data=enabled))
        if not answer.success:
            raise ValueError(answer.message)

    def explain(self, person_id: str) -> str:
        """Return the reason that the node gives for the assessment of a person.

        Raises:
            ValueError: the node does not answer, or gives no reason.
        """
        answer = self._call(self._explaining, Explain.Request(person_id=person_id))
        if not answer.success:
            raise ValueError(answer.message)
        return str(answer.explanation)

    def save_moment(self) -> str:
        """Write the newest picture and its estimates, and return the path of the picture.

        Raises:
            ValueError: there is no picture yet.
            OSError: the files cannot be written.
        """
        people, raw = self._newest or (None, None)
        frame = self._frame(raw)
        if people is None or frame is None:
            raise ValueError("cannot save a moment: there is no picture yet")
        return save_moment(self._folder, frame, people)

    def _call(self, client: Any, request: Any) -> Any:
        if not client.service_is_ready():
            raise ValueError(
                f"cannot ask {self._name}: there is no service {client.srv_name}; start the node"
            )
        answered = threading.Event()
        future = client.call_async(request)
        future.add_done_callback(lambda _: answered.set())
        if not answered.wait(_PATIENCE_S):
            raise ValueError(f"cannot ask {self._name}: no answer within {_PATIENCE_S:.0f} s")
        return future.result()

    def _spin(self) -> None:
        with contextlib.suppress(ExternalShutdownException):
            self._executor.spin()

    def _on_image(self, raw: bytes) -> None:
        stamp_ns = _stamp_ns(raw)
        self._images.append((stamp_ns, raw))
        if self._newest is not None and self._newest[1] is None:
            people = self._newest[0]
            if people.stamp_ns == stamp_ns:  # the message overtook its image
                self._newest = people, raw
                self._publish("")

    def _on_people(self, people: PeopleEstimate) -> None:
        self._arrived_s = time.monotonic()
        self._messages.count()
        if people.cause is Cause.ASSESSMENT:
            self._rounds.count()
        raw = next((raw for stamp, raw in self._images if stamp == people.stamp_ns), None)
        self._newest = people, raw
        self._publish("")

    def _on_tick(self) -> None:
        silence_s = time.monotonic() - self._arrived_s
        if silence_s > _SILENCE_S:
            self._publish(f"no message of {self._name} for {silence_s:.0f} s: is it running?")

    def _publish(self, problem: str) -> None:
        if self._newest is not None:
            people, raw = self._newest
            self._hub.publish(lambda: self._picture(people, raw, problem))

    def _picture(self, people: PeopleEstimate, raw: bytes | None, problem: str) -> Picture:
        frame = self._frame(raw)
        if frame is None and people.width and not problem:
            problem = f"no image on {self._topic} has the stamp of the message"
        enabled = people.source_status is not SourceStatus.INACTIVE
        state = view(
            people,
            people.stamp_ns,
            source=self._topic,
            looking=enabled,
            enabled=enabled,
            problem=problem,
            device=self._name,
            frames_per_second=round(self._messages.per_second, 1),
            rounds_per_second=round(self._rounds.per_second, 2),
            round_s=None,
            can_explain=self._explaining.service_is_ready(),
        )
        return Picture(None if frame is None else frame.image, state)

    def _frame(self, raw: bytes | None) -> Frame | None:
        """Return the frame of a serialized message; None if it cannot be read."""
        if raw is None:
            return None
        message = image_decoding.deserialize(raw, self._transport.msgtype)
        try:
            if self._transport.suffix:
                return image_decoding.frame_from_compressed(message)
            return image_decoding.frame_from_image(message)
        except FrameError:
            return None


def _stamp_ns(raw: bytes) -> int:
    """Return the stamp of a serialized message that begins with a header."""
    seconds, nanoseconds = struct.unpack_from("<iI" if raw[1] & 1 else ">iI", raw, 4)
    return int(seconds * 10**9 + nanoseconds)
