"""Read the arguments of the launch files, which are texts, before anything is started."""

from __future__ import annotations

from pathlib import Path

from emotion_perception.core import package_paths

_TRUE, _FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")


def is_true(name: str, text: str) -> bool:
    """Return the value of a yes-or-no argument, in upper or lower case.

    Raises:
        ValueError: The text is neither.
    """
    if text.lower() not in _TRUE + _FALSE:
        raise ValueError(
            f"cannot use {name}:={text}: write {', '.join(_TRUE)} or {', '.join(_FALSE)}"
        )
    return text.lower() in _TRUE


def choice(name: str, text: str, choices: tuple[str, ...]) -> str:
    """Return the text, which has to be one of the choices.

    Raises:
        ValueError: It is not.
    """
    if text not in choices:
        raise ValueError(f"cannot use {name}:={text}: write one of {', '.join(choices)}")
    return text


def existing_file(name: str, text: str) -> str:
    """Return the path of a file, which may be `package://PACKAGE/PATH` or begin with `~`.

    Raises:
        ValueError: There is no such file.
    """
    try:
        path = Path(package_paths.resolve(text)).expanduser()
    except ValueError as error:
        raise ValueError(f"cannot use {name}: {error}") from error
    if not path.is_file():
        raise ValueError(f"cannot use {name}:={text}: there is no file {path.absolute()}")
    return str(path)
