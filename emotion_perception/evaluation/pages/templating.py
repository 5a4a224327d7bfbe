"""Render the HTML templates of pages, with every value escaped."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

_TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, folder: Path = _TEMPLATES, **values: Any) -> str:
    """Render a template.

    Args:
        template: The name of a file in the folder, or of one that all pages share.
        folder: The folder of the templates of a page.
        values: The variables of the template. They are escaped unless they are `Markup`.
    """
    return _environment(folder).get_template(template).render(**values)


@cache
def _environment(folder: Path) -> Environment:
    return Environment(
        loader=FileSystemLoader([folder, _TEMPLATES]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
