"""What two texts are compared by: words as a recogniser would write them, or the characters of a script without spaces.

Capitals, punctuation and accents do not count.
"""

from __future__ import annotations

import re

from rayapp.asr.text import plain_text

CJK = r"\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
"""Kana and Chinese characters, as a range of a regular expression."""
_WORD = re.compile(rf"[{CJK}]|[^\s{CJK}]+")


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
