"""Tables that several commands print."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table

from pipelines.release.gate import Verdict


def figures_table(figures: Mapping[str, Any]) -> Table:
    """figures: what `pipelines.evaluation.evaluate` returns."""
    table = Table(title="Before → after, with 95 % intervals", title_justify="left")
    for name in ("test", "figure", "before", "after", "change"):
        table.add_column(name, justify="left" if name in ("test", "figure") else "right")
    for split, metrics in figures.items():
        for metric, name in (("wer", "word error rate"), ("term_recall", "terms heard")):
            if metrics[metric]["after"] is None:
                continue
            before, after, change = (metrics[metric][k] for k in ("before", "after", "change"))
            difference = f"{100 * change[0]:+.1f} ({100 * change[1]:+.1f} to {100 * change[2]:+.1f})"
            table.add_row(split.replace("_", " "), name, _share(before), _share(after), difference)
        table.add_section()
    return table


def verdict_lines(verdicts: Sequence[Verdict]) -> Iterator[str]:
    for verdict in verdicts:
        mark = "[green]passed[/]" if verdict.passed else "[red]failed[/]"
        yield f"gate {mark}: {verdict.rule}: {verdict.figure}"


def _share(value: Sequence[float]) -> str:
    return f"{100 * value[0]:.1f} % ({100 * value[1]:.1f}–{100 * value[2]:.1f})"
