"""The folder of one evaluation, replay or training: claimed by one run, resumed by the same run.

    with RunFolder.claim(path, manifest) as run:    # refuses the folder of another run
        log = run.log("answers.jsonl")              # the rows of an interrupted run, if any
        for image in images:
            if image.key not in done(log.rows):
                log.append(assess(image))           # on disk at once
        run.write({"metrics.json": to_json(metrics)})   # all files, or none

The manifest is a JSON object that identifies the run: settings, data, versions. The same command
makes the same manifest, and so resumes; a different manifest is refused with the first difference.
While the folder is claimed, other processes cannot claim it. The folder is readable by its owner
only, since it may hold images and descriptions of people.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from emotion_perception.io import atomic

MANIFEST = "run.json"

_claimed: dict[Path, tuple[int, int]] = {}
"""Folder to descriptor and number of claims: this process may claim a folder twice."""


class RunFolder:
    """A claimed folder. A context manager; `release` lets other processes claim it."""

    def __init__(self, path: Path, manifest: dict[str, Any], changes: dict[str, str]) -> None:
        """Hold a folder that `claim` has locked."""
        self.path = path
        self.manifest = manifest
        self.changes = changes
        """Tolerated differences from the stored manifest: dotted name to `old, now new`."""

    @classmethod
    @atomic.private()
    def claim(
        cls,
        path: Path | str,
        manifest: Mapping[str, Any],
        *,
        name: str = MANIFEST,
        may_change: Sequence[str] = (),
        results: Sequence[str] = (),
    ) -> RunFolder:
        """Start a run in an empty folder, or resume the same run.

        Args:
            path: the folder; it is created where it does not exist.
            manifest: what identifies the run, ready for JSON.
            name: the file name of the manifest.
            may_change: prefixes of dotted names that may differ on resume, such as "versions".
            results: files of a completed run, which are removed.

        Raises:
            ValueError: the folder holds another run or other files, or is in use.
            OSError: the folder cannot be created or written.
        """
        path = Path(path)
        current: dict[str, Any] = json.loads(json.dumps(manifest))
        stored = read_manifest(path, name) if (path / name).is_file() else None
        if stored is None and path.is_dir() and any(path.iterdir()):
            raise ValueError(
                f"cannot start a run in {path}: it holds other files and no run; choose another "
                "--out"
            )
        differences = {} if stored is None else compare_manifests(stored, current)
        changes = {k: v for k, v in differences.items() if k.startswith(tuple(may_change))}
        for key, values in differences.items():
            if key not in changes:
                raise ValueError(
                    f"cannot resume in {path}: it holds another run ({key}: {values}); choose "
                    "another --out, or remove the folder"
                )
        atomic.make_folder(path)
        run = cls(path, current, changes)
        _lock(path)
        try:
            for result in results:
                (path / result).unlink(missing_ok=True)
            if stored is None:
                run.write({name: to_json(current)})
        except BaseException:
            run.release()
            raise
        return run

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        self.release()

    def release(self) -> None:
        """Let other processes claim the folder."""
        _unlock(self.path)

    @atomic.private()
    def write(self, contents: Mapping[str, bytes]) -> None:
        """Write files of the folder: all of them, or none if one cannot be written.

        Raises:
            OSError: a file cannot be written; the former files remain.
        """
        atomic.write_files({self.path / name: content for name, content in contents.items()})

    def log(self, name: str) -> AppendLog:
        """Open a log of the folder, with the rows of an interrupted run."""
        return AppendLog(self.path / name)


class AppendLog:
    """A file with one JSON value per line, written row by row.

    A killed run may leave a last line that is incomplete: it is removed.
    """

    def __init__(self, path: Path) -> None:
        """Read the rows of an interrupted run.

        Raises:
            ValueError: a complete line is damaged.
        """
        self.path = path
        self.rows: list[Any] = []
        if not path.is_file():
            return
        content = path.read_bytes()
        complete = content[: content.rfind(b"\n") + 1]
        for number, line in enumerate(complete.splitlines(), 1):
            try:
                self.rows.append(json.loads(line))
            except ValueError as error:
                raise ValueError(
                    f"cannot resume: {path}, line {number} is damaged ({error}); remove the line"
                ) from error
        if len(complete) < len(content):
            os.truncate(path, len(complete))

    def append(self, row: Any) -> None:
        """Add a row and write it at once.

        Raises:
            OSError: the row cannot be written.
        """
        self.rows.append(row)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def read_manifest(path: Path, name: str = MANIFEST) -> dict[str, Any]:
    """Read the manifest of a run folder.

    Raises:
        ValueError: the manifest is damaged.
        OSError: there is no manifest.
    """
    try:
        manifest = json.loads((path / name).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"cannot read {path / name}: it is damaged ({error}); remove {path}"
        ) from error
    if not isinstance(manifest, dict):
        raise ValueError(f"cannot read {path / name}: it is not a JSON object; remove {path}")
    return manifest


def compare_manifests(
    stored: Mapping[str, Any], current: Mapping[str, Any], prefix: str = ""
) -> dict[str, str]:
    """Return what differs between two manifests: dotted name to `old, now new`."""
    differences: dict[str, str] = {}
    for key in {**stored, **current}:
        old, new = stored.get(key), current.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            differences |= compare_manifests(old, new, f"{prefix}{key}.")
        elif old != new:
            before, now = (textwrap.shorten(repr(value), 200) for value in (old, new))
            differences[prefix + key] = f"{before}, now {now}"
    return differences


def short_hash(content: Any) -> str:
    """Return 16 letters that change with the `repr` of the content."""
    return hashlib.sha256(repr(content).encode()).hexdigest()[:16]


def fingerprint_files(paths: Iterable[Path]) -> str:
    """Return 16 letters that change with name, size or time of the files that exist."""
    return short_hash(
        [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in paths if p.is_file()]
    )


def to_json(content: Any) -> bytes:
    """Return the content as readable JSON."""
    return (json.dumps(content, indent=2) + "\n").encode()


def _lock(path: Path) -> None:
    """Lock the folder itself, which leaves no lock file behind."""
    key = path.resolve()
    if key in _claimed:
        descriptor, claims = _claimed[key]
        _claimed[key] = descriptor, claims + 1
        return
    descriptor = os.open(key, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise ValueError(
            f"cannot write in {path}: another process is using it; wait until it ends, or choose "
            "another --out"
        ) from error
    except OSError:  # a file system without locks
        pass
    _claimed[key] = descriptor, 1


def _unlock(path: Path) -> None:
    key = path.resolve()
    if key not in _claimed:
        return
    descriptor, claims = _claimed.pop(key)
    if claims > 1:
        _claimed[key] = descriptor, claims - 1
        return
    with contextlib.suppress(OSError):
        os.close(descriptor)
