"""Download models. No other part of the package downloads anything."""

from __future__ import annotations

import os
from pathlib import Path

from emotion_perception.perception import detection_weights

# The files of a checkpoint, without its duplicates in other formats.
_FILES = ["*.safetensors", "*.json", "*.txt", "*.jinja", "*.model"]


def fetch(name: str) -> Path:
    """Download a model and return its place.

    Args:
        name: A YOLO file such as yolo11n.pt, which goes into the current folder; `yolo11n-seg`,
            which goes into the cache of this package; or a model of the Hugging Face hub
            (OWNER/NAME), which goes into the cache of the hub.

    Raises:
        ModelError, ValueError, OSError, RuntimeError: The model does not exist or cannot be
            downloaded.
    """
    if name == detection_weights.PRETRAINED:
        return _fetch_pretrained()
    return _fetch_yolo(name) if name.endswith(".pt") else _fetch_from_hub(name)


def _fetch_from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(name, allow_patterns=_FILES))


def _fetch_yolo(name: str) -> Path:
    from ultralytics.utils.downloads import attempt_download_asset

    path = Path(attempt_download_asset(name))
    if not path.is_file():
        raise ValueError("ultralytics offers no such file, or the network cannot be reached")
    return path.resolve()


def _fetch_pretrained() -> Path:
    """Download the pretrained YOLO beside its place, and move it there once its bytes are right."""
    from ultralytics.utils.downloads import attempt_download_asset

    place = detection_weights.fetched_file()
    part = place.parent / "download" / place.name
    part.parent.mkdir(parents=True, exist_ok=True)
    part.unlink(missing_ok=True)
    attempt_download_asset(part, release=detection_weights.RELEASE)
    if not part.is_file():
        raise ValueError("the network cannot be reached, or ultralytics offers no such file")
    detection_weights.check(part)
    os.replace(part, place)
    return place
