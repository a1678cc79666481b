"""Tables that several commands print."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table

from pipelines.release.gate import Verdict
from pipelines.release.release import Release


def figures_table(figures: Mapping[str, Any]) -> Table:
    """figures: what `pipelines.evaluation.evaluate` returns."""
    compared = any(metrics["wer"]["before"] for metrics in figures.values())
    table = Table(title=f"{'Before → after' if compared else 'Figures'}, with 95 % intervals", title_justify="left")
    for name in ("set", "figure", *(("before", "after", "change") if compared else ("value",))):
        table.add_column(name, justify="left" if name in ("set", "figure") else "right")
    for name_of_set, metrics in figures.items():
        for metric, name in _SHOWN.items():
            if metrics[metric]["after"] is None:
                continue
            before, after, change = (metrics[metric][k] for k in ("before", "after", "change"))
            row = [name_of_set.replace("_", " "), name]
            if compared:
                table.add_row(
                    *row, estimate_text(before, metric), estimate_text(after, metric), _difference(change, metric)
                )
            else:
                table.add_row(*row, estimate_text(after, metric))
        table.add_section()
    return table


def verdict_lines(verdicts: Sequence[Verdict]) -> Iterator[str]:
    for verdict in verdicts:
        mark = "[green]passed[/]" if verdict.passed else "[red]failed[/]"
        yield f"gate {mark}: {verdict.rule}: {verdict.figure}"


def release_lines(name: str, decided: Release) -> Iterator[str]:
    yield from verdict_lines(decided.verdicts)
    if decided.remark:
        yield f"[yellow]note[/]: {decided.remark}"
    if decided.passed and not decided.champion:
        yield f"{name} version {decided.version} passed, and was taken back before: it stays so"
    else:
        yield f"{name} version {decided.version} is {'the champion' if decided.champion else 'not released'}"


_SHOWN = {
    "wer": "word error rate",
    "term_recall": "terms heard",
    "false_terms_per_hour": "false terms per hour",
    "characters_per_minute": "characters per minute of none",
}
"""What a terminal has room for; the report has the rest."""


def _scale(metric: str) -> tuple[float, str]:
    return (1.0, "") if "_per_" in metric else (100.0, " %")


def estimate_text(estimate: Sequence[float] | None, metric: str) -> str:
    """A figure with its interval: `93.8 % (90.4–96.7)`."""
    if estimate is None:
        return "–"
    scale, unit = _scale(metric)
    return f"{scale * estimate[0]:.1f}{unit} ({scale * estimate[1]:.1f}–{scale * estimate[2]:.1f})"


def _difference(change: Sequence[float] | None, metric: str) -> str:
    if change is None:
        return "–"
    scale, _ = _scale(metric)
    return f"{scale * change[0]:+.1f} ({scale * change[1]:+.1f} to {scale * change[2]:+.1f})"
