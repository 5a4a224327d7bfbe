"""One thread that computes for a node whose executor owns all state."""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import rclpy
from rclpy.node import Node


class Worker:
    """Runs jobs one after the other, and returns their results to the node's executor."""

    def __init__(self, node: Node, on_free: Callable[[], None]) -> None:
        """Start the worker thread.

        Args:
            node: the node whose executor takes the results.
            on_free: called by the executor after each result, to start the next job.
        """
        self._node, self._on_free = node, on_free
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="recognizer")
        self._jobs = 0
        self._closed = False
        self._settling: list[Any] = []

    @property
    def busy(self) -> bool:
        """Whether the result of a job is still to come."""
        return self._jobs > 0

    def do(
        self, on_result: Callable[[Future[Any]], None], job: Callable[..., Any], *arguments: Any
    ) -> None:
        """Run a job on the worker thread, and call back on the executor with its future."""
        self._jobs += 1
        bring_back = functools.partial(self._bring_back, on_result)
        self._pool.submit(job, *arguments).add_done_callback(bring_back)

    async def settle(self) -> None:
        """Wait until no job is left, including jobs that are added meanwhile."""
        if self.busy and not self._closed:
            settled = rclpy.Future(executor=self._node.executor)
            self._settling.append(settled)
            await settled

    def close(self) -> None:
        """Wait for the running job, and cancel the others."""
        self._closed = True
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._release()

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
