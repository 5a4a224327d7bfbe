"""Replace files and folders as a whole, or leave what was there before."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path


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


def refuse_existing(path: Path) -> None:
    """Check that nothing would be overwritten.

    Raises:
        ValueError: the path is a file, or a folder that is not empty.
    """
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        raise ValueError(f"cannot write {path}: it exists; choose another path, or remove it")


def write_files(contents: Mapping[Path, bytes]) -> None:
    """Write files in their order: all of them, or none if one cannot be written.

    Raises:
        OSError: a file cannot be written; the former files remain.
    """
    parts = {path: path.with_name(f"{path.name}.part") for path in contents}
    try:
        for path, content in contents.items():
            parts[path].write_bytes(content)
        for path, part in parts.items():
            os.replace(part, path)
    except OSError as error:
        for part in parts.values():
            part.unlink(missing_ok=True)
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
    except BaseException as error:
        shutil.rmtree(new, ignore_errors=True)
        # Writers of tensors report a full disk as a RuntimeError or an error class of their own.
        if type(error).__name__ in ("SafetensorError", "RuntimeError"):
            raise OSError(f"cannot write {folder}: {error}; the former folder remains") from error
        raise
    if folder.is_dir():
        os.rename(folder, old)
    os.rename(new, folder)
    shutil.rmtree(old, ignore_errors=True)


def restore_folder(folder: Path) -> Path:
    """Bring back the former folder if `write_folder` was killed between its two renames."""
    old = folder.with_name(folder.name + ".old")
    if old.is_dir():
        if folder.is_dir():
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.rename(old, folder)
    return folder
