"""What each further output of the node implements, and how optional messages are imported."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from typing import Any, Protocol

from emotion_perception.core.values import Frame, PeopleEstimate
from emotion_perception.ros.health import Finding


class Output(Protocol):
    """A form in which estimates are published besides `~/emotions`. Its constructor opens it."""

    def publish(self, people: PeopleEstimate, frame: Frame) -> None:
        """Publish the estimates of a frame; called again when they change without a new frame."""
        ...

    def publish_inactive(self, people: PeopleEstimate) -> None:
        """Tell the subscribers that no person is observed any more.

        Args:
            people: Without people, with the header of the last frame; stamp and size are 0 before
                the first one.
        """
        ...

    def findings(self) -> Sequence[Finding]:
        """Return what is to be reported in /diagnostics."""
        ...

    def close(self) -> None:
        """Destroy the publishers."""
        ...


def optional_messages(package: str, wanted_by: str) -> Any:
    """Return the module `msg` of a package of messages that need not be installed.

    Args:
        package: The package, such as `hri_msgs`.
        wanted_by: The setting that needs it, and how to do without, for the error.

    Raises:
        ValueError: The package is not installed; the message names the package of apt.
    """
    try:
        return importlib.import_module(f"{package}.msg")
    except ImportError as error:
        distribution = os.environ.get("ROS_DISTRO") or "$ROS_DISTRO"
        apt = f"ros-{distribution}-{package.replace('_', '-')}"
        raise ValueError(
            f"cannot use {wanted_by}: the messages {package} are not installed ({error}); "
            f"sudo apt install {apt}"
        ) from error
