"""End the process of a node within bounds, whatever its threads are doing.

Two promises, kept by means that do not need Python's interpreter lock, which a call into native
code may hold for ever:

- The process ends at most `EXIT_S` after the first SIGINT or SIGTERM. A small watcher process reads
  the pipe into which the C signal handler writes (`signal.set_wakeup_fd`), and kills.
- A step that takes longer than allowed ends the process: the C thread of `faulthandler` prints all
  stacks and exits. The executor allows each step anew.

Only `main` of a node uses this: a node composed into another process must not end that process.
"""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

STOPPED, FAILED, MISCONFIGURED = 0, 1, 2
"""Exit statuses: ended by a signal or shutdown; by a failure or the watchdog; could not start."""

RESPAWN_DELAY_S, MAX_RESPAWNS = 2.0, 5
EXIT_S = 3.0
REARM_S = 0.5  # the watchdog's timer is a thread: it is not replaced at each step
_SHARED_MEMORY = Path("/dev/shm")
_YOUNG_S = 2.0  # a file may exist for a moment before its owner locks it

# Runs in a process of its own; its standard input is the pipe. End of file: the node has ended.
_WATCHER = """
import os, select, signal, sys
parent, exit_s = int(sys.argv[1]), float(sys.argv[2])
if os.read(0, 1):
    import time
    end = time.monotonic() + exit_s
    while (left := end - time.monotonic()) > 0:
        if select.select([0], [], [], left)[0] and not os.read(0, 64):
            sys.exit()
    if os.getppid() == parent:
        os.write(2, b"emotion_node: still running %g s after the signal: killed\\n" % exit_s)
        os.kill(parent, signal.SIGKILL)
"""


def should_respawn(status: int, respawns: int) -> bool:
    """Return whether to start a node again that ended.

    Args:
        status: The exit status; negative: the number of the signal that killed it.
        respawns: How often it was started again.
    """
    # A wrong path would be loaded for ever.
    return status not in (STOPPED, MISCONFIGURED) and respawns < MAX_RESPAWNS


class Signals:
    """Ask the process to stop at the first SIGINT or SIGTERM, and end it at the second."""

    def __init__(self) -> None:
        self.stop = False
        """Whether a signal arrived."""
        self._interrupting = False

    @contextlib.contextmanager
    def handled(self) -> Iterator[Signals]:
        """Handle the signals in the main thread, with a watcher process beside it."""
        pipe, wakeup = os.pipe()
        os.set_blocking(wakeup, False)
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
        signals = (signal.SIGINT, signal.SIGTERM)
        # Before the watcher starts: Python drops a KeyboardInterrupt that is raised while it forks.
        before = [signal.signal(number, self._on_signal) for number in signals]
        watcher = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _WATCHER, str(os.getpid()), str(EXIT_S)],
            stdin=pipe,
            start_new_session=True,  # Ctrl-C in a terminal is not for it
        )
        os.close(pipe)
        try:
            yield self
        finally:
            signal.set_wakeup_fd(-1)
            os.close(wakeup)
            watcher.wait()
            for number, handler in zip(signals, before, strict=True):
                signal.signal(number, handler)

    @contextlib.contextmanager
    def interrupting(self) -> Iterator[None]:
        """Raise KeyboardInterrupt at a signal in this block, which may take long.

        Raises:
            KeyboardInterrupt: A signal arrived, before the block or in it.
        """
        self._interrupting = True
        try:
            if self.stop:
                raise KeyboardInterrupt
            yield
        finally:
            self._interrupting = False

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.stop:
            os._exit(128 + number)
        self.stop = True
        if self._interrupting:
            raise KeyboardInterrupt


class Watchdog:
    """End the process, with the stacks of all threads, when a step takes longer than allowed."""

    def __init__(self) -> None:
        self._armed: tuple[float, float] | None = None

    def allow(self, seconds: float) -> None:
        """Allow the step that begins now this long; 0: any time."""
        now = time.monotonic()
        if self._armed is not None:
            before, allowed = self._armed
            if allowed == seconds and now - before < min(REARM_S, seconds / 4):
                return
        self._armed = now, seconds
        if seconds:
            faulthandler.dump_traceback_later(seconds, exit=True)
        else:
            faulthandler.cancel_dump_traceback_later()

    def close(self) -> None:
        """End the supervision."""
        self._armed = None
        faulthandler.cancel_dump_traceback_later()


def remove_stale_shared_memory(folder: Path = _SHARED_MEMORY) -> int:
    """Remove the shared memory that killed processes left behind, and return the number of files.

    Fast DDS locks a file beside each of its segments and ports while their owner lives, and never
    removes those of a killed process: without this, each kill would leave half a megabyte.
    """
    removed = 0
    for lock in folder.glob("fast*_*_[es]l"):
        if not lock.name.startswith(("fastrtps_", "fastdds_")):  # of Fast DDS 2 and 3
            continue
        guarded = lock.name[: -len("_el")]
        try:
            if time.time() - lock.stat().st_mtime < _YOUNG_S:
                continue
            with lock.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                names = [guarded, lock.name]
                if re.fullmatch(r"fast(rtps|dds)_port\d+", guarded):
                    names.append(f"sem.{guarded}_mutex")
                for name in names:
                    (folder / name).unlink(missing_ok=True)
                    removed += 1
        except OSError:
            continue  # in use, or of another user
    return removed


def exit_now(status: int) -> None:
    """End the process without waiting for threads that do not end."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
