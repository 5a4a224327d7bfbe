"""Run a reader in a child process, since libraries in native code can crash on damaged files.

    rows = run_in_child("emotion_perception.evaluation.datasets.mat_file:rows", path, "train")

The function yields values ready for JSON. A crash, a hang and the use of all memory end the child
only, and become a ValueError.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from emotion_perception.core import documents

MAX_SECONDS = 600
MAX_MEMORY = 8 << 30
MAX_OUTPUT = 1 << 30
"""Bytes of address space and of output."""

_ROOT = Path(__file__).parents[2]


def run_in_child(
    function: str, *arguments: str, seconds: int = MAX_SECONDS, memory: int = MAX_MEMORY
) -> Iterator[Any]:
    """Yield the values that a function yields in a child process.

    Args:
        function: `MODULE:NAME` of a generator function.
        arguments: its arguments.
        seconds: the most time.
        memory: the most bytes of address space.

    Raises:
        ValueError: the function raised an error, or the child crashed or exceeded a limit; the text
            is the reason.
    """
    environment = {**os.environ, "PYTHONPATH": str(_ROOT), "PYTHONSAFEPATH": "1"}
    environment |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    limits = [str(seconds), str(memory), str(MAX_OUTPUT)]
    with tempfile.TemporaryFile() as output:
        try:
            status = subprocess.run(
                [sys.executable, "-m", __name__, *limits, function, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.DEVNULL,
                timeout=seconds,
                env=environment,
            ).returncode
        except subprocess.TimeoutExpired as error:
            raise ValueError(f"reading it takes more than {seconds} s") from error
        output.seek(0)
        for _, line, is_complete in documents.json_lines(output):
            if is_complete:
                content = documents.parse_json(line)
                if "error" in content:
                    raise ValueError(content["error"])
                yield content["value"]
    if status:
        raise ValueError(_reason(status, seconds))


def _reason(status: int, seconds: int) -> str:
    if -status == signal.SIGXCPU:
        return f"reading it takes more than {seconds} s"
    if status < 0:
        return f"the library that reads it crashed ({signal.Signals(-status).name})"
    return f"the process that reads it ended with status {status}"


def main() -> None:
    """Write the values of a function as lines of JSON; see `run_in_child` for the arguments."""
    seconds, memory, size = map(int, sys.argv[1:4])
    module, _, name = sys.argv[4].partition(":")
    for kind, limit in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, size),
    ):
        resource.setrlimit(kind, (limit, limit))
    # What a library prints does not mix with the lines.
    output = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        for value in getattr(importlib.import_module(module), name)(*sys.argv[5:]):
            output.write(json.dumps({"value": value}) + "\n")
    except (ValueError, OSError, ImportError) as error:
        output.write(json.dumps({"error": " ".join(str(error).split())}) + "\n")
    except MemoryError:
        output.write(json.dumps({"error": "reading it needs too much memory"}) + "\n")
    output.close()


if __name__ == "__main__":
    main()
