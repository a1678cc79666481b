"""Each term by itself: how often it was said and heard, what was heard instead, and how much it was trained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from pipelines.evaluation.counts import Counts
from pipelines.evaluation.resampling import wilson
from pipelines.evaluation.training_data import TrainingData

_CONFUSIONS = 5
_INTERVAL = pa.struct([(name, pa.float64()) for name in ("value", "low", "high")])
_OF_A_MODEL = [
    *((count, pa.int64()) for count in ("heard", "close", "inserted")),
    ("recall", _INTERVAL),
    ("precision", pa.float64()),
    ("f1", pa.float64()),
    ("confusions", pa.list_(pa.struct([("heard", pa.string()), ("times", pa.int64())]))),
]
TERM_SCHEMA = pa.schema(
    [
        ("set", pa.string()),
        ("term", pa.string()),
        ("category", pa.string()),
        ("trained", pa.int64()),  # utterances in training that have it; null where that is not known
        ("said", pa.int64()),
        *((f"{model}_{name}", kind) for model in ("before", "after") for name, kind in _OF_A_MODEL),
    ]
)
"""One row for each term of a set, the worst first; recall has its 95 % interval (Wilson)."""


@dataclass
class _Sum:
    said: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    confusions: Counter[str] = field(default_factory=Counter)


def term_table(
    name: str, counts: Mapping[str, Counts], categories: Mapping[str, str], trained: TrainingData
) -> pa.Table:
    """categories: of the terms, where they are known."""
    sums = {model: _sums(counted) for model, counted in counts.items()}
    terms = sorted({term for found in sums.values() for term in found})
    rows = []
    for term in terms:
        said = max(found[term].said for found in sums.values() if term in found)
        row: dict[str, Any] = {
            "set": name,
            "term": term,
            "category": categories.get(term, "other"),
            "trained": trained.terms[term.casefold()] if trained.told else None,
            "said": said,
        }
        for model, found in sums.items():
            row |= {f"{model}_{key}": value for key, value in _row(found.get(term, _Sum()), said).items()}
        rows.append(row)
    rows.sort(key=lambda row: (row["after_heard"] / row["said"] if row["said"] else 2.0, -row["said"], row["term"]))
    return pa.Table.from_pylist(rows, schema=TERM_SCHEMA)


def _sums(counted: Counts) -> dict[str, _Sum]:
    found: dict[str, _Sum] = {}
    for sighting in counted.sightings.to_pylist():
        entry = found.setdefault(sighting["term"], _Sum())
        entry.said += sighting["said"]
        for count in ("heard", "close", "inserted"):
            entry.counts[count] += sighting[count]
        entry.confusions.update(sighting["confusions"])
    return found


def _row(entry: _Sum, said: int) -> dict[str, Any]:
    heard, inserted = entry.counts["heard"], entry.counts["inserted"]
    recall = wilson(heard, said)
    written = heard + inserted
    return {
        **{count: entry.counts[count] for count in ("heard", "close", "inserted")},
        "recall": recall and recall._asdict(),
        "precision": heard / written if written else None,
        "f1": 2 * heard / (said + written) if said + written else None,
        "confusions": [{"heard": text, "times": n} for text, n in entry.confusions.most_common(_CONFUSIONS)],
    }
