"""Render the HTML templates of pages, with every value escaped."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from emotion_perception.core.text import MAX_TEXT, printable

_TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, folder: Path = _TEMPLATES, **values: Any) -> str:
    """Render a template.

    Args:
        template: The name of a file in the folder, or of one that all pages share.
        folder: The folder of the templates of a page.
        values: The variables of the template. They are escaped unless they are `Markup`.
    """
    return _environment(folder).get_template(template).render(**values)


def _finalize(value: Any) -> Any:
    """Return what is shown of a text from outside; `Markup` is our own."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return printable(value, MAX_TEXT, lines=True)


@cache
def _environment(folder: Path) -> Environment:
    return Environment(
        loader=FileSystemLoader([folder, _TEMPLATES]),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
