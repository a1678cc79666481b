"""Where a term stands in a text that was taken apart, whatever its ending."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence

_SHORTEST_STEM = 4
_LONGEST_ENDING = 3


def occurrences(units: Sequence[str], term: Sequence[str]) -> list[range]:
    """Where a term stands among units: as it is, or else inflected.

    >>> occurrences("two biopsies after a lumbar puncture".split(), ["biopsy"])
    [range(1, 2)]
    """
    exact = _positions(units, term, operator.eq)
    return exact or _positions(units, term, _is_form_of)


def _positions(units: Sequence[str], term: Sequence[str], alike: Callable[[str, str], bool]) -> list[range]:
    length = len(term)
    starts = range(len(units) - length + 1) if length else ()
    return [
        range(start, start + length)
        for start in starts
        if all(alike(unit, wanted) for unit, wanted in zip(units[start : start + length], term, strict=True))
    ]


def _is_form_of(unit: str, word: str) -> bool:
    """Whether they share a stem: all but two letters of the word, and another ending."""
    if not word.isalpha():
        return unit == word
    stem = word[: max(_SHORTEST_STEM, len(word) - 2)]
    return unit.startswith(stem) and len(unit) <= len(word) + _LONGEST_ENDING
