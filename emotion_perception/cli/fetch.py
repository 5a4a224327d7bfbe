"""Download a model once. Nothing else in the package ever does."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

# A checkpoint without its duplicates in other formats.
_FILES = ["*.safetensors", "*.json", "*.txt", "*.jinja", "*.model"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "names",
        nargs="+",
        metavar="NAME",
        help="a model of the Hugging Face hub (OWNER/NAME), or a YOLO file such as yolo11n.pt, "
        "which goes into this folder",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the command; return its exit status."""
    failed = 0
    for name in arguments.names:
        try:
            where = _yolo(name) if name.endswith(".pt") else _hub(name)
            print(f"{name}: {where}")
        except (OSError, RuntimeError, ValueError) as error:
            failed += 1
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            print(f"{name} could not be fetched: {reason}", file=sys.stderr)
    return 1 if failed else 0


def _hub(name: str) -> str:
    from huggingface_hub import snapshot_download

    return str(snapshot_download(name, allow_patterns=_FILES))


def _yolo(name: str) -> Path:
    from ultralytics.utils.downloads import attempt_download_asset

    path = Path(attempt_download_asset(name))
    if not path.is_file():
        raise ValueError("ultralytics has no such file, or the network is out of reach")
    return path.resolve()
