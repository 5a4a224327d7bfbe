"""The curves of a training: loss and mAP over the steps, drawn from its log."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from emotion_perception.io import atomic


def draw_curves(
    path: Path | str, rows: Sequence[Mapping[str, Any]], report: Callable[[str], None] = print
) -> None:
    """Draw the rows of a training log as a PNG file, if matplotlib is installed.

    Raises:
        OSError: The file cannot be written; the former file remains.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        report("curves.png is not drawn: install matplotlib with `pip install matplotlib`")
        return
    figure = Figure(figsize=(8, 4), layout="constrained")
    left = figure.subplots()
    left.set(xlabel="step", ylabel="loss")
    for name, key in (("training", "loss"), ("validation", "val_loss")):
        points = [(row["step"], row[key]) for row in rows if key in row]
        if points:
            left.plot(*zip(*points, strict=True), label=name, marker="." if key != "loss" else "")
    points = [(row["step"], row["val_map"]) for row in rows if row.get("val_map") is not None]
    if points:
        right = left.twinx()
        right.set(ylabel="mAP", ylim=(0, 1))
        right.plot(*zip(*points, strict=True), label="mAP", color="tab:green", marker=".")
    figure.legend(loc="outside upper center", ncols=3)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120)
    atomic.write_files({Path(path): content.getvalue()})
