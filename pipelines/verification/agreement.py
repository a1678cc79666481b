"""Whether a recogniser heard what should be said, the terms and the words around them apart.

Filtering synthetic speech by the error rate of a recogniser throws away the very terms that it should learn. Here
only the words around them must be right; for a term anything may have been written.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rapidfuzz.distance import Levenshtein

from pipelines.verification.units import CJK, units_of
from rayapp.text.inflections import occurrences


@dataclass(frozen=True)
class Agreement:
    """How well what was heard agrees with what should be said."""

    wer: float
    cer: float
    rest_wer: float | None
    """Word error rate of the words around the terms; None where there are none."""
    terms_heard: float | None
    """Share of the terms' occurrences that were written; None where there are no terms."""


def agreement(said: str, terms: Sequence[str], heard: str) -> Agreement:
    """Compare what was heard with one form of what should be said.

    terms: as they stand in that form. Those that do not stand there are not told from the words around them.

    >>> agreement("Start losartan today.", ["losartan"], "start low certain today")
    Agreement(wer=0.6666666666666666, cer=0.25, rest_wer=0.0, terms_heard=0.0)
    """
    wanted, written = units_of(said), units_of(heard)
    found = [place for term in set(terms) for place in occurrences(wanted, units_of(term))]
    within = {index for place in found for index in place}
    rest = len(wanted) - len(within)
    return Agreement(
        wer=Levenshtein.distance(wanted, written) / max(len(wanted), 1),
        cer=Levenshtein.distance(_joined(wanted), _joined(written)) / max(len(_joined(wanted)), 1),
        rest_wer=rest_errors(wanted, within, written) / rest if rest else None,
        terms_heard=_share_written([wanted[p.start : p.stop] for p in found], written) if terms else None,
    )


def better_agreement(forms: Iterable[tuple[str, Sequence[str]]], heard: str) -> Agreement:
    """The best over several forms, each with its terms: `500 mg` may be heard as `five hundred milligrams`."""
    found = [agreement(said, terms, heard) for said, terms in forms]
    best = min(found, key=lambda one: (one.rest_wer or 0.0, one.wer))
    shares = [one.terms_heard for one in found if one.terms_heard is not None]
    return Agreement(best.wer, best.cer, best.rest_wer, max(shares, default=None))


def rest_errors(said: Sequence[str], within: set[int], heard: Sequence[str]) -> int:
    """The fewest word errors outside of the terms, over all alignments. For a term, any words may have been heard.

    within: indices of `said` that belong to a term. How many words a term can take is bounded (see `_room`), so
    that it does not excuse whole sentences.

    Levenshtein distance in which a term's place is free; whoever takes an alignment first and looks for the terms
    in it afterwards depends on how the aligner breaks ties.

    >>> rest_errors("start losartan now".split(), {1}, "start love or tan know".split())
    1
    """
    errors = list(range(len(heard) + 1))
    for piece in _pieces(said, within):
        above = errors
        if isinstance(piece, int):
            errors = [min(above[max(end - piece, 0) : end + 1]) for end in range(len(above))]
        else:
            errors = [above[0] + 1]
            for column, word in enumerate(heard):
                errors.append(min(above[column] + (word != piece), above[column + 1] + 1))
        for column in range(1, len(errors)):  # a word too many
            errors[column] = min(errors[column], errors[column - 1] + 1)
    return errors[-1]


def _pieces(said: Sequence[str], within: set[int]) -> list[str | int]:
    """The words around the terms, and for each term or several in a row, how many words it can take."""
    pieces: list[str | int] = []
    for index, unit in enumerate(said):
        if index not in within:
            pieces.append(unit)
        elif index - 1 in within and isinstance(pieces[-1], int):
            pieces[-1] += _room(unit)
        else:
            pieces.append(1 + _room(unit))
    return pieces


def _room(unit: str) -> int:
    """How many words a recogniser may have made of one: `hydrochlorothiazide` is cut into some of three letters."""
    return 1 + len(unit) // 3


def _share_written(places: Sequence[Sequence[str]], written: Sequence[str]) -> float:
    """Of the terms that were said, so many were written; each of them as often as it was said."""
    said = [tuple(place) for place in places]
    heard = sum(min(said.count(term), len(_exactly(written, term))) for term in set(said))
    return heard / len(said) if said else 0.0


def _exactly(written: Sequence[str], term: tuple[str, ...]) -> list[int]:
    return [i for i in range(len(written)) if tuple(written[i : i + len(term)]) == term]


def _joined(units: Sequence[str]) -> str:
    return re.sub(rf"(?<=[{CJK}]) (?=[{CJK}])", "", " ".join(units))
