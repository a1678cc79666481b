"""Plots of the report, as SVG text: they scale, and they need no file beside the page."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BEFORE, _AFTER = "#9aa5b1", "#1f7a6d"


def before_after_bars(figures: Mapping[str, Any], metric: str, title: str) -> str:
    """Horizontal bars with 95 % intervals: one pair per split that has the metric."""
    figure, axes = _figure(title)
    splits = [s for s in figures if figures[s][metric]["after"] is not None]
    for row, split in enumerate(reversed(splits)):
        for name, colour, offset in (("before", _BEFORE, 0.2), ("after", _AFTER, -0.2)):
            value, low, high = figures[split][metric][name]
            whiskers = [[100 * max(value - low, 0)], [100 * max(high - value, 0)]]
            axes.barh(row + offset, 100 * value, 0.36, color=colour, xerr=whiskers, ecolor="#52606d", capsize=2)
    axes.set_yticks(range(len(splits)), [s.replace("_", " ") for s in reversed(splits)])
    axes.set_xlim(left=0)
    axes.set_xlabel("%")
    return _svg(figure)


def shares_by_group(rows: Mapping[str, tuple[float, float]], title: str) -> str:
    """Horizontal bars before and after, in %, one pair per group."""
    figure, axes = _figure(title)
    for row, (before, after) in enumerate(reversed(list(rows.values()))):
        axes.barh(row + 0.2, 100 * before, 0.36, color=_BEFORE)
        axes.barh(row - 0.2, 100 * after, 0.36, color=_AFTER)
    axes.set_yticks(range(len(rows)), list(reversed(list(rows))))
    axes.set_xlim(0, 100)
    axes.set_xlabel("%")
    return _svg(figure)


def learning_curve(history: list[Mapping[str, float]]) -> str:
    """Training loss by step, and validation word error rate where it was measured."""
    figure, axes = _figure("Adaptation: loss and validation word error rate")
    losses = [(h["step"], h["loss"]) for h in history if "loss" in h]
    axes.plot(*zip(*losses, strict=True), color=_BEFORE, linewidth=1)
    axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    scores = [(h["step"], 100 * h["validation_wer"]) for h in history if "validation_wer" in h]
    if scores:
        right = axes.twinx()
        right.plot(*zip(*scores, strict=True), color=_AFTER, marker="o", markersize=4)
        right.set_ylim(bottom=0)
        right.set_ylabel("validation WER (%)", color=_AFTER)
        right.spines[["top"]].set_visible(False)
    return _svg(figure)


def _figure(title: str) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.2, 3.1), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, fontsize=10, loc="left")
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _svg(figure: Figure) -> str:
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "font.family": "sans-serif"}):
        figure.savefig(buffer, format="svg", transparent=True)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    return re.sub(r'(width|height)="[\d.]+pt"', "", text, count=2)
