"""Download models. No other part of the package downloads anything."""

from __future__ import annotations

from pathlib import Path

# The files of a checkpoint, without its duplicates in other formats.
_FILES = ["*.safetensors", "*.json", "*.txt", "*.jinja", "*.model"]


def fetch(name: str) -> Path:
    """Download a model and return its place.

    Args:
        name: A YOLO file such as yolo11n.pt, which goes into the current folder, or a model of the
            Hugging Face hub (OWNER/NAME), which goes into the cache of the hub.

    Raises:
        ValueError, OSError, RuntimeError: The model does not exist or cannot be downloaded.
    """
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
