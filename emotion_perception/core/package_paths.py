"""Find files of installed ROS packages: `package://PACKAGE/PATH`, as in robot descriptions.

The index of installed packages (ament) is a file per package below each folder of
AMENT_PREFIX_PATH, so that no ROS library is needed to read it.
"""

from __future__ import annotations

import os
from pathlib import Path

SCHEME = "package://"
_OWN = Path(__file__).parents[1]


def resolve(path: str) -> str:
    """Return the file or folder that `package://PACKAGE/PATH` names; any other text as it is.

    PATH is relative to the share folder of the package. Of this package it may also lie in the
    folder of its modules, which holds `data/`, so that it needs neither ROS nor an installation.

    Raises:
        ValueError: The package is not installed, or has no such file or folder.
    """
    if not path.startswith(SCHEME):
        return path
    package, _, inside = path.removeprefix(SCHEME).partition("/")
    if not package or not inside:
        raise ValueError(f"cannot find {path!r}: it is not of the form {SCHEME}PACKAGE/PATH")
    prefixes = [prefix for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(":") if prefix]
    folders = [
        Path(prefix, "share", package)
        for prefix in prefixes
        if Path(prefix, "share/ament_index/resource_index/packages", package).is_file()
    ]
    if package == _OWN.name:
        folders.insert(0, _OWN)
    if not folders:
        raise ValueError(
            f"cannot find {path!r}: the package {package!r} is not installed in "
            f"AMENT_PREFIX_PATH ({', '.join(prefixes) or 'empty'}); source its workspace"
        )
    for folder in folders:
        if (folder / inside).exists():
            return str(folder / inside)
    raise ValueError(
        f"cannot find {path!r}: there is no {inside!r} in {', '.join(map(str, folders))}"
    )
