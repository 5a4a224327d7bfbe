"""Find the folders of models of transformers, which are fetched before and never downloaded."""

from __future__ import annotations

import re
from pathlib import Path

import huggingface_hub

from emotion_perception.core import documents
from emotion_perception.core.errors import ModelError

LOCAL = {"local_files_only": True, "trust_remote_code": False}
"""Arguments of each `from_pretrained`: no network, and no code of the model.

Where `trust_remote_code` is unset, transformers asks on the terminal whether to run the code.
"""


def find_folder(name: str, setting: str, example: str) -> Path:
    """Return the folder of a model: the named folder, or that of a fetched hub name.

    Args:
        name: the name.
        setting: the full name of the setting that it is the value of, for errors.
        example: a hub name, for errors.

    Raises:
        ModelError: neither exists.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name) or name.startswith("."):
        raise ModelError(
            f"cannot find the model {name!r}: there is no folder of that name; set {setting} to "
            f"the folder of a model, or to a hub name such as {example}"
        )
    try:
        return Path(huggingface_hub.snapshot_download(name, local_files_only=True))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"cannot find the model {name}: it is not on this computer; {fetch_remedy(name)}"
        ) from error


def fetch_remedy(name: str) -> str:
    """Return the end of an error about an unusable model."""
    return (
        "choose another folder, or fetch a model with `emotion-perception fetch NAME`"
        if Path(name).expanduser().is_dir()
        else f"fetch it with `emotion-perception fetch {name}`"
    )


def check_folder(name: str, folder: Path) -> None:
    """Check that a folder has a configuration, and weights as safetensors that lie in it.

    Raises:
        ModelError: it has not; `name`, that of the model, is in the remedy.
    """
    check_config(name, folder)
    if not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"cannot load the model in {folder}: it has no weights as safetensors, and other "
            f"formats can run code; {fetch_remedy(name)}"
        )
    for index in folder.glob("*.index.json"):
        try:
            parts = set(documents.read_json_object(index)["weight_map"].values())
            outside = sorted(part for part in parts if Path(part).name != part)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise ModelError(
                f"cannot load the model in {folder}: {index.name} is damaged "
                f"({first_line(error)}); {fetch_remedy(name)}"
            ) from error
        if outside:
            raise ModelError(
                f"cannot load the model in {folder}: {index.name} names {outside[0]!r}, which is "
                f"not a file of this folder; {fetch_remedy(name)}"
            )


def check_config(name: str, folder: Path) -> None:
    """Check that a folder has a configuration.

    Raises:
        ModelError: it has none; `name`, that of the model, is in the remedy.
    """
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"cannot load the model in {folder}: it has no config.json; {fetch_remedy(name)}"
        )


def first_line(error: BaseException) -> str:
    """Return the first line of an error, or its class if it has no text."""
    return next(iter(str(error).splitlines()), type(error).__name__)
