"""Reading a lexicon, and choosing which of its terms are taught and which are held out."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from pipelines.lexicon.config import LexiconConfig
from pipelines.lexicon.formats import read_rows
from pipelines.lexicon.row import same_term, term_of
from rayapp.errors import UserError
from rayapp.ids import content_share, evenly_by_category
from rayapp.records import Term

SAMPLE = "data/medical_en.csv"


class Lexicon(NamedTuple):
    taught: list[Term]
    held_out: list[Term]


class Merged(NamedTuple):
    terms: list[Term]
    duplicates: int
    """Rows that went into a term that stood there already."""


def open_lexicon(config: LexiconConfig) -> Lexicon:
    """Read the terms and share them out.

    Raises `UserError` for a file that is missing, unreadable, empty or holds bad rows (each is named).
    """
    terms = read_terms(config.path)
    wanted = (config.take or 1) + config.held_out
    if wanted > len(terms):
        raise UserError(
            f"lexicon: take ({config.take}) and held_out ({config.held_out}) ask for {wanted} terms; "
            f"the lexicon has {len(terms)}. Lower one of them, or add terms"
        )
    ordered = evenly_by_category(terms, lambda term: term.category, lambda term: content_share("lexicon", term.text))
    taught = ordered[: config.take] if config.take else ordered[: len(ordered) - config.held_out]
    return Lexicon(taught, ordered[len(taught) : len(taught) + config.held_out])


def read_terms(location: str | Path | None = None) -> list[Term]:
    """The terms of a file on any storage, or of the packaged sample of medical terms.

    Raises `UserError` that names every bad row; a term that stands there already makes one.
    """
    name = str(location or files("pipelines.lexicon") / SAMPLE)
    terms, problems = _read(name)
    seen: dict[str, str] = {}
    repeated = [
        f"{where}: {term.text!r} stands in {earlier} already (case does not count)"
        for where, term in terms.items()
        if (earlier := seen.setdefault(same_term(term.text), where)) != where
    ]
    _require_good(name, terms, problems + repeated, "`rayapp lexicon convert` merges duplicates" if repeated else "")
    return list(terms.values())


def read_merged(locations: Sequence[str]) -> Merged:
    """The terms of several files as one lexicon without duplicates, in the order of their first row.

    The first row of a term gives its text; category, pronunciation and recall come from the first row that tells
    them, and the weight is the largest.

    Raises `UserError` that names every bad row of the first file that has any.
    """
    merged: dict[str, Term] = {}
    rows = 0
    for location in locations:
        terms, problems = _read(location)
        _require_good(location, terms, problems)
        rows += len(terms)
        for term in terms.values():
            key = same_term(term.text)
            merged[key] = _filled(merged[key], term) if key in merged else term
    return Merged(list(merged.values()), rows - len(merged))


def _filled(first: Term, later: Term) -> Term:
    return dataclasses.replace(
        first,
        category=later.category if first.category == "other" else first.category,
        pronunciation=first.pronunciation or later.pronunciation,
        weight=max(first.weight, later.weight),
        recall=later.recall if first.recall is None else first.recall,
        confused_with=first.confused_with or later.confused_with,
    )


def _read(location: str) -> tuple[dict[str, Term], list[str]]:
    """The terms by where they stand, and what is wrong with the rows that are none."""
    terms, problems = dict[str, Term](), list[str]()
    for row in read_rows(location):
        try:
            if row.problem:
                raise ValueError(row.problem)
            terms[row.where] = term_of(row.values)
        except ValueError as problem:
            problems.append(f"{row.where}: {problem}")
    return terms, problems


def _require_good(name: str, terms: Collection[str], problems: Sequence[str], advice: str = "") -> None:
    if problems:
        more = [f"… and {len(problems) - 10} more"] if problems[10:] else []
        lines = "\n  ".join([*problems[:10], *more, *filter(None, [advice])])
        raise UserError(f"lexicon {name} has {len(problems)} bad line(s):\n  {lines}")
    if not terms:
        raise UserError(f"lexicon {name} is empty; add at least one term under the header")
