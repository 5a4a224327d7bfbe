"""Replace files and folders as a whole, or leave what was there before."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

_STALE_S = 3600.0
"""Seconds after the last write until a part counts as a leftover of a killed process."""

_MAX_NAME = 230
"""Bytes of a name, so that the longer name of its part also fits into a file system's 255."""


def make_folder(folder: Path | str) -> Path:
    """Create a folder where it does not exist yet, and check that it can be written.

    Raises:
        OSError: the folder cannot be created or written.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"cannot create the folder {folder}: {error.strerror}; choose another folder"
        ) from error
    if not os.access(folder, os.W_OK):
        raise OSError(
            f"cannot write in the folder {folder}: permission denied; choose another folder, or "
            "change its permissions"
        )
    return folder


def check_writable(path: Path | str) -> Path:
    """Check, without creating anything, that a file or folder can be created at a path.

    Raises:
        OSError: A folder above it is a file, cannot be written, or a name is too long.
    """
    path = Path(path)
    try:
        existing = next(p for p in (path, *path.absolute().parents) if os.path.lexists(p))
        if existing != path and not existing.is_dir():
            raise NotADirectoryError(
                f"cannot create the folder {path.parent}: Not a directory ({existing} is a file); "
                "choose another folder"
            )
        if not os.access(existing, os.W_OK):
            raise PermissionError(
                f"cannot write {path}: permission denied in {existing}; choose another path, or "
                "change its permissions"
            )
    except OSError as error:
        if error.strerror is None:
            raise
        raise OSError(f"cannot write {path}: {error.strerror}; choose another path") from error
    longest = max((os.fsencode(part) for part in path.parts), key=len, default=b"")
    if len(longest) > _MAX_NAME:
        raise OSError(
            f"cannot write {path}: a name in it has {len(longest)} bytes; choose one of at most "
            f"{_MAX_NAME}"
        )
    return path


def refuse_existing(path: Path) -> None:
    """Check that nothing would be overwritten.

    Raises:
        ValueError: the path is a file, or a folder that is not empty.
    """
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        raise ValueError(f"cannot write {path}: it exists; choose another path, or remove it")


@contextlib.contextmanager
def naming(path: Path | str) -> Iterator[None]:
    """Name the file in the error of a write inside the block, which the system does not name.

    Raises:
        OSError: The block raised one; the message names the path and the remedy.
    """
    try:
        yield
    except OSError as error:
        if error.strerror is None:  # it is one of this package, which names the file already
            raise
        raise OSError(
            f"cannot write {path}: {error.strerror}; free some space, or choose another folder"
        ) from error


def write_files(contents: Mapping[Path, bytes]) -> None:
    """Write files in their order: all of them, or none if one cannot be written.

    They are on the disk when this returns. A process that is killed leaves the former files and
    perhaps parts, which the next `write_files` or `remove_parts` removes.

    Raises:
        OSError: a file cannot be written; the former files remain.
    """
    unique = secrets.token_hex(4)  # two processes may write the same file
    parts = {path: path.with_name(f"{path.name}.{unique}.part") for path in contents}
    try:
        for path, content in contents.items():
            _remove_stale_parts(path)
            parts[path].write_bytes(content)
            sync(parts[path])
        for path, part in parts.items():
            os.replace(part, path)
        for folder in {path.parent for path in contents}:
            sync(folder)
    except BaseException as error:
        for part in parts.values():
            with contextlib.suppress(OSError):
                part.unlink()
        if not isinstance(error, OSError):
            raise
        raise OSError(
            f"cannot write {path}: {error.strerror}; the former file remains; free some space, or "
            "choose another folder"
        ) from error


@contextlib.contextmanager
def private() -> Iterator[None]:
    """Create files for their owner only (0600, folders 0700) inside the block, or in a function.

    It holds for libraries and child processes that write, too. Files that exist keep their mode.
    The mask is that of the process: other threads also create private files meanwhile.
    """
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


def write_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Write a folder as a whole; until it is complete, the former folder of that name remains.

    Args:
        folder: the folder to replace.
        write: writes the content into the empty folder that it is called with.

    Raises:
        OSError: the folder cannot be written; the former folder remains.
    """
    restore_folder(folder)
    new, old = (folder.with_name(folder.name + end) for end in (".new", ".old"))
    shutil.rmtree(new, ignore_errors=True)
    try:
        new.mkdir(parents=True)
        write(new)
        sync_tree(new)
    except BaseException as error:
        shutil.rmtree(new, ignore_errors=True)
        # Writers of tensors report a full disk as a RuntimeError or an error class of their own.
        if isinstance(error, OSError) or type(error).__name__ in (
            "SafetensorError", "RuntimeError",
        ):  # fmt: skip
            reason = getattr(error, "strerror", None) or error
            raise OSError(f"cannot write {folder}: {reason}; the former folder remains") from error
        raise
    if folder.is_dir():
        os.rename(folder, old)
    os.rename(new, folder)
    sync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def replace(new: Path, old: Path) -> None:
    """Put a complete file or folder into the place of another, on the disk when this returns."""
    sync_tree(new)
    if old.is_dir() and not old.is_symlink():
        shutil.rmtree(old)
    os.replace(new, old)
    sync(old.parent)


def restore_folder(folder: Path) -> Path:
    """Bring back the former folder if `write_folder` was killed between its two renames."""
    old = folder.with_name(folder.name + ".old")
    if old.is_dir():
        if folder.is_dir():
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.rename(old, folder)
    return folder


def is_part(name: str, of: str = "") -> bool:
    """Return whether a name is that of a part of `write_files`: of one file, or of any."""
    target = re.escape(of) if of else ".+"
    return re.fullmatch(rf"{target}(\.[0-9a-f]{{8}})?\.part", name) is not None


def remove_parts(folder: Path) -> None:
    """Remove what killed writers left in a folder that no other process writes into."""
    for path in folder.iterdir():
        if is_part(path.name) and path.is_file():
            path.unlink(missing_ok=True)
        elif path.suffix == ".new" and path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.suffix == ".old" and path.is_dir():
            restore_folder(path.with_suffix(""))


def sync(path: Path) -> None:
    """Bring the content of a file, or the names in a folder, onto the disk.

    Raises:
        OSError: the content of a file does not fit; a file system may refuse to sync a folder.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        if not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def sync_tree(path: Path) -> None:
    """Bring a file, or a folder with all it contains, onto the disk."""
    for inner in (*path.rglob("*"), path):
        sync(inner)


def _remove_stale_parts(path: Path) -> None:
    """Remove parts of a file that killed processes left; those of running ones are younger."""
    with contextlib.suppress(OSError):
        for other in path.parent.iterdir():
            if is_part(other.name, path.name) and other.stat().st_mtime < time.time() - _STALE_S:
                other.unlink()
