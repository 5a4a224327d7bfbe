"""The people in view and the status of a running node, for a behaviour planner."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence

from rclpy.clock import Clock, ClockType, ROSClock
from rclpy.node import Node

from emotion_perception.client.listener import TOPIC, EmotionListener
from emotion_perception.client.people import CurrentPeople, Event, Levels, NodeStatus, Person
from emotion_perception.core.values import PeopleEstimate

_UNPROMISED_S = 2.0
"""Seconds until the node counts as silent if it promises no deadline, as a player of a bag."""
_MAX_DEADLINE_NS = 10**9 * 86_400  # above: the publisher offers none
_GRACE_NS = 50_000_000
"""Time in which the executor takes messages that wait, if it was busy when the time was up."""


class EmotionClient:
    """Follows the node's messages: who is in view, how they appear to feel, whether the node works.

    Its callbacks run in the executor of the node that is passed, in its default callback group; it
    has no thread. Read its properties in callbacks of the same group.
    """

    def __init__(
        self,
        node: Node,
        on_event: Callable[[Event], object] | None = None,
        topic: str = TOPIC,
        *,
        watch: Mapping[str, Levels | None] | None = None,
        hold_s: float = 1.0,
        distress: Collection[str] | None = None,
        silence_s: float | None = None,
    ) -> None:
        """Subscribe to the topic of one node.

        Args:
            node: The planner's own node.
            on_event: Called with each event, after the client has taken the whole message.
            topic: The topic, relative to the namespace of the planner's node.
            watch: See `CurrentPeople`.
            hold_s: See `CurrentPeople`.
            distress: See `CurrentPeople`.
            silence_s: Seconds without a message after which the node is SILENT or ABSENT; None: the
                deadline that its publisher offers, which is twice its heartbeat.

        Raises:
            ValueError: The topic is not a valid name.
        """
        self._node, self._on_event, self._silence_s = node, on_event, silence_s
        self._people = CurrentPeople(watch, hold_s, distress)
        self._listener = EmotionListener(node, self._on_people, topic)
        self._is_doubted = False
        # The node's heartbeat is on a steady clock, too: it goes on in a paused simulation.
        self._timer = node.create_timer(
            _UNPROMISED_S if silence_s is None else silence_s,
            self._on_silence,
            clock=Clock(clock_type=ClockType.STEADY_TIME),
        )

    @property
    def topic(self) -> str:
        """The full name of the topic."""
        return self._listener.topic

    @property
    def status(self) -> NodeStatus:
        """The status of the node: people are up to date only if it is LIVE."""
        return self._people.status

    @property
    def people(self) -> dict[str, Person]:
        """The people in view by `person_id`, with the age of their assessments now."""
        return self._people.people(self._now_ns())

    @property
    def newest(self) -> PeopleEstimate | None:
        """The newest message; its `camera` is the frame in which positions are given."""
        return self._people.newest

    @property
    def lost(self) -> int:
        """Number of messages that were published since the first one, but not received."""
        return self._people.lost

    def distressed(self, for_s: float = 2.0, max_age_s: float = 3.0) -> list[Person]:
        """Return the people who appear distressed, and have for a while.

        See `CurrentPeople.distressed` for the definition, and for what it is not.

        Args:
            for_s: Seconds between the first assessed image of the distress and the newest one.
            max_age_s: Maximum age of the newest assessment in seconds.

        Raises:
            ValueError: The messages have neither a label of distress nor valence and arousal.
        """
        return self._people.distressed(self._now_ns(), for_s, max_age_s)

    def close(self) -> None:
        """Unsubscribe."""
        self._node.destroy_timer(self._timer)
        self._listener.close()

    def _on_people(self, people: PeopleEstimate) -> None:
        before = self._people.newest
        # Another heartbeat comes with another run, or with a configure after a deactivate.
        is_new = before is None or before.run_id != people.run_id
        if is_new or self._is_doubted or self.status is not NodeStatus.LIVE:
            self._timer.timer_period_ns = self._silence_ns()
        self._is_doubted = False
        self._timer.reset()
        self._tell(self._people.update(people, self._now_ns()))

    def _on_silence(self) -> None:
        limit_ns, is_certain = self._silence_ns(), self._is_doubted
        # A publisher that was discovered since may allow itself more time than has passed.
        self._is_doubted = is_certain or self._timer.timer_period_ns >= limit_ns
        is_grace = self._is_doubted and not is_certain
        self._timer.timer_period_ns = _GRACE_NS if is_grace else limit_ns
        self._timer.reset()
        if is_certain:
            self._tell(self._people.miss(self._listener.publishers > 0, self._now_ns()))

    def _tell(self, events: Sequence[Event]) -> None:
        if self._on_event is not None:
            for event in events:
                self._on_event(event)

    def _silence_ns(self) -> int:
        """Return the time without a message after which the node is silent."""
        if self._silence_s is not None:
            return round(self._silence_s * 1e9)
        publishers = self._node.get_publishers_info_by_topic(self.topic)
        offered = [publisher.qos_profile.deadline.nanoseconds for publisher in publishers]
        finite = [deadline for deadline in offered if 0 < deadline < _MAX_DEADLINE_NS]
        return max(finite, default=round(_UNPROMISED_S * 1e9))

    def _now_ns(self) -> int:
        """Return the time on the clock by which estimates age; it goes on in suspend, too."""
        clock = self._node.get_clock()
        if isinstance(clock, ROSClock) and clock.ros_time_is_active:
            return int(clock.now().nanoseconds)
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME)
