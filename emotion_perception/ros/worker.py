"""One thread that computes for a node whose executor owns all state."""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, Queue
from typing import Any

import rclpy
from rclpy.node import Node

_Job = tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]


class Worker:
    """Runs jobs one after the other, and returns their results to the node's executor."""

    def __init__(self, node: Node, on_free: Callable[[], None]) -> None:
        """Start the worker thread.

        Args:
            node: The node whose executor takes the results.
            on_free: Called by the executor after each result, to start the next job.
        """
        self._node, self._on_free = node, on_free
        self._queue: Queue[_Job | None] = Queue()
        # A daemon: a job that never ends must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="recognizer", daemon=True)
        self._thread.start()
        self._jobs = 0
        self._began: float | None = None
        self._closed = False
        self._settling: list[Any] = []

    @property
    def busy(self) -> bool:
        """Whether the result of a job is still to come."""
        return self._jobs > 0

    @property
    def busy_s(self) -> float:
        """Seconds for which the job in progress has been running; 0 without one."""
        began = self._began
        return 0.0 if began is None else time.monotonic() - began

    def do(
        self, on_result: Callable[[Future[Any]], None], job: Callable[..., Any], *arguments: Any
    ) -> None:
        """Run a job on the worker thread, and call back on the executor with its future."""
        self._jobs += 1
        future: Future[Any] = Future()
        future.add_done_callback(functools.partial(self._bring_back, on_result))
        self._queue.put((future, job, arguments))

    async def settle(self) -> None:
        """Wait until no job is left, including jobs that are added meanwhile."""
        if self.busy and not self._closed:
            settled = rclpy.Future(executor=self._node.executor)
            self._settling.append(settled)
            await settled

    def drain(self, wait_s: float) -> bool:
        """Cancel the waiting jobs, and return whether the running one ended within this time."""
        with contextlib.suppress(Empty):
            while item := self._queue.get_nowait():
                item[0].cancel()
                self._queue.task_done()
        end = time.monotonic() + wait_s
        while self._queue.unfinished_tasks and time.monotonic() < end:
            time.sleep(0.01)
        return not self._queue.unfinished_tasks

    def close(self, wait_s: float) -> bool:
        """Drain, and end the thread.

        Returns:
            Whether the running job ended. If not, its thread still uses what the job was given.
        """
        self._closed = True
        ended = self.drain(wait_s)
        self._queue.put(None)
        self._release()
        return ended

    def _run(self) -> None:
        while item := self._queue.get():
            future, job, arguments = item
            self._began = time.monotonic()
            try:
                future.set_result(job(*arguments))
            except BaseException as error:  # SystemExit too is for the executor to judge
                future.set_exception(error)
            self._began = None
            self._queue.task_done()

    def _bring_back(self, on_result: Callable[[Future[Any]], None], result: Future[Any]) -> None:
        if self._node.executor is not None and self._node.context.ok():
            self._node.executor.create_task(self._take, on_result, result)

    def _take(self, on_result: Callable[[Future[Any]], None], result: Future[Any]) -> None:
        self._jobs -= 1
        on_result(result)
        if not self._closed:  # otherwise the model is already released
            self._on_free()
        if not self.busy:
            self._release()

    def _release(self) -> None:
        waiting, self._settling = self._settling, []
        for settled in waiting:
            settled.set_result(None)
