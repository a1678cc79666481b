"""What the next round should say how often: weak terms more, those that are heard little, and none not at all."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow.parquet as pq

from pipelines.lexicon.row import same_term
from rayapp.records import Term
from rayapp.storage import join, open_filesystem, require_complete
from rayapp.text.normalise import normalise

_MOST_RIVALS = 3


def reweighted(terms: Sequence[Term], taught: Sequence[Term], evaluation: str, name: str, floor: float) -> list[Term]:
    """The terms with new weights, their recall, and the other terms that were heard in their place.

    A weight is the term's own times its share of misses, (missed + 1) / (said + 2) by Laplace's rule, over the mean of
    all shares; at least `floor` times its own. Then all are scaled so that they come to as many sentences as before.

    taught: those of the terms that get sentences; the others stay as they are.
    evaluation: a folder that `rayapp evaluate` wrote. name: the set whose errors count.
    """
    require_complete(evaluation, "evaluation")
    filesystem, path = open_filesystem(join(evaluation, "terms.parquet"))
    columns = ["set", "term", "said", "after_heard", "after_confusions"]
    rows = pq.read_table(path, filesystem=filesystem, columns=columns).to_pylist()
    found = {same_term(row["term"]): row for row in rows if row["set"] == name and row["said"]}
    known = {_as_heard(term): term.text for term in taught}
    told = [_reweighted(term, found.get(same_term(term.text)), known) for term in taught]
    weighted = {same_term(term.text): term for term in _scaled(told, taught, floor)}
    return [weighted.get(same_term(term.text), term) for term in terms]


def _reweighted(term: Term, row: Mapping[str, Any] | None, known: Mapping[str, str]) -> tuple[Term, float]:
    """The term, and its share of misses; half of them for one that was not said."""
    said, heard = (row["said"], row["after_heard"]) if row else (0, 0)
    rivals = Counter[str]()
    for confusion in (row["after_confusions"] or ()) if row else ():
        if (rival := known.get(confusion["heard"])) is not None:
            rivals[rival] += confusion["times"]
    told = dataclasses.replace(
        term,
        recall=round(heard / said, 4) if said else term.recall,
        confused_with=tuple(text for text, _ in rivals.most_common(_MOST_RIVALS)),
    )
    return told, (said - heard + 1) / (said + 2)


def _as_heard(term: Term) -> str:
    """How an evaluation writes it: COVID-19 is `covid 19` there."""
    return " ".join(normalise(term.text, "medical", term.language).split())


def _scaled(found: Iterable[tuple[Term, float]], terms: Sequence[Term], floor: float) -> list[Term]:
    pairs = list(found)
    mean = sum(misses for _, misses in pairs) / max(len(pairs), 1)
    raw = [term.weight * max(misses / mean, floor) for term, misses in pairs]
    scale = sum(term.weight for term in terms) / sum(raw) if raw else 1.0
    return [dataclasses.replace(term, weight=round(w * scale, 4)) for (term, _), w in zip(pairs, raw, strict=True)]
