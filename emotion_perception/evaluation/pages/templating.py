"""Render the HTML templates of pages, with every value escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from emotion_perception.evaluation.pages.charts import Chart


def render(template: str, **values: Any) -> str:
    """Render a template.

    Args:
        template: The name of a file in the folder `templates`.
        values: The variables of the template. They are escaped unless they are `Markup`.
    """
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader(__package__),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def document(title: str, body: str, style: str = "") -> str:
    """Return a whole page from HTML that is escaped already.

    Args:
        title: Plain text.
        body: HTML.
        style: CSS, added to that of every page.
    """
    return render("document.html", title=title, body=Markup(body), style=Markup(style))


def grid(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of cells that are escaped already; the first cell of a row is its heading."""
    cells = [[Markup(cell) for cell in row] for row in rows]
    return str(_macros().grid(headings, cells))


def figure(chart: Chart) -> str:
    """Return a chart with its caption."""
    return str(_macros().figure(chart))


def _macros() -> Any:
    return _environment().get_template("macros.html").module
