"""Pages that need nothing else: tables, and drawings as SVG that follow the page's colours."""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

PALETTE = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#999999", "#F0E442",
)  # fmt: skip
"""Okabe and Ito's, which colour-blind readers can tell apart; grey for their black, for dark."""

# Stand-ins, which become what the page's style says.
INK, FAINT = "#010203", "#040506"

WIDTH = 4.6  # inches of a drawing: still readable on a phone, and two or more fit on a desk


def document(title: str, body: str, style: str = "") -> str:
    """A whole page.

    Args:
        title: plain text.
        body: HTML.
        style: CSS, beside that of every page.
    """
    parts = {"title": escape(title), "style": _STYLE + style, "body": body}
    page = _PAGE
    for name, part in parts.items():
        page = page.replace(f"<!-- {name} -->", part, 1)
    return page


def grid(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are escaped already; each row begins with its heading."""
    head = "".join(f"<th>{escape(name)}</th>" for name in headings)
    lines = [
        f'<tr><th scope="row">{first}</th>' + "".join(f"<td>{c}</td>" for c in rest) + "</tr>"
        for first, *rest in rows
    ]
    return scrolling(f"<table><tr>{head}</tr>{''.join(lines)}</table>")


def scrolling(table: str) -> str:
    return f'<div class="scroll" tabindex="0">{table}</div>'


def drawn(caption: str, draw: Callable[[Drawing], None], height: float = WIDTH) -> str:
    """A figure of the page, so many inches high."""
    import matplotlib
    from matplotlib.figure import Figure as Drawing

    style: dict[Any, Any] = {
        "svg.fonttype": "none", "svg.hashsalt": caption, "font.size": 9, "text.parse_math": False,
        "font.sans-serif": ["DejaVu Sans", "Arial"], "legend.frameon": False,
        "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
        "axes.axisbelow": True, "axes.titlesize": 9, "axes.facecolor": "none",
        "grid.color": FAINT, "grid.linewidth": 0.6,
        **dict.fromkeys(
            ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK
        ),
    }  # fmt: skip
    file = io.StringIO()
    with matplotlib.rc_context(style):
        drawing = Drawing(figsize=(WIDTH, height), layout="constrained")
        draw(drawing)
        drawing.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor").replace(FAINT, "var(--faint)")
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    # Drawings share a page, and must not share names of their parts.
    prefix = f"d{zlib.crc32(caption.encode()):x}-"
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}", svg)
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg)
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{escape(caption)}"', 1)
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


_STYLE = """:root { color-scheme: light dark; --paper: #fff; --ink: #1b1d21; --faint: #dcdfe4;
  --soft: #f4f5f7; --quiet: #5c6370; --warn: #fff3d6; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #15171b; --ink: #e6e8eb; --faint: #3a3f48; --soft: #1e2127; --quiet: #a3aab5;
    --warn: #43350f; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem clamp(.8rem, 3vw, 2.5rem) 4rem; max-width: 84rem;
  background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
li, p { max-width: 60rem; overflow-wrap: anywhere; } ul { padding-left: 1.2rem; }
ul, figcaption { color: var(--quiet); font-size: .88rem; }
.warning { background: var(--warn); border-left: 4px solid #E69F00; padding: .6rem .9rem; }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; text-align: left; vertical-align: top; white-space: nowrap;
  border-bottom: 1px solid var(--faint); }
th[scope=row] { position: sticky; left: 0; background: var(--paper); font-weight: 500;
  min-width: 8.5rem; max-width: 14rem; white-space: normal; overflow-wrap: anywhere; }
small { display: block; color: var(--quiet); font-size: .78rem; }
.drawings { display: grid; gap: 1.5rem; align-items: start;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 23rem), 1fr)); margin-bottom: 1.5rem; }
.wide { grid-template-columns: repeat(auto-fill, minmax(min(100%, 30rem), 1fr)); }
figure { margin: 0; min-width: 0; } figcaption { overflow-wrap: anywhere; }
figure svg { display: block; width: 100%; height: auto; max-width: 38rem; }
"""

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title><!-- title --></title>
<style>
<!-- style -->
</style>
</head>
<body>
<!-- body -->
</body>
</html>
"""
