"""Which words of what was heard stand for which words of what was said."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rapidfuzz.distance import Levenshtein


class Pair(NamedTuple):
    """A word that was said and heard; they are alike, but need not be written alike."""

    said: int
    heard: int


class Alignment:
    """The fewest substitutions, deletions and insertions between two lists of words.

    >>> found = Alignment("start losartan today".split(), "start low certain today".split())
    >>> found.stretch(1, 2), list(found.pairs())
    (range(1, 3), [Pair(said=0, heard=0), Pair(said=2, heard=3)])
    """

    def __init__(self, said: Sequence[str], heard: Sequence[str]) -> None:
        self._blocks = [
            (op.tag, op.src_start, op.src_end, op.dest_start, op.dest_end) for op in Levenshtein.opcodes(said, heard)
        ]

    def pairs(self) -> Iterator[Pair]:
        """The words that are the same on both sides."""
        for tag, i1, i2, j1, _ in self._blocks:
            if tag == "equal":
                yield from (Pair(i1 + k, j1 + k) for k in range(i2 - i1))

    def stretch(self, start: int, stop: int) -> range:
        """The words heard for the words `start` to `stop` of what was said.

        What was heard besides, right before or behind a word that was not heard as it was said, is part of it:
        `low certain` for `losartan` is a substitution and an insertion.
        """
        first, last = None, 0
        for tag, i1, i2, j1, j2 in self._blocks:
            if tag == "insert":
                if start <= i1 <= stop and not self._is_right(i1, start, stop):
                    first, last = (j1 if first is None else first), j2
            elif max(start, i1) < min(stop, i2) and tag != "delete":
                low, high = j1 + max(start - i1, 0), j1 + min(stop, i2) - i1
                first, last = (low if first is None else first), high
        return range(0) if first is None else range(first, last)

    def _is_right(self, place: int, start: int, stop: int) -> bool:
        """Whether the words of the stretch beside an insertion were all heard as they were said."""
        beside = [index for index in (place - 1, place) if start <= index < stop]
        right = {i for tag, i1, i2, _, _ in self._blocks if tag == "equal" for i in range(i1, i2)}
        return all(index in right for index in beside)


_EDGES = re.compile(r"^\W+|\W+$")


def key(word: str) -> str:
    """What a word is recognised by, however it is capitalised and whatever stands behind it.

    >>> key("Losartan,")
    'losartan'
    """
    return _EDGES.sub("", word.casefold())
