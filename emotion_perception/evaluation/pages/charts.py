"""Draw charts with Matplotlib as SVG that follows the colours of the page.

draw(matplotlib figure) ──> SVG text ──> elements with the page's colours and unique ids
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PALETTE = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#999999", "#F0E442",
)  # fmt: skip
"""Okabe and Ito's colours, which colour-blind readers can tell apart; grey replaces black, which
is not visible on a dark page."""

INK = "#010203"
"""The text colour of the page."""
_GRID = "#040506"
_PAGE_COLORS = {INK: "currentColor", _GRID: "var(--faint)"}
"""Matplotlib accepts numeric colours only: these two stand for colours of the page's style, which
differ between light and dark, until `_embed` replaces them."""

WIDTH = 4.6  # inches: readable on a phone, and several charts fit side by side on a desktop screen


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawing with its caption."""

    caption: str
    svg: Markup


def draw_chart(caption: str, draw: Callable[[Figure], None], height: float = WIDTH) -> Chart:
    """Draw a chart.

    Args:
        caption: Plain text.
        draw: Draws into an empty Matplotlib figure.
        height: Inches; the width is `WIDTH`.
    """
    import matplotlib
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {
        "svg.fonttype": "none", "svg.hashsalt": caption, "font.size": 9, "text.parse_math": False,
        "font.sans-serif": ["DejaVu Sans", "Arial"], "legend.frameon": False,
        "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
        "axes.axisbelow": True, "axes.titlesize": 9, "axes.facecolor": "none",
        "grid.color": _GRID, "grid.linewidth": 0.6,
        **dict.fromkeys(
            ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK
        ),
    }  # fmt: skip
    file = io.StringIO()
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        draw(figure)
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return Chart(caption, _embed(file.getvalue(), caption))


def _embed(document: str, caption: str) -> Markup:
    """Return an SVG document as an element of a page, with its colours and unique ids."""
    svg = ElementTree.fromstring(document)
    prefix = f"d{zlib.crc32(caption.encode()):x}-"  # charts of a page must not share ids
    for element in svg.iter():
        element.tag = _without_namespace(element.tag)
        attributes = {_without_namespace(name): text for name, text in element.attrib.items()}
        for name, text in attributes.items():
            for placeholder, color in _PAGE_COLORS.items():
                text = text.replace(placeholder, color)
            if name == "id":
                text = prefix + text
            elif name == "href" and text.startswith("#"):
                text = f"#{prefix}{text[1:]}"
            attributes[name] = text.replace("url(#", f"url(#{prefix}")
        element.attrib.clear()
        element.attrib.update(attributes)
    for metadata in svg.findall("metadata"):
        svg.remove(metadata)
    svg.attrib |= {"role": "img", "aria-label": caption}
    return Markup(ElementTree.tostring(svg, encoding="unicode"))


def _without_namespace(name: str) -> str:
    return name.rpartition("}")[2]
