"""The process of the node: start it, bound each step and the end, and return an exit status."""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import sys
import traceback
from collections.abc import Callable, Iterator

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation as _rclpy

from emotion_perception.core.process import (
    FAILED,
    MISCONFIGURED,
    STOPPED,
    Signals,
    Watchdog,
    exit_now,
    remove_stale_shared_memory,
)
from emotion_perception.core.text import MAX_TEXT, printable
from emotion_perception.ros import diagnostics
from emotion_perception.ros.lifecycle import SUCCESS
from emotion_perception.ros.node import EmotionNode

_STEP_S = 0.1  # after which the executor looks for a signal
_END_S = 2.5  # to release everything, before the watcher kills


def main(args: list[str] | None = None, make_node: Callable[..., EmotionNode] = EmotionNode) -> int:
    """Run the node until a signal or a shutdown, and return the exit status of the process.

    Args:
        args: The command line; None: that of the process.
        make_node: Creates the node, given the argument `loading` of `EmotionNode`.

    Returns:
        `process.STOPPED`, `FAILED` or `MISCONFIGURED`.
    """
    remove_stale_shared_memory()
    with Signals().handled() as signals:
        try:
            rclpy.init(args=args, signal_handler_options=rclpy.SignalHandlerOptions.NO)
        except _rclpy.RCLError as error:
            print(f"emotion_node: cannot start ROS 2: {error}", file=sys.stderr)
            return MISCONFIGURED
        try:
            status = _run(signals, sys.argv if args is None else args, make_node)
        except KeyboardInterrupt:
            status = STOPPED
        finally:
            rclpy.try_shutdown()
    return status


def _run(signals: Signals, args: list[str], make_node: Callable[..., EmotionNode]) -> int:
    watchdog = Watchdog()

    @contextlib.contextmanager
    def loading(allowed_s: float) -> Iterator[None]:
        watchdog.allow(allowed_s)
        with signals.interrupting():
            yield

    node = make_node(loading=loading)
    package_log = logging.getLogger("emotion_perception")
    package_log.addHandler(diagnostics.RosLogHandler(node))
    package_log.setLevel(logging.INFO)
    if "--params-file" in args and not node._parameter_overrides:
        node.get_logger().warning(
            f"the parameter file has no section for {node.get_fully_qualified_name()}"
        )
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        if node.get_parameter("autostart").value:
            started = node.trigger_configure() == SUCCESS and node.trigger_activate() == SUCCESS
            if not started:
                return MISCONFIGURED
        return _spin(node, executor, signals, watchdog)
    except Exception:
        if not node.context.ok():
            return STOPPED  # shut down during a call
        trace = printable(traceback.format_exc(), MAX_TEXT, lines=True)
        node.get_logger().fatal(f"the node ends:\n{trace}")
        return FAILED
    finally:
        watchdog.allow(_END_S)
        if not node.release():
            exit_now(STOPPED if signals.stop else FAILED)
        node.destroy_node()
        watchdog.close()


def _spin(
    node: EmotionNode, executor: SingleThreadedExecutor, signals: Signals, watchdog: Watchdog
) -> int:
    while node.context.ok() and not signals.stop:
        allowed_s = node.settings.watchdog.hang
        watchdog.allow(allowed_s)
        executor.spin_once(timeout_sec=_STEP_S)
        if 0 < allowed_s < node.round_s:
            node.get_logger().fatal(
                f"the node ends: a round has been running for {node.round_s:.0f} s (watchdog.hang)"
            )
            faulthandler.dump_traceback()
            return FAILED
    return STOPPED


if __name__ == "__main__":
    sys.exit(main())
