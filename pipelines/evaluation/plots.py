"""Plots of the reports, as SVG text: they scale, and they need no file beside the page."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pipelines.evaluation.resampling import Estimate

COLOURS = {"before": "#9aa5b1", "after": "#1f7a6d"}
_OFFSETS = {"before": 0.2, "after": -0.2}
_MODELS = ("before", "after")


def bars(groups: Mapping[str, Mapping[str, Any]], metric: str, title: str) -> str | None:
    """Horizontal bars in % with 95 % intervals: before and after for each group that has the metric.

    groups: figures by metric; see `metrics.figures`.
    """
    shown = [(name, group[metric]) for name, group in groups.items() if group[metric]["after"] is not None]
    if not shown:
        return None
    figure, axes = _figure(title, max(2.0, 0.36 * len(shown) + 0.9))
    for row, (_, values) in enumerate(reversed(shown)):
        for model in _MODELS:
            if values[model] is not None:
                value, low, high = values[model]
                whiskers = [[100 * max(value - low, 0)], [100 * max(high - value, 0)]]
                offset = _OFFSETS[model] if values["before"] is not None else 0
                axes.barh(
                    row + offset, 100 * value, 0.36, color=COLOURS[model], xerr=whiskers, ecolor="#52606d", capsize=2
                )
    axes.set_yticks(range(len(shown)), [name.replace("_", " ") for name, _ in reversed(shown)])
    axes.set_xlim(left=0)
    axes.set_xlabel("%")
    return _svg(figure)


def recall_by_training(terms: Sequence[Mapping[str, Any]]) -> str | None:
    """Each term: how often it was in training, and the share of it that is heard."""
    shown = [term for term in terms if term["trained"] is not None and term["said"]]
    if not shown:
        return None
    figure, axes = _figure("Terms heard, by how often each was in training", 3.1)
    axes.scatter(
        [term["trained"] for term in shown],
        [100 * term["after_heard"] / term["said"] for term in shown],
        s=[8 + 2 * min(term["said"], 30) for term in shown],
        color=COLOURS["after"],
        alpha=0.5,
        linewidths=0,
    )
    axes.set_ylim(-3, 103)
    axes.set_xlabel("utterances in training")
    axes.set_ylabel("%")
    return _svg(figure)


def reliability(bins: Mapping[str, Sequence[Mapping[str, float]]]) -> str | None:
    """How sure a recogniser was of words, and how many of them were right: on the diagonal, it knows what it knows."""
    if not any(bins.values()):
        return None
    figure, axes = _figure("Confidence of words, and how many were right", 3.1)
    axes.plot([0, 100], [0, 100], color="#cbd2d9", linewidth=1, linestyle="--")
    for model in _MODELS:
        if found := bins.get(model):
            axes.plot(
                [100 * b["confidence"] for b in found],
                [100 * b["right"] for b in found],
                color=COLOURS[model],
                marker="o",
                markersize=4,
            )
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 103)
    axes.set_xlabel("confidence (%)")
    axes.set_ylabel("right (%)")
    return _svg(figure)


def learning_curve(history: Sequence[Mapping[str, float]]) -> str | None:
    """Training loss by step, and validation word error rate where it was measured."""
    losses = [(h["step"], h["loss"]) for h in history if "loss" in h]
    if not losses:
        return None
    figure, axes = _figure("Training: loss and validation word error rate", 3.1)
    axes.plot(*zip(*losses, strict=True), color=COLOURS["before"], linewidth=1)
    axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    scores = [(h["step"], 100 * h["validation_wer"]) for h in history if "validation_wer" in h]
    if scores:
        right = axes.twinx()
        right.plot(*zip(*scores, strict=True), color=COLOURS["after"], marker="o", markersize=4)
        right.set_ylim(bottom=0)
        right.set_ylabel("validation WER (%)", color=COLOURS["after"])
        right.spines[["top"]].set_visible(False)
    return _svg(figure)


def curve(
    points: Sequence[tuple[float, Estimate]], title: str, across: str, up: str, *, names: Sequence[str] | None = None
) -> str:
    """Values in % with 95 % intervals, by a number or, with `names`, side by side."""
    figure, axes = _figure(title, 3.1)
    values = [100 * estimate[0] for _, estimate in points]
    whiskers = [
        [100 * max(e[0] - e[1], 0) for _, e in points],
        [100 * max(e[2] - e[0], 0) for _, e in points],
    ]
    places = range(len(points)) if names else [place for place, _ in points]
    axes.errorbar(
        places, values, yerr=whiskers, color=COLOURS["after"], marker="o", markersize=4, capsize=3,
        linestyle="none" if names else "-",
    )  # fmt: skip
    if names:
        axes.set_xticks(places, names, rotation=20, ha="right")
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    return _svg(figure)


def _figure(title: str, height: float) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.2, height), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, fontsize=10, loc="left")
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _svg(figure: Figure) -> str:
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "font.family": "sans-serif", "svg.hashsalt": "rayapp"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    return re.sub(r'(width|height)="[\d.]+pt"', "", text, count=2)
