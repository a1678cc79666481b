"""Where a recogniser is good and where it is not: figures by accent, noise, length and so on, and by kind of term."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.evaluation.counts import Counts
from pipelines.evaluation.metrics import Figure, ratios

if TYPE_CHECKING:
    from numpy.typing import NDArray

SLICED = ("wer", "cer", "term_recall")
OF_TERMS = ("term_recall", "term_recall_close", "term_precision", "term_f1")
TRAINED, UNTRAINED = "in training", "not in training"
_MOST_GROUPS = 40
_SNR_STEP_DB = 5
_LENGTHS = (2, 5, 10, 20)


def slices(
    utterances: pa.Table, counts: Mapping[str, Counts], draws: int, seed: int
) -> dict[str, dict[str, dict[str, Any]]]:
    """Of each dimension that has several groups, each group's `utterances` and figures.

    utterances: rows of a manifest, in the order of the counts. The largest groups are told, where there are very many.
    """
    found = {}
    for dimension, groups in _groups(utterances).items():
        names, sizes = np.unique(groups, return_counts=True)
        if len(names) < 2:
            continue
        largest = sorted(names[np.argsort(-sizes, kind="stable")][:_MOST_GROUPS])
        found[dimension] = {str(name): _figures(groups == name, counts, draws, seed) for name in largest}
    return found


def term_slices(
    counts: Mapping[str, Counts], categories: Mapping[str, str], trained: Collection[str] | None, draws: int, seed: int
) -> dict[str, dict[str, dict[str, Any]]]:
    """Of the terms of each category, and of those that training had and had not: how many, and their figures.

    A sentence with two kinds of terms counts for both, each with its own terms.

    categories: of the terms, where they are known.
    trained: the terms that training had, in lower case; None where that is not known.
    """
    terms = sorted({term for counted in counts.values() for term in counted.sightings["term"].unique().to_pylist()})
    kinds = {"category": [categories.get(term, "other") for term in terms]}
    if trained is not None:
        kinds["training"] = [TRAINED if term.casefold() in trained else UNTRAINED for term in terms]
    seen = {model: _Sightings(counted, terms) for model, counted in counts.items()}
    return {
        dimension: {
            group: _figures_of_terms(np.array([kind == group for kind in of_terms]), seen, draws, seed)
            for group in sorted(set(of_terms))
        }
        for dimension, of_terms in kinds.items()
        if len(set(of_terms)) > 1
    }


class _Sightings:
    """Those of one recogniser: whose they are, in which utterance, and what they count."""

    def __init__(self, counted: Counts, terms: Sequence[str]) -> None:
        self.utterances = len(counted.values)
        self.rows = counted.sightings["row"].to_numpy()
        self.terms = pc.index_in(counted.sightings["term"], pa.array(terms, pa.string())).to_numpy()
        self.counts = {name: counted.sightings[name].to_numpy() for name in ("said", "heard", "close", "inserted")}

    def of(self, mine: NDArray[np.bool_]) -> dict[str, NDArray[np.float64]]:
        """(utterances,) of each count, of some of the terms."""
        chosen = mine[self.terms]
        rows = self.rows[chosen]
        return {
            f"terms.{name}": np.bincount(rows, values[chosen], self.utterances).astype(float)
            for name, values in self.counts.items()
        }


def _figures_of_terms(
    mine: NDArray[np.bool_], seen: Mapping[str, _Sightings], draws: int, seed: int
) -> dict[str, int | Figure]:
    counted = {model: sightings.of(mine) for model, sightings in seen.items()}
    rows = np.any([column > 0 for columns in counted.values() for column in columns.values()], axis=0)
    return {"terms": int(mine.sum()), "utterances": int(rows.sum())} | ratios(counted, rows, OF_TERMS, draws, seed)


def _figures(rows: NDArray[np.bool_], counts: Mapping[str, Counts], draws: int, seed: int) -> dict[str, int | Figure]:
    return {"utterances": int(rows.sum())} | ratios(counts, rows, SLICED, draws, seed)


def _groups(utterances: pa.Table) -> dict[str, NDArray[np.str_]]:
    dimensions = {
        **{name: _texts(utterances, name) for name in ("accent", "voice")},
        "snr": [snr_band(value) for value in utterances["snr_db"].to_pylist()],
        "duration": [duration_band(value) for value in utterances["duration_seconds"].to_pylist()],
        **{name: _texts(utterances, name) for name in ("style", "generator", "language")},
    }
    return {name: np.array(values, dtype=str) for name, values in dimensions.items()}


def _texts(utterances: pa.Table, column: str) -> list[str]:
    return [value or "unknown" for value in utterances[column].to_pylist()]


def snr_band(snr_db: float | None) -> str:
    """
    >>> snr_band(12.3), snr_band(None)
    ('10–15 dB', 'unknown')
    """
    if snr_db is None or not np.isfinite(snr_db):
        return "unknown"
    low = int(snr_db // _SNR_STEP_DB) * _SNR_STEP_DB
    return f"{low:02d}–{low + _SNR_STEP_DB} dB"


def duration_band(seconds: float | None) -> str:
    """
    >>> duration_band(3.0), duration_band(60.0)
    ('02–05 s', '20 s and more')
    """
    if seconds is None:
        return "unknown"
    for low, high in zip((0, *_LENGTHS), _LENGTHS, strict=False):
        if seconds < high:
            return f"{low:02d}–{high:02d} s"
    return f"{_LENGTHS[-1]} s and more"
