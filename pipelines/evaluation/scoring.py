"""Scoring on all CPUs: comparing texts takes a millisecond for each utterance, and there may be many."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from pipelines.evaluation.counts import Counts, Scorer, joined_counts
from rayapp.ray_session import available_cpus

_FEWEST_ROWS = 2000
"""With fewer, it takes longer to start a task than to do its work."""


def score_everywhere(scorer: Scorer, utterances: pa.Table, heard: Mapping[str, pa.Table]) -> dict[str, Counts]:
    """What each recogniser came to. Uses the Ray that runs, if one does."""
    import ray

    if utterances.num_rows < _FEWEST_ROWS or not ray.is_initialized():
        return {name: scorer.score_tables(utterances, table) for name, table in heard.items()}
    size = max(-(-utterances.num_rows // (2 * available_cpus())), _FEWEST_ROWS)
    starts = range(0, utterances.num_rows, size)
    score = ray.remote(_score)
    parts = {
        name: [score.remote(scorer, utterances.slice(start, size), table.slice(start, size)) for start in starts]
        for name, table in heard.items()
    }
    return {name: joined_counts(ray.get(part)) for name, part in parts.items()}


def _score(scorer: Scorer, utterances: pa.Table, heard: pa.Table) -> Counts:
    return scorer.score_tables(utterances, heard)
