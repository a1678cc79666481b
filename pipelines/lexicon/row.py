"""From a row as somebody wrote it to a term: normalised, and refused with the reason where it will not do."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import Any

from rayapp.records import Term

MAX_TERM_CHARACTERS = 100
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[a-z0-9]{2,8})*", re.IGNORECASE)
_IPA = re.compile(r"/[^/\s][^/]*/")


def term_of(row: Mapping[str, Any]) -> Term:
    """The term of a row: NFC, without spare whitespace; what is missing gets its default.

    Raises `ValueError` with the reason.

    >>> term = term_of({"text": "heart  failure ", "category": "", "weight": "2"})
    >>> term.text, term.category, term.language, term.weight
    ('heart failure', 'other', 'en', 2.0)
    """
    text = _words("text", row.get("text"))
    if not text:
        raise ValueError("the text is empty")
    if len(text) > MAX_TERM_CHARACTERS:
        raise ValueError(f"{text[:30]!r}… has {len(text)} characters; {MAX_TERM_CHARACTERS} is the most for a term")
    weight = _number(row, text, "weight", "a number above 0")
    recall = _number(row, text, "recall", "a share from 0 to 1, or empty")
    if weight is not None and not 0 < weight < float("inf"):
        raise ValueError(f"weight of {text!r} is {weight:g}; it must be a number above 0")
    if recall is not None and not 0 <= recall <= 1:
        raise ValueError(f"recall of {text!r} is {recall:g}; it must be a share from 0 to 1, or empty")
    return Term(
        text=text,
        category=_words(text, row.get("category")) or "other",
        language=_language(row, text),
        pronunciation=_pronunciation(row, text),
        weight=1.0 if weight is None else weight,
        recall=recall,
        confused_with=tuple(filter(None, (_words(text, part) for part in _parts(row, text)))),
    )


def _parts(row: Mapping[str, Any], text: str) -> list[str]:
    """Terms with semicolons between them."""
    return _words(text, row.get("confused_with")).split(";")


def same_term(text: str) -> str:
    """Alike for texts that are the same term: case does not count.

    >>> same_term("Losartan") == same_term("losartan")
    True
    """
    return unicodedata.normalize("NFC", text.casefold())


def _words(text: str, value: Any) -> str:
    """A value with single spaces between its words."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"{text!r} has {value!r} where words should stand")
    stripped = unicodedata.normalize("NFC", value).strip()
    control = next((c for c in stripped if unicodedata.category(c) in ("Cc", "Cf", "Co", "Cs")), None)
    if control:
        raise ValueError(f"{stripped[:40]!r} has a control character (U+{ord(control):04X}); remove it")
    return " ".join(stripped.split())


def _number(row: Mapping[str, Any], text: str, name: str, wanted: str) -> float | None:
    value = row.get(name)
    if value is None or value == "":
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name} of {text!r} is {value!r}; it must be {wanted}") from None


def _language(row: Mapping[str, Any], text: str) -> str:
    language = _words(text, row.get("language")) or "en"
    if not _LANGUAGE.fullmatch(language):
        raise ValueError(f"language of {text!r} is {language!r}; it must be a code, such as en, en-GB or zh")
    return language


def _pronunciation(row: Mapping[str, Any], text: str) -> str | None:
    said = _words(text, row.get("pronunciation"))
    if (said.startswith("/") or said.endswith("/")) and not _IPA.fullmatch(said):
        raise ValueError(
            f"pronunciation of {text!r} is {said!r}; it must be a respelling, or IPA between two slashes, "
            "such as /ləˈsɑːtən/"
        )
    return said or None
