"""What a lexicon holds, in figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from rayapp.records import Term


def statistics(terms: Sequence[Term]) -> dict[str, Any]:
    """Figures of a lexicon of at least one term, ready for JSON.

    >>> figures = statistics([Term("losartan", "drug"), Term("MRI", "procedure", pronunciation="em are eye")])
    >>> figures["terms"], figures["by_category"], figures["pronunciation"]
    (2, {'drug': 1, 'procedure': 1}, {'respelling': 1, 'ipa': 0, 'none': 1})
    """
    weights = [term.weight for term in terms]
    recalls = [term.recall for term in terms if term.recall is not None]
    lengths = [len(term.text) for term in terms]
    kinds = Counter(_pronunciation_kind(term) for term in terms)
    return {
        "terms": len(terms),
        "by_category": _by_size(term.category for term in terms),
        "by_language": _by_size(term.language for term in terms),
        "pronunciation": {kind: kinds[kind] for kind in ("respelling", "ipa", "none")},
        "weight": {"least": min(weights), "most": max(weights), "sum": round(sum(weights), 4)},
        "recall": {"known": len(recalls), "mean": round(sum(recalls) / len(recalls), 4) if recalls else None},
        "characters": {
            "shortest": min(lengths),
            "longest": max(lengths),
            "distinct": "".join(sorted({c for term in terms for c in term.text})),
        },
    }


def _pronunciation_kind(term: Term) -> str:
    if term.pronunciation is None:
        return "none"
    return "ipa" if term.pronunciation.startswith("/") else "respelling"


def _by_size(names: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(names).items(), key=lambda entry: (-entry[1], entry[0])))
