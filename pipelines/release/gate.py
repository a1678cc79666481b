"""The gate: rules over the figures of an evaluation, each with the figure that decided it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from pipelines.release.config import GateConfig
from rayapp.errors import UserError

_SILENCE, _UNSEEN = "silence", "max_unseen_term_recall_drop"


@dataclass(frozen=True)
class Verdict:
    """One rule and how it went."""

    rule: str
    passed: bool
    figure: str


class _Rule(NamedTuple):
    """A figure that must not be above a limit, or not below."""

    setting: str
    split: str
    metric: str
    part: Literal["after", "change"]
    says: str
    at_least: bool = False

    @property
    def is_share(self) -> bool:
        return self.metric not in ("false_terms_per_hour", "characters_per_minute", "rtfx")


def judge(gate: GateConfig, figures: Mapping[str, Any]) -> list[Verdict]:
    """A model may be released when every verdict passed.

    figures: what `pipelines.evaluation.evaluate` returned.
    Raises `UserError` when a set or figure that a rule reads was not evaluated, and for a gate without rules.
    """
    rules = list(_rules(gate))
    verdicts = [_verdict(rule, getattr(gate, rule.setting), figures) for rule in rules]
    for name in read_sets(gate):
        if (count := figures[name]["utterances"]) < gate.min_utterances:
            verdicts.append(Verdict(f"{name} has at least {gate.min_utterances} utterances", False, str(count)))
    if not verdicts:
        raise UserError("the gate has no rule, and would let everything pass: set gate.min_term_recall_gain, say")
    return verdicts


def read_sets(gate: GateConfig) -> list[str]:
    """The sets that the rules read."""
    return list(dict.fromkeys(rule.split for rule in _rules(gate)))


def _rules(gate: GateConfig) -> Iterator[_Rule]:
    """Those that are asked for."""
    term, unseen, general = gate.term_set, gate.unseen_set, gate.general_set
    recall, spoken = f"term recall on {term}", "that nobody said"
    rules = (
        _Rule("min_term_recall", term, "term_recall", "after", f"{recall} is at least", True),
        _Rule("min_term_recall_gain", term, "term_recall", "change", f"{recall} rises by more than", True),
        _Rule(_UNSEEN, unseen, "term_recall", "change", f"term recall on {unseen} falls by at most", True),
        _Rule("max_general_wer_rise", general, "wer", "change", f"word error rate on {general} rises by at most"),
        _Rule(
            "max_false_terms_per_hour",
            general,
            "false_terms_per_hour",
            "after",
            f"terms {spoken}, an hour of {general}",
        ),
        _Rule("max_characters_per_minute", _SILENCE, "characters_per_minute", "after", f"letters {spoken}, a minute"),
        _Rule("max_calibration_error", term, "calibration_error", "after", f"confidence on {term} is off by at most"),
        _Rule("min_rtfx", term, "rtfx", "after", f"times faster than real time on {term}", True),
    )
    return (rule for rule in rules if getattr(gate, rule.setting) is not None)


def _verdict(rule: _Rule, limit: float, figures: Mapping[str, Any]) -> Verdict:
    value, low, high = _figure(rule, figures)
    if rule.setting == "min_term_recall_gain":
        passed = low > limit
    elif rule.setting == _UNSEEN:
        passed = low >= -limit
    else:
        passed = low >= limit if rule.at_least else high <= limit
    form = ("{:+.1%}" if rule.part == "change" else "{:.1%}") if rule.is_share else "{:.2f}"
    shown = [form.format(part) for part in (value, low, high)]
    allowed = f"{limit:.1%}" if rule.is_share else f"{limit:g}"
    return Verdict(f"{rule.says} {allowed}", passed, f"{shown[0]} (95 % interval {shown[1]} to {shown[2]})")


def _figure(rule: _Rule, figures: Mapping[str, Any]) -> tuple[float, float, float]:
    if rule.split not in figures:
        raise UserError(
            f"gate.{rule.setting} reads set {rule.split!r}, which was not evaluated; there are {', '.join(figures)}"
        )
    figure = figures[rule.split][rule.metric][rule.part]
    if figure is None:
        why = (
            "which has nothing to compare with: evaluate with `before`"
            if rule.part == "change" and figures[rule.split][rule.metric]["after"] is not None
            else "which has nothing to count"
        )
        raise UserError(f"gate.{rule.setting} reads {rule.metric} on {rule.split!r}, {why}; or set the rule to null")
    return tuple(figure)
