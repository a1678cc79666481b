"""Where a recogniser is good and where it is not: the figures by accent, noise, length and so on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from pipelines.evaluation.counts import Counts
from pipelines.evaluation.metrics import Figure, ratios

if TYPE_CHECKING:
    from numpy.typing import NDArray

SLICED = ("wer", "cer", "term_recall")
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


def _figures(rows: NDArray[np.bool_], counts: Mapping[str, Counts], draws: int, seed: int) -> dict[str, int | Figure]:
    return {"utterances": int(rows.sum())} | ratios(counts, rows, SLICED, draws, seed)


def _groups(utterances: pa.Table) -> dict[str, NDArray[np.str_]]:
    dimensions = {
        **{name: _texts(utterances, name) for name in ("category", "accent", "voice")},
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
