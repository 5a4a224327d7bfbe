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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from emotion_perception.core import documents
from emotion_perception.io import atomic, confined
from emotion_perception.io.line_file import LineFile

MANIFEST = "run.json"

_claimed: dict[Path, _Claim] = {}


@dataclass(slots=True)
class _Claim:
    """A folder that this process holds; it may claim a folder twice."""

    descriptor: int
    created: list[Path]
    """The folders that did not exist, from inside out; they are removed if they stay empty."""
    count: int = 1


@contextlib.contextmanager
def hold(path: Path | str, name: str | None = MANIFEST) -> Iterator[Path]:
    """Keep a folder for this process, and check before expensive work that it can be used.

    Args:
        path: the folder; it is created where it does not exist, and removed if it stays empty.
        name: the file name of the manifest of runs; None: the folder may hold anything.

    Raises:
        ValueError: the folder is in use, or holds other files and no run.
        OSError: the folder cannot be created or written.
    """
    path = Path(path)
    with atomic.private() if name else contextlib.nullcontext():
        _acquire(path)
    try:
        if name is not None:
            _check_content(path, name)
        yield path
    finally:
        _release(path)


class RunFolder:
    """A claimed folder. A context manager; `release` lets other processes claim it."""

    def __init__(self, path: Path, manifest: dict[str, Any], changes: dict[str, str]) -> None:
        """Hold a folder that `claim` has locked."""
        self.path = path
        self.manifest = manifest
        self.changes = changes
        """Tolerated differences from the stored manifest: dotted name to `old, now new`."""
        self._logs: list[AppendLog] = []

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
        _acquire(path)
        try:
            run = cls(path, current, _changes(path, name, current, may_change))
            for result in results:
                (path / result).unlink(missing_ok=True)
            if not (path / name).is_file():
                run.write({name: to_json(current)})
        except BaseException:
            _release(path)
            raise
        return run

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        self.release()

    def release(self) -> None:
        """Bring the logs onto the disk, and let other processes claim the folder."""
        for log in self._logs:
            log.close()
        _release(self.path)

    @atomic.private()
    def write(self, contents: Mapping[str, bytes]) -> None:
        """Write files of the folder: all of them, or none if one cannot be written.

        Raises:
            OSError: a file cannot be written; the former files remain.
        """
        atomic.write_files({self.path / name: content for name, content in contents.items()})

    def log(self, name: str) -> AppendLog:
        """Open a log of the folder, with the rows of an interrupted run."""
        log = AppendLog(self.path / name)
        self._logs.append(log)
        return log


class AppendLog(LineFile):
    """A `LineFile` whose rows are kept in memory."""

    def __init__(self, path: Path) -> None:
        """Read the rows of an interrupted run.

        Raises:
            ValueError: a complete line is damaged.
        """
        super().__init__(path)
        self.rows: list[Any] = list(self.read())

    def append(self, row: Any) -> None:
        """Add a row and write it at once.

        Raises:
            OSError: the row cannot be written.
        """
        self.rows.append(row)
        super().append(row)


def read_manifest(path: Path, name: str = MANIFEST) -> dict[str, Any]:
    """Read the manifest of a run folder.

    Raises:
        ValueError: the manifest is damaged.
        OSError: there is no manifest.
    """
    try:
        return documents.read_json_object(path / name)
    except ValueError as error:
        raise ValueError(
            f"cannot read {path / name}: it is damaged ({error}); remove {path}"
        ) from error


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


def _changes(
    path: Path, name: str, current: Mapping[str, Any], may_change: Sequence[str]
) -> dict[str, str]:
    """Return the tolerated differences of a manifest from the stored one.

    Raises:
        ValueError: the folder holds another run, or other files and no run.
    """
    _check_content(path, name)
    if not (path / name).is_file():
        return {}
    differences = compare_manifests(read_manifest(path, name), current)
    changes = {k: v for k, v in differences.items() if k.startswith(tuple(may_change))}
    for key, values in differences.items():
        if key not in changes:
            raise ValueError(
                f"cannot resume in {path}: it holds another run ({key}: {values}); choose "
                "another --out, or remove the folder"
            )
    return changes


def _check_content(path: Path, name: str) -> None:
    """Check that a folder that we hold is empty or has a run; remove what killed runs left.

    Raises:
        ValueError: it holds other files and no run, or a link to a file elsewhere.
    """
    for file in path.iterdir():
        confined.join(path, file.name)
    if (path / name).is_file():
        atomic.remove_parts(path)
        return
    files = list(path.iterdir())
    if not all(file.is_file() and atomic.is_part(file.name, name) for file in files):
        raise ValueError(
            f"cannot start a run in {path}: it holds other files and no run; choose another --out"
        )
    for file in files:
        file.unlink()


def _acquire(path: Path) -> None:
    """Create a folder where it does not exist, and lock it; no lock file is left behind.

    Raises:
        ValueError: another process holds it.
        OSError: it cannot be created or written.
    """
    created = [p for p in (path, *path.absolute().parents) if not p.exists()]
    key = atomic.make_folder(path).resolve()
    if key in _claimed:
        _claimed[key].count += 1
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
    _claimed[key] = _Claim(descriptor, created)


def _release(path: Path) -> None:
    key = path.resolve()
    claim = _claimed.get(key)
    if claim is None:
        return
    claim.count -= 1
    if claim.count:
        return
    del _claimed[key]
    with contextlib.suppress(OSError):
        for folder in claim.created:
            folder.rmdir()  # only if it is empty
    with contextlib.suppress(OSError):
        os.close(claim.descriptor)
