"""What two texts are compared by: words as a recogniser would write them, or the characters of a script without spaces.

Capitals, punctuation and accents do not count.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence

from rayapp.asr.text import plain_text

CJK = r"\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
"""Kana and Chinese characters, as a range of a regular expression."""
_WORD = re.compile(rf"[{CJK}]|[^\s{CJK}]+")
_SHORTEST_STEM = 4
_LONGEST_ENDING = 3


def spaced_words(text: str) -> list[str]:
    """What stands between spaces, and each character of a script that has none; written as they are.

    >>> spaced_words("Take /ləˈsɑːtən/, 每天")
    ['Take', '/ləˈsɑːtən/,', '每', '天']
    """
    return _WORD.findall(text)


def units_of(text: str) -> list[str]:
    """The units that count.

    >>> units_of("Follow-up: Losartan 每天")
    ['follow', 'up', 'losartan', '每', '天']
    """
    return [unit for word in spaced_words(text) for unit in _plain(word).split()]


def _plain(word: str) -> str:
    """`plain_text` knows Latin letters alone; other scripts keep theirs."""
    return plain_text(word) or re.sub(r"[\W_]+", " ", word).casefold()


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
