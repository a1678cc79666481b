"""What is wrong with a sentence that somebody wrote for a slot: the same questions, whoever wrote it."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from functools import cache
from typing import Any

from pipelines.transcripts.config import ChecksConfig
from pipelines.transcripts.occurrences import occurrences
from rayapp.records import Slot, Term
from rayapp.text.scripts import LATIN_AT_HOME, script_of, scripts_of, words

_SIGNS = frozenset(
    " .,;:!?'\"()-/%&+=<>$£€#@°~^"
    "…–—‘’‚“”„«»‹›¿¡·×÷±≥≤≈→µμαβγδΔªº²³½¼¾⅓⅔™®"
    "，。、；：？！（）《》「」『』〈〉【】〜～—％℃"
)  # fmt: skip
"""Punctuation and signs of written speech, whatever the language."""
_PLACEHOLDER = re.compile(r"\[[^\]]*\]|\{[^}]*\}|<[A-Za-z_/][^>]*>|_{2,}|\b[Xx]{3,}\b")
_MARKDOWN = re.compile(r"[*`|]|^\s*(?:#+\s|[-•]\s|\d+[.)]\s)|\n|\]\(")
_OPENING, _CLOSING = "(（«‹《「『【", ")）»›》」』】"
_STUTTER = re.compile(r"([^\d])\1{5,}")
_MOST_REPEATS = 3
_PLAUSIBLE = ("en", "de", "es", "fr", "it", "ja", "ko", "nl", "pl", "pt", "ru", "sv", "tr", "zh")
_LEAST_PROBABILITY = 0.05
"""Of the style's language. Short sentences full of drug names look like any Romance language: at 0.05 none of 308
sentences of clinical and everyday English, German, French, Spanish and Chinese was refused in its own language, and
8 % were accepted in another of the five (0 % where the letters differ); at 0.2 it is 3 % and 1 %."""


def problem(draft_text: str, slot: Slot, language: str, config: ChecksConfig) -> str | None:
    """What a sentence is not to be spoken for, in a few words; None where nothing is wrong.

    language: the style's; terms may be in others.
    """
    terms = [*([slot.term] if slot.term else []), *slot.companions]
    text = unicodedata.normalize("NFC", draft_text)
    rest = _without(text, terms)
    return (
        _length(text, config)
        or _missing(text, terms)
        or _remains(rest)
        or _characters(rest, language, terms)
        or _unbalanced(rest)
        or _loop(text)
        or (_other_language(rest, language) if config.language else None)
    )


def _without(text: str, terms: list[Term]) -> str:
    """The text around the terms: a term may hold whatever the lexicon has."""
    for term in sorted(terms, key=lambda term: -len(term.text)):
        for occurrence in reversed(list(occurrences(text, term))):
            text = f"{text[: occurrence.start]} {text[occurrence.end :]}"
    return text


def _length(text: str, config: ChecksConfig) -> str | None:
    count = len(words(text))
    if not config.min_words <= count <= config.max_words:
        return f"{count} words; {config.min_words} to {config.max_words} are allowed"
    return None


def _missing(text: str, terms: list[Term]) -> str | None:
    if all(any(True for _ in occurrences(text, term)) for term in terms):
        return None
    return "a term does not occur" if len(terms) > 1 else "the term does not occur"


def _remains(rest: str) -> str | None:
    """What is left of a request or of a page."""
    if _PLACEHOLDER.search(rest):
        return "a placeholder was left"
    return "it is a list or marked up, not a sentence" if _MARKDOWN.search(rest) else None


def _characters(rest: str, language: str, terms: list[Term]) -> str | None:
    own = scripts_of(language)
    scripts = {*own, *(script for term in terms for script in scripts_of(term.language))}
    if language in LATIN_AT_HOME:
        scripts.add("LATIN")
    found = set()
    for character in dict.fromkeys(rest):
        if character in _SIGNS or (character.isascii() and character.isdigit()):
            continue
        script = script_of(character)
        if script not in scripts:
            return _stranger(character, script)
        found.add(script)
    return None if found.intersection(own) or not found else f"no word of it is in {language}"


def _stranger(character: str, script: str) -> str:
    if script:
        return f"{script.lower()} letters"
    is_control = unicodedata.category(character).startswith("C")
    return "a control character" if is_control else f"the character {character!r}"


def _unbalanced(rest: str) -> str | None:
    low, high, closing_high = rest.count("„"), rest.count("“"), rest.count("”")
    straight = len(re.findall(r'(?<!\d)"', rest))  # 5'10" are inches
    if straight % 2 or (low != high if low else high != closing_high):  # „German“, “English”
        return "a quotation mark without its other half"
    if any(rest.count(opening) != rest.count(closing) for opening, closing in zip(_OPENING, _CLOSING, strict=True)):
        return "a bracket without its other half"
    return None


def _loop(text: str) -> str | None:
    """What models write that have lost the thread."""
    said = [word.casefold() for word in words(text)]
    repeats = Counter(zip(said, said[1:], said[2:], strict=False))
    if max(repeats.values(), default=0) > _MOST_REPEATS or _STUTTER.search(text):
        return "it repeats itself"
    return None


def _other_language(rest: str, language: str) -> str | None:
    identifier = _identifier("" if language in _PLAUSIBLE else language)
    ranked = dict(identifier.rank(rest))
    if ranked.get(language, 1.0) >= _LEAST_PROBABILITY:  # it may not know the language at all
        return None
    return f"it is in {next(iter(ranked))}, not {language}"


@cache
def _identifier(further: str) -> Any:
    """Tells the plausible languages and a further one apart; 2 s and some 50 MB, once in each process."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages({*_PLAUSIBLE, further}.intersection(identifier.labels))
    return identifier
