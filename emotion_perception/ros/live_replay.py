"""Play the images of a bag into a running node over real topics, with a clock."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import rclpy
from rcl_interfaces.srv import GetParameters
from rclpy.parameter import parameter_value_to_python
from rclpy.validate_topic_name import validate_topic_name
from rosgraph_msgs.msg import Clock

from emotion_perception.client.listener import EmotionListener, start_ros, valid_names
from emotion_perception.core.settings import SETTINGS
from emotion_perception.core.values import Cause, PeopleEstimate
from emotion_perception.io.bags import RecordedImage
from emotion_perception.perception.stamps import REPEATED, StampOrder
from emotion_perception.replay.simulator import (
    LOOKED_AT,
    NOT_WANTED,
    TOO_SLOW,
    UNREADABLE,
    Emission,
)
from emotion_perception.ros.camera_player import CameraPlayer, use_large_image_profile
from emotion_perception.ros.conversions import Settle, time_from_msg, time_to_msg

_CLOCK_PERIOD_S = 0.01
_RESEND_S = 0.5  # after which an image that did not arrive is sent again
_MAX_PENDING = 100  # images without a message; of more the oldest count as skipped


class LivePlayer:
    """Publishes images, and receives the messages of the node. A context manager."""

    def __init__(self, topic: str, node: str, patience: float = 60.0) -> None:
        """Create the publishers and subscriptions.

        Args:
            topic: the image topic of the node.
            node: the full name of the node.
            patience: seconds to wait for the node, and for each of its replies.

        Raises:
            ValueError: ROS cannot start, or a name is not valid.
        """
        self._patience = patience
        self._name, self._topic = node, topic
        with valid_names():
            for name in (topic, f"{node}/emotions"):
                validate_topic_name(name)
        use_large_image_profile()
        start_ros()
        self._node = rclpy.create_node("emotion_replay")
        self._camera = CameraPlayer(self._node, topic)
        self._clock = self._node.create_publisher(Clock, "/clock", 10)
        self._received: deque[PeopleEstimate] = deque()
        self._listener = EmotionListener(
            self._node, self._received.append, f"{node}/emotions", depth=1000
        )
        self._settling = self._node.create_client(Settle, f"{node}/settle")
        self._taken = 0
        self._sent: dict[int, RecordedImage] = {}
        self._current: RecordedImage | None = None
        self._stamps = StampOrder()

    def __enter__(self) -> LivePlayer:
        return self

    def __exit__(self, *_: object) -> None:
        self._node.destroy_node()
        rclpy.try_shutdown()

    def connect(self) -> dict[str, Any]:
        """Wait for the node, and return its parameters.

        Raises:
            ValueError: it is not there, does not look at the topic, or is without sim time.
        """
        client = self._node.create_client(GetParameters, f"{self._name}/get_parameters")
        self._wait(client.service_is_ready, f"cannot find the node {self._name}")
        self._wait(lambda: bool(self._camera.listeners), f"no node subscribes to {self._topic}")
        self._wait(lambda: bool(self._listener.publishers), f"{self._name} publishes no estimates")
        names = [*SETTINGS, "use_sim_time"]
        answer = client.call_async(GetParameters.Request(names=names))
        self._wait(answer.done, f"{self._name} does not return its parameters")
        values = map(parameter_value_to_python, answer.result().values)
        parameters = dict(zip(names, values, strict=True))
        if not parameters.pop("use_sim_time"):
            raise ValueError(
                f"{self._name} does not use the clock of the bag; {self._start_line()}"
            )
        return parameters

    def run(
        self,
        images: Iterable[RecordedImage],
        on_image: Callable[[RecordedImage, str], None],
        lockstep: bool = False,
        rate: float = 1.0,
    ) -> Iterator[Emission]:
        """Yield each message of the node, in the order of arrival.

        Args:
            images: the images to send.
            on_image: called with each image and its outcome, as by `replay.simulator.Simulator`.
            lockstep: send an image when the previous one is fully assessed.
            rate: the speed without lockstep; 2 is twice as fast as recorded.

        Raises:
            ValueError: the node is gone, or does not answer.
        """
        play = self._in_lockstep(images) if lockstep else self._by_the_clock(images, rate)
        for event in play:
            if isinstance(event, Emission):
                yield event
            else:
                on_image(*event)

    def _in_lockstep(
        self, images: Iterable[RecordedImage]
    ) -> Iterator[Emission | tuple[RecordedImage, str]]:
        before = self._begin()
        for image in images:
            if image.frame is None:
                yield image, UNREADABLE
                continue
            self._tick(image.received_ns)
            self._receive_until(self._send_until_it_arrives(image).published - before)
            yield from self._take(image.received_ns)
            yield from self._not_looked_at(NOT_WANTED)

    def _by_the_clock(
        self, images: Iterable[RecordedImage], rate: float
    ) -> Iterator[Emission | tuple[RecordedImage, str]]:
        first_ns, began = 0, time.monotonic()
        before = self._begin()

        def now_ns() -> int:
            return first_ns + round((time.monotonic() - began) * rate * 1e9)

        for number, image in enumerate(images):
            if number == 0:
                first_ns, began = image.received_ns, time.monotonic()
            yield from self._spin_at(now_ns())
            while now_ns() < image.received_ns:
                yield from self._spin_at(now_ns())
            if image.frame is None:
                yield image, UNREADABLE
            elif self._is_repeated(image.frame.stamp_ns):
                self._camera.publish(image.frame)
                yield image, REPEATED
            else:
                self._send(image)
                yield from self._not_looked_at(TOO_SLOW, keep=_MAX_PENDING)
        yield from self._spin_at(now_ns())
        self._receive_until(self._settled().published - before)
        yield from self._take(now_ns())
        yield from self._not_looked_at(TOO_SLOW)

    def _spin_at(self, now_ns: int) -> Iterator[Emission | tuple[RecordedImage, str]]:
        if not self._listener.publishers:
            raise ValueError(f"{self._name} is gone")
        self._tick(now_ns)
        rclpy.spin_once(self._node, timeout_sec=_CLOCK_PERIOD_S)
        yield from self._take(now_ns)

    def _begin(self) -> int:
        """Return the number of messages that the node published before the replay."""
        before: int = self._settled().published
        self._received.clear()
        self._taken = 0
        return before

    def _receive_until(self, published: int) -> None:
        """Wait until this many messages were received since the start."""
        self._wait(
            lambda: self._taken + len(self._received) >= published,
            f"messages of {self._name} were lost",
        )

    def _take(self, now_ns: int) -> Iterator[Emission | tuple[RecordedImage, str]]:
        """Yield the received messages, and record the images that each first message replaced."""
        while self._received:
            people = self._received.popleft()
            self._taken += 1
            if people.stamp_ns in self._sent:
                while next(iter(self._sent)) != people.stamp_ns:
                    yield self._skip_oldest(TOO_SLOW)
                self._current = self._sent.pop(people.stamp_ns)
                self._stamps.add(people.stamp_ns)
                yield self._current, LOOKED_AT
            if people.cause not in (Cause.FRAME, Cause.ASSESSMENT):
                continue  # they depend on the clock of this computer, not on the bag
            if self._current is None or self._current.frame is None:
                continue
            if self._current.frame.stamp_ns == people.stamp_ns:
                yield Emission(now_ns, people, self._current.frame)

    def _not_looked_at(self, outcome: str, keep: int = 0) -> Iterator[tuple[RecordedImage, str]]:
        """Record images without a message as skipped, except the newest ones."""
        while len(self._sent) > keep:
            yield self._skip_oldest(outcome)

    def _skip_oldest(self, outcome: str) -> tuple[RecordedImage, str]:
        """Return the oldest image without a message, with the reason if its stamp is the reason."""
        stamp_ns = next(iter(self._sent))
        return self._sent.pop(stamp_ns), self._stamps.why_skipped(stamp_ns) or outcome

    def _is_repeated(self, stamp_ns: int) -> bool:
        return stamp_ns in self._sent or stamp_ns == self._stamps.newest_ns

    def _send(self, image: RecordedImage) -> None:
        assert image.frame is not None
        self._sent[image.frame.stamp_ns] = image
        self._camera.publish(image.frame)

    def _send_until_it_arrives(self, image: RecordedImage) -> Any:
        assert image.frame is not None
        deadline = time.monotonic() + self._patience
        while time.monotonic() < deadline:
            self._send(image)
            again = time.monotonic() + _RESEND_S
            while time.monotonic() < again:
                settled = self._settled()
                if time_from_msg(settled.stamp) == image.frame.stamp_ns:
                    return settled
                rclpy.spin_once(self._node, timeout_sec=0.001)
        raise ValueError(f"an image does not arrive at {self._name} within {self._patience:g} s")

    def _settled(self) -> Any:
        answer = self._settling.call_async(Settle.Request())
        self._wait(answer.done, f"{self._name} does not answer")
        return answer.result()

    def _tick(self, now_ns: int) -> None:
        self._clock.publish(Clock(clock=time_to_msg(now_ns)))

    def _wait(self, done: Callable[[], bool], otherwise: str) -> None:
        deadline = time.monotonic() + self._patience
        while not done():
            rclpy.spin_once(self._node, timeout_sec=0.02)
            if time.monotonic() > deadline:
                raise ValueError(f"{otherwise} (waited {self._patience:g} s); {self._start_line()}")

    def _start_line(self) -> str:
        return (
            "start it with `ros2 run emotion_perception emotion_node --ros-args "
            f"-r image:={self._topic} -p use_sim_time:=true` (in a clone `emotion_node --ros-args` "
            "and so on)"
        )
