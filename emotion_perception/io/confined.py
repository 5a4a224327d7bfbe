"""Join a path that a file contains to a folder, without leaving the folder."""

from __future__ import annotations

import os
from pathlib import Path


def join(folder: Path, name: str) -> Path:
    """Return the path of a name in a folder; the file need not exist.

    A file of annotations or a bag may come from anyone. A name in it such as `../../secret`,
    `/etc/passwd`, or a symbolic link to another place would read files that are not part of it,
    and `remote` would send them.

    Raises:
        ValueError: The name leads out of the folder.
    """
    path, reason = folder / name, "it is not the name of a file"
    if "\0" not in name:
        # As strings: `Path.resolve` raises an error for a loop of links before Python 3.13.
        outer, inner = os.path.realpath(folder), os.path.realpath(path)
        if os.path.commonpath([outer, inner]) == outer:
            return path
        reason = f"it is {inner}, out of the folder"
    raise ValueError(
        f"cannot use the file {name[:200]!r} of {folder}: {reason}; name files inside the folder, "
        "or copy them into it"
    )
