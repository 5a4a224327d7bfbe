"""Folders that are replaced whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError


def put(folder: Path, write: Callable[[Path], None]) -> None:
    """Write a folder whole or not at all; until then the one of that name stays.

    Raises:
        OSError: it cannot be written.
    """
    there(folder)
    new, old = (folder.with_name(folder.name + end) for end in (".new", ".old"))
    shutil.rmtree(new, ignore_errors=True)
    try:
        new.mkdir(parents=True)
        write(new)
    except BaseException as error:
        shutil.rmtree(new, ignore_errors=True)
        if isinstance(error, SafetensorError | RuntimeError):  # how these writers say it
            raise OSError(str(error)) from error
        raise
    if folder.is_dir():
        os.rename(folder, old)
    os.rename(new, folder)
    shutil.rmtree(old, ignore_errors=True)


def there(folder: Path) -> Path:
    """The folder; if `put` was killed between its two renames the old one is back."""
    old = folder.with_name(folder.name + ".old")
    if old.is_dir():
        if folder.is_dir():
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.rename(old, folder)
    return folder
