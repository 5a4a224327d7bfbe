"""Publish estimates under `/humans` as ROS4HRI (REP-155) defines: bodies, and faces where known.

    <root>/bodies/tracked                         hri_msgs/IdsList
    <root>/bodies/<id>/roi, cropped, expression   NormalizedRegionOfInterest2D, Image, Expression
    <root>/faces/...                              the same, of people whose face the detector found
    <root>/candidate_matches                      hri_msgs/IdsMatch, of a face with its body

REP-155 defines the expression of a face only; that of a body is an extension.
"""

from __future__ import annotations

import functools
import math
import re
import time
from collections.abc import Callable, Sequence
from typing import Any

from rclpy.exceptions import NameValidationException
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from emotion_perception.core.expressions import expression_of
from emotion_perception.core.settings import NODE_NAME, Ros4HriSettings
from emotion_perception.core.values import (
    Box,
    Cause,
    Estimate,
    Frame,
    PeopleEstimate,
    SourceStatus,
    Status,
)
from emotion_perception.perception.privacy import FaceBlur
from emotion_perception.ros.conversions import image_to_msg, time_to_msg
from emotion_perception.ros.health import OK, WARN, Finding
from emotion_perception.ros.output import optional_messages
from emotion_perception.ros.qos import overridable

_NEWEST = QoSProfile(depth=1)  # reliable, so that it matches each subscriber
_PREFIX = re.compile(r"([A-Za-z][A-Za-z0-9_]*)?")


class Ros4Hri:
    """Publishes the people of a live source; the publishers of a person live as long as it."""

    def __init__(self, node: LifecycleNode, settings: Ros4HriSettings, blur: FaceBlur) -> None:
        """Create the publishers that belong to no person.

        Raises:
            ValueError: hri_msgs is not installed, or the root or the prefix is not a valid name.
        """
        self._types = types = optional_messages("hri_msgs", "ros4hri.enabled = true")
        self._node = node
        prefix = settings.id_prefix or _prefix_of(node)
        if not _PREFIX.fullmatch(prefix):
            raise ValueError(
                f"cannot use ros4hri.id_prefix = {prefix!r}: an id is part of a topic name; use "
                "letters, digits and underscores, a letter first"
            )
        self._groups: list[_Group] = []
        try:
            for kind, show in (("bodies", functools.partial(_blurred, blur)), ("faces", blur.face)):
                self._groups.append(_Group(node, types, settings, kind, prefix, show))
            self._matches = node.create_publisher(
                types.IdsMatch,
                f"{settings.root}/candidate_matches",
                _NEWEST,
                qos_overriding_options=overridable(),
            )
        except NameValidationException as error:
            self.close()
            raise ValueError(
                f"cannot use ros4hri.root = {settings.root!r}: {' '.join(str(error).split())}"
            ) from error

    def publish(self, people: PeopleEstimate, frame: Frame) -> None:
        """Publish the people of a frame; none of a source that is not LIVE."""
        live = people.source_status is SourceStatus.LIVE
        estimates = people.people if live else ()
        bodies, faces = self._groups
        bodies.publish(people, frame, [(e, e.track.box) for e in estimates])
        with_face = [(e, e.track.face) for e in estimates if e.track.face is not None]
        faces.publish(people, frame, with_face)
        if people.cause is not Cause.FRAME:
            return
        for estimate, _ in with_face:
            person_id = estimate.track.person_id
            self._matches.publish(
                self._types.IdsMatch(
                    id1=faces.id_of(person_id),
                    id1_type=self._types.IdsMatch.FACE,
                    id2=bodies.id_of(person_id),
                    id2_type=self._types.IdsMatch.BODY,
                    confidence=1.0,
                )
            )

    def publish_inactive(self, people: PeopleEstimate) -> None:
        """Publish empty lists, and destroy the publishers of all people."""
        for group in self._groups:
            group.publish_empty(people)

    def findings(self) -> Sequence[Finding]:
        """Return whether another node publishes the same list."""
        values: dict[str, object] = {}
        problems = []
        for group in self._groups:
            others = group.other_publishers()
            values[group.topic] = f"{len(group)} people"
            if others:
                problems.append(
                    f"{', '.join(others)} publishes on {group.topic}, too, and subscribers see two "
                    "lists in turn; set ros4hri.root of one of the nodes"
                )
        return [Finding("ros4hri", WARN if problems else OK, "; ".join(problems) or "ok", values)]

    def close(self) -> None:
        """Destroy all publishers."""
        for group in self._groups:
            group.close()
        if hasattr(self, "_matches"):
            self._node.destroy_publisher(self._matches)


class _Group:
    """The bodies, or the faces."""

    def __init__(
        self,
        node: LifecycleNode,
        types: Any,
        settings: Ros4HriSettings,
        kind: str,
        prefix: str,
        show: Callable[[Frame], Frame],
    ) -> None:
        self._node, self._types, self._show = node, types, show
        self._grace_s = settings.grace
        self._base = f"{settings.root}/{kind}"
        self._id_prefix = prefix + kind[0]
        self._people: dict[str, _Person] = {}
        self._tracked = node.create_publisher(
            types.IdsList,
            f"{self._base}/tracked",
            _NEWEST,
            qos_overriding_options=overridable(),
        )

    def __len__(self) -> int:
        return len(self._people)

    @property
    def topic(self) -> str:
        """The full name of the topic of the list."""
        return self._tracked.topic_name

    def id_of(self, person_id: str) -> str:
        """Return the id of the body or face: "p00012" becomes "b00012" or "f00012"."""
        return self._id_prefix + person_id[1:]

    def publish(
        self, people: PeopleEstimate, frame: Frame, present: Sequence[tuple[Estimate, Box]]
    ) -> None:
        """Publish the list, and what is new about each person in it."""
        now = time.monotonic()
        for estimate, box in present:
            person_id = estimate.track.person_id
            if person_id not in self._people:
                topic = f"{self._base}/{self.id_of(person_id)}"
                self._people[person_id] = _Person(self._node, self._types, topic, self._show)
            person = self._people[person_id]
            person.seen_s = now
            if people.cause is Cause.FRAME:
                person.publish_box(frame, box, estimate.track.confidence)
            person.publish_expression(estimate, people)
        # After the regions, so that they exist when a subscriber reads the list.
        self._publish_ids(people, [estimate.track.person_id for estimate, _ in present])
        for person_id in [i for i, p in self._people.items() if now - p.seen_s > self._grace_s]:
            self._people.pop(person_id).close()

    def publish_empty(self, people: PeopleEstimate) -> None:
        """Publish an empty list, and destroy the publishers of all people."""
        self._publish_ids(people, [])
        self._drop_all()

    def other_publishers(self) -> list[str]:
        """Return the names of other nodes that publish on the topic of the list."""
        own = self._node.get_fully_qualified_name()
        infos = self._node.get_publishers_info_by_topic(self.topic)
        names = [f"{i.node_namespace.rstrip('/')}/{i.node_name}" for i in infos]
        if own in names:
            names.remove(own)  # once: a second one of the same name is another node
        return sorted(names)

    def close(self) -> None:
        self._drop_all()
        self._node.destroy_publisher(self._tracked)

    def _publish_ids(self, people: PeopleEstimate, person_ids: Sequence[str]) -> None:
        self._tracked.publish(
            self._types.IdsList(
                header=_header(people.stamp_ns, people.camera),
                ids=list(map(self.id_of, person_ids)),
            )
        )

    def _drop_all(self) -> None:
        while self._people:
            self._people.popitem()[1].close()


class _Person:
    """The publishers of one body or face.

    Their QoS cannot be overridden: each override is a parameter, which would outlive the person.
    """

    def __init__(
        self, node: LifecycleNode, types: Any, topic: str, show: Callable[[Frame], Frame]
    ) -> None:
        self._node, self._types, self._show = node, types, show
        self._region = node.create_publisher(
            types.NormalizedRegionOfInterest2D, f"{topic}/roi", _NEWEST
        )
        self._cropped = node.create_publisher(Image, f"{topic}/cropped", _NEWEST)
        self._expression = node.create_publisher(types.Expression, f"{topic}/expression", _NEWEST)
        self.seen_s = 0.0
        """The monotonic time at which the person was last in the list."""
        self._assessed_ns = 0

    def publish_box(self, frame: Frame, box: Box, confidence: float) -> None:
        """Publish the box in shares of the image, and the crop if it has subscribers."""
        inside = box.clipped(frame.width, frame.height)
        self._region.publish(
            self._types.NormalizedRegionOfInterest2D(
                header=_header(frame.stamp_ns, frame.camera),
                xmin=float(inside.left / frame.width),
                ymin=float(inside.top / frame.height),
                xmax=float(inside.right / frame.width),
                ymax=float(inside.bottom / frame.height),
                c=float(confidence),
            )
        )
        if inside.area > 0 and self._cropped.get_subscription_count():
            crop = frame.image[box.pixels(frame.width, frame.height)]
            crop_frame = Frame(crop, frame.stamp_ns, frame.camera)
            self._cropped.publish(image_to_msg(self._show(crop_frame)))

    def publish_expression(self, estimate: Estimate, people: PeopleEstimate) -> None:
        """Publish the expression once per assessment, with the stamp of the assessed image."""
        if estimate.status is not Status.ASSESSED or estimate.assessed_ns == self._assessed_ns:
            return
        label, word = expression_of(estimate.active)
        if not word:
            return
        assert estimate.scores is not None
        self._assessed_ns = estimate.assessed_ns
        vad = estimate.vad
        self._expression.publish(
            self._types.Expression(
                header=_header(estimate.assessed_ns, people.camera),
                expression=word,
                # 0 would be a value: neutral and calm.
                valence=float(vad.valence) if vad else math.nan,
                arousal=float(vad.arousal) if vad else math.nan,
                confidence=float(estimate.scores[people.labels.index(label)]),
            )
        )

    def close(self) -> None:
        for publisher in (self._region, self._cropped, self._expression):
            self._node.destroy_publisher(publisher)


def _blurred(blur: FaceBlur, body: Frame) -> Frame:
    """Return the crop of a body that may be shown."""
    return blur.frame(body, [Box(0, 0, body.width, body.height)])


def _header(stamp_ns: int, camera: str) -> Header:
    return Header(stamp=time_to_msg(stamp_ns), frame_id=camera)


def _prefix_of(node: LifecycleNode) -> str:
    """Return a prefix that differs between nodes: empty for `/emotion_node`, else of its name."""
    name = str(node.get_fully_qualified_name()).strip("/").replace("/", "_")
    own = name.removesuffix(NODE_NAME).strip("_")
    return f"{own}_" if own else ""
