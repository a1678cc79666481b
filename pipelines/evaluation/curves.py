"""Figures of several models side by side: recall and error rates by what they were trained on."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from markupsafe import Markup

from pipelines.evaluation import plots
from pipelines.evaluation.pages import environment

AXES = {
    "hours": "Hours of synthetic speech",
    "filter": "Largest word error rate around the terms that the filter keeps",
    "augmentation": "Augmentation",
}
_FIGURES = {"term_recall": "Terms heard", "wer": "Word error rate", "general_wer": "Word error rate, general speech"}


@dataclass(frozen=True)
class Point:
    """One model."""

    axis: str
    """One of `AXES`."""
    label: str
    hours: float
    utterances: int
    term_recall: Sequence[float] | None
    """Value, low, high; so are the others."""
    wer: Sequence[float] | None
    general_wer: Sequence[float] | None
    report: str
    """Its report, from the folder on."""

    @property
    def place(self) -> float:
        """Where it stands on the axis, if that is one of numbers."""
        return self.hours if self.axis == "hours" else float(self.label)


def write_curves(folder: Path, points: Sequence[Point], told: Mapping[str, Any]) -> Path:
    """Writes `ablation.html`, with a plot for each axis and figure, `ablation.md` and `ablation.json`."""
    written = dict(told) | {"points": [dataclasses.asdict(point) for point in points]}
    (folder / "ablation.json").write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    templates = environment(share=_share)
    common = {"told": told, "points": points, "axes": AXES, "figures": _FIGURES}
    for name in ("ablation.md", "ablation.html"):
        drawn = {"plots": [Markup(plot) for plot in _plots(points)]} if name.endswith("html") else {}
        (folder / name).write_text(templates.get_template(f"{name}.j2").render(common | drawn), encoding="utf-8")
    return folder / "ablation.html"


def _plots(points: Sequence[Point]) -> Iterator[str]:
    for axis, group in groupby(points, key=lambda point: point.axis):
        members = list(group)
        for figure, title in _FIGURES.items():
            shown = [(point, getattr(point, figure)) for point in members if getattr(point, figure)]
            if shown and axis == "augmentation":
                names = [point.label for point, _ in shown]
                yield plots.curve([(0.0, value) for _, value in shown], title, AXES[axis], "%", names=names)
            elif shown:
                shown.sort(key=lambda pair: pair[0].place)
                yield plots.curve([(point.place, value) for point, value in shown], title, AXES[axis], "%")


def _share(estimate: Sequence[float] | None) -> str:
    """`93.8 % (90.4–96.7)`."""
    if estimate is None:
        return "–"
    value, low, high = (100 * part for part in estimate)
    return f"{value:.1f} % ({low:.1f}–{high:.1f})"
