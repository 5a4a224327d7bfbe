"""A file with one JSON value per line that is first read and then extended, line by line.

Such files hold descriptions of people: only their owner may read them. A line is written with one
call and reaches the disk at most `SYNC_S` later. A killed process may leave a last line that is
incomplete; reading removes it.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from emotion_perception.core import documents
from emotion_perception.io import atomic

SYNC_S = 1.0
"""Seconds of lines that may be lost when the computer stops; a killed process loses none."""


class LineFile:
    """A file with one JSON value per line."""

    def __init__(self, path: Path) -> None:
        """Name the file; it is created by the first `append`."""
        self.path = path
        self._descriptor: int | None = None
        self._synced = 0.0

    def read(self) -> Iterator[Any]:
        """Yield the values of the complete lines, then remove an incomplete last line.

        Raises:
            ValueError: A complete line is damaged.
            OSError: The file cannot be read.
        """
        if not self.path.is_file():
            return
        size = 0
        with self.path.open("rb") as file:
            for number, line, is_complete in documents.json_lines(file):
                if not is_complete:
                    break
                try:
                    value = documents.parse_json(line, finite=False)
                except ValueError as error:
                    raise ValueError(
                        f"cannot resume: {self.path}, line {number} is damaged ({error}); remove "
                        "the line"
                    ) from error
                size += len(line)
                yield value
            if size < os.fstat(file.fileno()).st_size:
                os.truncate(self.path, size)

    def append(self, row: Any) -> None:
        """Write a line at once.

        Raises:
            OSError: It cannot be written; the lines before it remain.
        """
        line = json.dumps(row).encode() + b"\n"
        with atomic.naming(self.path):
            if self._descriptor is None:
                flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
                self._descriptor = os.open(self.path, flags, 0o600)
            size = os.fstat(self._descriptor).st_size
            try:
                written = 0
                while written < len(line):
                    written += os.write(self._descriptor, line[written:])
                if time.monotonic() - self._synced > SYNC_S:
                    self._sync()
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._descriptor, size)
                raise

    def close(self) -> None:
        """Bring the lines onto the disk, and close the file.

        Raises:
            OSError: They do not fit.
        """
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            with atomic.naming(self.path):
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)

    def _sync(self) -> None:
        assert self._descriptor is not None
        os.fsync(self._descriptor)
        self._synced = time.monotonic()
