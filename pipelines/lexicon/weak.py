"""The terms that an evaluation found to be missed: what the next round should say more often."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.lexicon.row import same_term
from rayapp.errors import UserError
from rayapp.records import Term
from rayapp.storage import join, open_filesystem, require_complete

_COLUMNS = ["term", "category", "said", "after_heard"]


class WeakTerm(NamedTuple):
    """A term with its recall, and with the weight that it should have next."""

    term: Term
    said: int
    heard: int


def weak_terms(evaluation: str, lexicon: Sequence[Term], below: float) -> list[WeakTerm]:
    """The terms whose recall by the judged model is below `below`, worst first.

    evaluation: a folder that `rayapp evaluate` wrote. All its sets count together.
    lexicon: where language, pronunciation and earlier weight come from, for the terms that stand there.

    Raises `UserError` for a folder that is no complete evaluation, or one in which no term was said.
    """
    said, heard = Counter[str](), Counter[str]()
    terms = {same_term(term.text): term for term in lexicon}
    for row in _table(evaluation).to_pylist():
        if row["said"]:
            key = same_term(row["term"])
            terms.setdefault(key, Term(row["term"], row["category"] or "other"))
            said[key] += row["said"]
            heard[key] += row["after_heard"]
    if not said:
        raise UserError(f"no term is said in evaluation {evaluation}; evaluate splits that have terms")
    weak = [
        WeakTerm(raised(terms[key], heard[key] / count), count, heard[key])
        for key, count in said.items()
        if heard[key] < below * count
    ]
    return sorted(weak, key=lambda entry: (entry.heard / entry.said, -entry.said, entry.term.text))


def raised(term: Term, recall: float) -> Term:
    """The term with its recall, and more weight: times 2 - recall, so that one never heard counts twice.

    >>> raised(Term("losartan", weight=1.5), recall=0.5).weight
    2.25
    """
    return dataclasses.replace(term, weight=round(term.weight * (2 - recall), 4), recall=round(recall, 4))


def _table(evaluation: str) -> pa.Table:
    require_complete(evaluation, "evaluation")
    filesystem, path = open_filesystem(join(evaluation, "terms.parquet"))
    try:
        return pq.read_table(path, filesystem=filesystem, columns=_COLUMNS)
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(
            f"{evaluation} is no evaluation: its terms.parquet cannot be read ({error}); "
            "give the folder that `rayapp evaluate` wrote"
        ) from None
