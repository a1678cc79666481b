"""The gate: rules over the figures of an evaluation, each with the figure that decided it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.release.config import GateConfig
from rayapp.errors import UserError


@dataclass(frozen=True)
class Verdict:
    """One rule and how it went."""

    rule: str
    passed: bool
    figure: str


def judge(gate: GateConfig, figures: Mapping[str, Any]) -> list[Verdict]:
    """A model may be released when every verdict passed.

    figures: what `pipelines.evaluation.evaluate` returned.
    Raises `UserError` when a split or figure that a rule reads was not evaluated.
    """
    gain = _change(figures, gate.term_split, "term_recall")
    rise = _change(figures, gate.general_split, "wer")
    return [
        Verdict(
            f"term recall on {gate.term_split} rises by more than {gate.min_term_recall_gain:.1%}",
            gain[1] > gate.min_term_recall_gain,
            f"{gain[0]:+.1%} (95 % interval {gain[1]:+.1%} to {gain[2]:+.1%})",
        ),
        Verdict(
            f"word error rate on {gate.general_split} rises by at most {gate.max_general_wer_rise:.1%}",
            rise[2] <= gate.max_general_wer_rise,
            f"{rise[0]:+.1%} (95 % interval {rise[1]:+.1%} to {rise[2]:+.1%})",
        ),
    ]


def _change(figures: Mapping[str, Any], split: str, metric: str) -> tuple[float, float, float]:
    if split not in figures:
        raise UserError(f"the gate reads split {split!r}, which was not evaluated; there are {', '.join(figures)}")
    change = figures[split][metric]["change"]
    if change is None:
        raise UserError(f"the gate reads {metric} on {split!r}, which has nothing to count")
    return tuple(change)
