"""Publish findings about the node on /diagnostics, and log problems and their end."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Sequence

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node

from emotion_perception.core.text import PrintableFormatter
from emotion_perception.ros.conversions import time_to_msg
from emotion_perception.ros.health import ERROR, OK, Finding
from emotion_perception.ros.qos import overridable

_REPEAT_S = 30.0  # after which a lasting problem is logged again
_LEVELS = (DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR)


class Reporter:
    """Publishes findings, and logs a problem when it is new, lasts half a minute, or ends."""

    def __init__(self, node: Node) -> None:
        """Create the publisher of /diagnostics."""
        self._node = node
        self._publisher = node.create_publisher(
            DiagnosticArray, "/diagnostics", 1, qos_overriding_options=overridable()
        )
        self._logged: dict[str, tuple[str, float]] = {}

    def report(self, findings: Sequence[Finding]) -> None:
        """Publish the findings about each part of the node, and log what is due."""
        self._publisher.publish(self._message(findings))
        for finding in findings:
            self.log(finding)

    def log(self, finding: Finding) -> None:
        """Log a finding, unless it was logged in the last half minute."""
        logger, text = self._node.get_logger(), f"{finding.part}: {finding.message}"
        if not self._is_due(finding):
            return
        if finding.level == ERROR:
            logger.error(text)
        elif finding.level == OK:
            logger.info(f"{text} again")
        else:
            logger.warning(text)

    def _is_due(self, finding: Finding) -> bool:
        if finding.level == OK:
            return self._logged.pop(finding.part, None) is not None
        kind = re.sub(r"\d+", "", finding.message)  # the same problem with other numbers
        logged, when = self._logged.get(finding.part, ("", 0.0))
        if logged == kind and time.monotonic() - when < _REPEAT_S:
            return False
        self._logged[finding.part] = (kind, time.monotonic())
        return True

    def _message(self, findings: Sequence[Finding]) -> DiagnosticArray:
        name = self._node.get_fully_qualified_name()
        message = DiagnosticArray()
        message.header.stamp = time_to_msg(self._node.get_clock().now().nanoseconds)
        message.status = [
            DiagnosticStatus(
                level=_LEVELS[finding.level],
                name=f"{name}: {finding.part}",
                message=finding.message,
                hardware_id=name,
                values=[KeyValue(key=k, value=str(v)) for k, v in finding.values.items()],
            )
            for finding in findings
        ]
        return message


class RosLogHandler(logging.Handler):
    """Forwards log records of the package to the node's logger, and so to /rosout."""

    def __init__(self, node: Node) -> None:
        super().__init__()
        self._logger = node.get_logger()
        self.setFormatter(PrintableFormatter())

    def emit(self, record: logging.LogRecord) -> None:
        """Log a record at the level of ROS that corresponds to its own."""
        text = self.format(record)
        if record.levelno >= logging.ERROR:
            self._logger.error(text)
        elif record.levelno >= logging.WARNING:
            self._logger.warning(text)
        else:
            self._logger.info(text)
