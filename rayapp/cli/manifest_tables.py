"""Tables that `rayapp manifest` prints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from pipelines.manifests.diff import Difference
    from pipelines.manifests.figures import Figures
    from pipelines.manifests.validate import Findings

_EXAMPLES = 5


def rows_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """rows: what `pipelines.manifests.show.some_rows` returns."""
    table = _table("utterance", "split", ">seconds", "voice", ">SNR", "text")
    for row in rows:
        snr = "" if row["snr_db"] is None else f"{row['snr_db']:.1f} dB"
        duration = "" if row["duration_seconds"] is None else f"{row['duration_seconds']:.2f}"
        told = (row["utterance_id"], row["split"], duration, row["voice"], snr, row["text"])
        table.add_row(*(escape(value or "–") for value in told))
    return table


def figures_tables(figures: Figures) -> Iterator[Table]:
    for grouping, tallies in figures.tallies.items():
        table = _table(grouping, ">utterances", ">hours", *([">voices"] if grouping == "accent" else []))
        for name, tally in tallies.items():
            voices = [str(len(figures.voices[name]))] if grouping == "accent" else []
            table.add_row(escape(name), str(tally.utterances), f"{tally.seconds / 3600:.2f}", *voices)
        yield table
    if figures.quality:
        table = _table("quality", ">mean", ">utterances that have it")
        for name, quality in figures.quality.items():
            table.add_row(name, f"{quality.mean:.3f}", str(quality.utterances))
        yield table
    for title, counts in (("step", figures.steps), ("rejected because", figures.rejections)):
        if counts:
            table = _table(title, ">utterances")
            for name, count in counts.most_common():
                table.add_row(escape(name), str(count))
            yield table


def findings_table(findings: Findings) -> Table:
    table = _table("problem", ">how often", "for example", title="What is wrong")
    for kind, count in findings.counts.most_common():
        table.add_row(kind, str(count), escape("\n".join(findings.examples[kind])))
    return table


def difference_table(difference: Difference) -> Table:
    table = _table("rows", ">how many", "for example")
    table.add_row("alike", str(difference.alike))
    for title, names in (
        ("only in the first", difference.only_in_first),
        ("only in the second", difference.only_in_second),
        ("same slot, filled otherwise", difference.filled_otherwise),
        ("same utterance, other audio", difference.sounding_otherwise),
    ):
        table.add_row(title, str(len(names)), escape(", ".join(names[:_EXAMPLES])))
    return table


def _table(*columns: str, title: str | None = None) -> Table:
    """columns: figures have `>` before their name, and stand to the right."""
    table = Table(title=title, title_justify="left")
    for name in columns:
        table.add_column(name.removeprefix(">"), justify="right" if name.startswith(">") else "left")
    return table
