"""Log the errors of lifecycle transitions, and reject requests that do not fit the state."""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable
from typing import Any

from rclpy.impl.implementation_singleton import rclpy_implementation as _rclpy
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn

from emotion_perception.core.errors import ModelError
from emotion_perception.core.text import MAX_TEXT, printable

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE

Transition = Callable[[Any, LifecycleState], TransitionCallbackReturn]


def reported(transition: Transition) -> Transition:
    """Log exceptions of a transition, which rclpy turns into ERROR without a message."""

    @functools.wraps(transition)
    def run(self: LifecycleNode, state: LifecycleState) -> TransitionCallbackReturn:
        name = transition.__name__.removeprefix("on_")
        try:
            return transition(self, state)
        except (ModelError, ValueError) as error:
            self.get_logger().error(f"cannot {name}: {printable(error, MAX_TEXT)}")
        except Exception:
            if self.context.ok():  # otherwise the process is ending
                trace = printable(traceback.format_exc(), MAX_TEXT, lines=True)
                self.get_logger().error(f"cannot {name}:\n{trace}")
        return FAILURE

    return run


def survive_stray_transitions(node: LifecycleNode) -> None:
    """Reject a request that is not valid in the current state.

    Until rclpy 9.1.2 such a request, which lifecycle managers send to a node that has activated
    itself, raises out of spin (ros2/rclpy issue 1209).
    """
    service = node._service_change_state
    change_state = service.callback

    def guarded(request: Any, response: Any) -> Any:
        try:
            return change_state(request, response)
        except _rclpy.RCLError as error:
            node.get_logger().warning(f"lifecycle request refused: {str(error).strip()}")
            response.success = False
            return response

    service.callback = guarded
