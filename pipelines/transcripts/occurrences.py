"""Where a term stands in a text, whatever its ending: `losartans`, `Crohn’s disease`, `intubated`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from rayapp.records import Term
from rayapp.text.scripts import LATIN

_APOSTROPHES = "'’"
_VOWELS = "aeiou"


class Occurrence(NamedTuple):
    """A stretch of a text that is a term."""

    start: int
    end: int
    ending: str
    """What a regular word would have been given: `s`, `'s`, `ed` or `ing`; empty where the term stands as it is."""


def occurrences(text: str, term: Term) -> Iterator[Occurrence]:
    """Every place where a term stands as a word of its own; case does not count.

    >>> [text[o.start:o.end] for text in ["No biopsies, one biopsy"] for o in occurrences(text, Term("biopsy"))]
    ['biopsies', 'biopsy']
    """
    for match in _pattern(term.text).finditer(text):
        ending = next((name for name, found in match.groupdict().items() if found), "")
        yield Occurrence(match.start(), match.end(), _ENDINGS[ending])


_ENDINGS = {"": "", "plural": "s", "possessive": "'s", "past": "ed", "progressive": "ing"}


@lru_cache(maxsize=4096)
def _pattern(term: str) -> re.Pattern[str]:
    """The term's words with any space between them; where the last ends in a letter, with the endings of English."""
    body = _flexible(term)
    if not re.search(rf"[{LATIN}]$", term):
        return re.compile(_bounded(body, term), re.IGNORECASE)
    forms = [rf"{body}(?P<possessive>[{_APOSTROPHES}]s)"]
    stem, last, before = _flexible(term[:-1]), term[-1].lower(), term[-2:-1].lower()
    if last == "y" and before and before not in _VOWELS:
        forms += [rf"{stem}(?:(?P<plural>ies)|(?P<past>ied))", rf"{body}(?P<progressive>ing)"]
    elif last == "e":
        forms += [rf"{body}(?:(?P<plural>s)|(?P<past>d))", rf"{stem}(?P<progressive>ing)"]
    else:
        plural = "es" if re.search(r"(s|x|z|ch|sh)$", term.lower()) else "e?s" if last == "o" else "s"
        doubled = f"{last}?" if re.search(rf"[^{_VOWELS}][{_VOWELS}][^{_VOWELS}wxy]$", term.lower()) else ""
        forms += [rf"{body}(?:(?P<plural>{plural})|{doubled}(?:(?P<past>ed)|(?P<progressive>ing)))"]
    return re.compile(_bounded("|".join([*forms, body]), term), re.IGNORECASE)


def _flexible(term: str) -> str:
    """Any spaces for a space, and either apostrophe."""
    escaped = re.escape(" ".join(term.split())).replace(r"\ ", r"\s+")
    return re.sub(f"[{_APOSTROPHES}]", f"[{_APOSTROPHES}]", escaped)


def _bounded(forms: str, term: str) -> str:
    """No letter or digit of the same word before or after; Chinese may stand right beside a Latin word."""
    beside = f"{LATIN}0-9"
    before = rf"(?<![{beside}])(?<!\d\.)" if re.match(rf"[{beside}]", term) else ""
    after = rf"(?![{beside}])(?!\.\d)" if re.search(rf"[{beside}]$", term) else ""
    return f"{before}(?:{forms}){after}"
