"""Files that are replaced whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def make_folder(folder: Path | str) -> Path:
    """The folder, which is made if it is not there.

    Raises:
        OSError: it cannot be made, or nothing may be written in it.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"{folder} cannot be made a folder ({error.strerror}): choose another place"
        ) from error
    if not os.access(folder, os.W_OK):
        raise OSError(f"nothing may be written in {folder}: choose another place, or permit it")
    return folder


def write(contents: Mapping[Path, bytes]) -> None:
    """Write files in their order: all of them, or none where one cannot be written.

    Raises:
        OSError: one cannot be written; what was there before stays.
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
            f"{path} cannot be written ({error.strerror}): what was there before stays; make room, "
            "or choose another place"
        ) from error
