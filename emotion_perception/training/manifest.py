"""The manifest of a training: what identifies it, so that only the same training resumes."""

from __future__ import annotations

import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

from emotion_perception.core.recognizer_settings import RecognizerSettings
from emotion_perception.evaluation import runner
from emotion_perception.evaluation.datasets.emotic import EmoticSplit
from emotion_perception.io.run_folder import short_hash
from emotion_perception.training.recipe import Recipe

MANIFEST = "settings.json"
"""The file name of the manifest in the run folder."""

MAY_CHANGE = ("versions", "commit")
"""Parts of the manifest that may change between a training and its continuation."""

_LIBRARIES = ("accelerate", "numpy", "peft", "safetensors", "torch", "transformers")


def training_manifest(
    settings: RecognizerSettings,
    recipe: Recipe,
    data: EmoticSplit,
    val_data: EmoticSplit | None,
    processes: int,
) -> dict[str, Any]:
    """Return what identifies a training, ready for JSON."""
    return {
        "recipe": asdict(recipe),
        "settings": asdict(settings),
        "weights": runner.model_fingerprint(settings),
        "data": data.fingerprint(),
        "val_data": None if val_data is None else val_data.fingerprint(),
        "processes": processes,
        "versions": runner.library_versions(_LIBRARIES),
        "commit": code_version(),
    }


def code_version(file: Path = Path(__file__)) -> str | None:
    """Return the commit of the repository that tracks a file, with a hash of local changes.

    None if no repository tracks it: an installed package may lie in an unrelated repository.
    """

    def git(*command: str) -> bytes:
        arguments = ("git", "-C", str(file.resolve().parent), *command)
        return subprocess.run(arguments, capture_output=True, timeout=30, check=True).stdout

    try:
        git("ls-files", "--error-unmatch", file.resolve().name)
        commit, changes = git("rev-parse", "HEAD").decode().strip(), git("diff", "HEAD")
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{commit}-dirty-{short_hash(changes)}" if changes else commit
