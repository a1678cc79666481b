"""How much more often a text says a word than people do in general."""

from __future__ import annotations

import math
from typing import NamedTuple

from rayapp.errors import UserError

RAREST = 1e-8
"""Share of a word that the reference does not have: about that of the rarest ones that it has."""
_WITHOUT_SPACES = {"ja", "ko", "zh"}
"""Languages whose words the reference can only tell apart with a segmenter of its own."""


class GeneralLanguage(NamedTuple):
    """How often words are said in general, from `wordfreq`: subtitles, news, books and the web."""

    code: str

    @classmethod
    def of(cls, language: str) -> GeneralLanguage:
        """Raises `UserError` for a language whose words are not known."""
        from wordfreq import available_languages

        known = sorted(set(available_languages()) - _WITHOUT_SPACES)
        code = language.partition("-")[0].lower()
        if code not in known:
            raise UserError(f"how often words are said in {language!r} is not known; known: {', '.join(known)}")
        return cls(code)

    def share(self, phrase: str) -> float:
        """Of all words. For a phrase it is what its rarest word allows at most, so that it errs to the common."""
        from wordfreq import word_frequency

        return word_frequency(phrase, self.code, minimum=RAREST)


def zipf(share: float) -> float:
    """Powers of ten per thousand million words: 7 is `the`, 4 once in 100 000 words, 3 once in a million (van Heuven
    et al. 2014).

    >>> zipf(1e-6)
    3.0
    """
    return round(math.log10(share) + 9, 2)


def log_likelihood(count: int, total: int, share: float) -> float:
    """G² of `count` occurrences among `total` words, where `share` of the words was to be expected.

    Dunning 1993, for one sample against a known share: the reference is so much larger than any text that it counts
    as exact. 0 where the text has fewer than expected; above 15.13 it is chance in less than 1 of 10 000 cases.

    >>> round(log_likelihood(20, 10_000, 1e-6), 1)
    264.1
    >>> log_likelihood(20, 10_000, 0.01)
    0.0
    """
    expected = total * share
    if count <= expected:
        return 0.0
    others = total - count
    rest = others * math.log(others / (total - expected)) if others else 0.0
    return 2 * (count * math.log(count / expected) + rest)
