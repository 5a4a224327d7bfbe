"""Keep the model's prior on disk: its answers about a grey image, which each start needs."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import platform
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import cv2
import numpy as np

from emotion_perception.core import documents
from emotion_perception.core.recognizer_settings import VlmSettings
from emotion_perception.core.values import FloatArray
from emotion_perception.io import atomic
from emotion_perception.recognizers.calibrated import prompting_settings

log = logging.getLogger(__name__)

MODEL_FILES = (".safetensors", ".json", ".jinja", ".txt", ".model")
"""Endings of the files that make up a model, its processor and its adapter."""

LIBRARIES = (
    *("emotion_perception", "torch", "torchvision", "transformers", "tokenizers"),
    *("peft", "bitsandbytes", "torchao", "numpy", "pillow"),
)
"""The distributions whose versions can change an answer."""


def cache_folder() -> Path:
    """Return the folder of cached results."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "emotion_perception"


def prior_cache_key(
    folders: Sequence[Path],
    settings: VlmSettings,
    prompt: Sequence[str],
    device: str,
    dtype: str,
) -> str:
    """Return a hash of everything that the answers about a fixed image depend on.

    Files are hashed by content, so that a copy of a model has the same key wherever it lies, and
    another model of the same name, size and age has another.

    Args:
        folders: of the model and, where there is one, its adapter.
        settings: with the sizes of the images and the words of the prompts.
        prompt: the texts of the questions, and the tokens of the answers.
        device: type of the device, of torch.
        dtype: of the model.

    Raises:
        OSError: a file cannot be read.
    """
    files = [_file_digests(folder) for folder in folders]
    run = (device, dtype, settings.quantization, settings.compile, platform.machine())
    contents = (files, sorted(prompting_settings(settings).items()), list(prompt), run)
    return hashlib.sha256(repr((contents, library_versions())).encode()).hexdigest()


def cached_prior(key: str, shape: tuple[int, int], measure: Callable[[], FloatArray]) -> FloatArray:
    """Return the logits of the prior from the cache; measure and keep them where it has none.

    A file that is damaged, of another shape, not finite or without content is replaced.

    Args:
        key: of `prior_cache_key`.
        shape: of the logits, (sites, tokens).
        measure: returns the logits.
    """
    file = cache_folder() / "calibration" / f"{key}.npy"
    logits = _read(file, shape)
    if logits is None:
        logits = measure()
        if is_usable(logits, shape):
            write_cached(file, _npy_bytes(logits), "the prior")
    return logits


def is_usable(logits: FloatArray, shape: tuple[int, int]) -> bool:
    """Return whether logits can be a prior: of this shape, finite, and not all the same."""
    return (
        logits.shape == shape
        and logits.dtype == np.float32
        and bool(np.isfinite(logits).all())
        and bool(np.ptp(logits) > 0)
    )


def _read(file: Path, shape: tuple[int, int]) -> FloatArray | None:
    """Return the logits in a file; None where there is no file, or an unfit one."""
    if not file.is_file():
        return None
    expected = _npy_bytes(np.zeros(shape, np.float32))
    header = expected[: len(expected) - 4 * shape[0] * shape[1]]
    try:
        content = documents.read_bytes(file, len(expected))
        if len(content) != len(expected) or not content.startswith(header):
            raise ValueError(f"it does not hold {shape[0]} x {shape[1]} numbers")
    except (OSError, ValueError) as error:
        log.warning("the cached prior %s is damaged (%s): it is measured again", file, error)
        return None
    logits = np.frombuffer(content[len(header) :], np.float32).reshape(shape)
    if not is_usable(logits, shape):
        log.warning("the cached prior %s does not fit the model: it is measured again", file)
        return None
    return logits


def _npy_bytes(logits: FloatArray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, logits)
    return buffer.getvalue()


def write_cached(file: Path, content: bytes, name: str) -> None:
    """Write a file as a whole, or warn; several processes may start with the same model at once."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_files({file: content})
    except OSError as error:
        log.warning("cannot keep %s for the next start: %s", name, error)


def _file_digests(folder: Path) -> list[tuple[str, str]]:
    """Return name and digest of each file of a model."""
    files = sorted(path for path in folder.iterdir() if path.suffix in MODEL_FILES)
    return [(file.name, _digest(file)) for file in files if file.is_file()]


def _digest(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def library_versions() -> list[str]:
    """Return name and version of each library that can change an answer."""
    # OpenCV comes from several distributions.
    return [cv2.__version__, *(f"{name} {_version(name)}" for name in LIBRARIES)]


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
