"""Sentences in two languages, taken apart so that each stretch is said in a voice of its language."""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from pipelines.transcripts.occurrences import occurrences
from rayapp.errors import RejectedError
from rayapp.records import Span, Term
from rayapp.text.mandarin import is_read_in_mandarin
from rayapp.text.scripts import LATIN, language_of, script_of, scripts_of

_TOKEN = re.compile(rf"[{LATIN}](?:[{LATIN}0-9'’./\-]*[{LATIN}0-9])?|°[CF]|\d(?:[\d.,:/\-–]*\d)?|.", re.DOTALL)
_BREAK = re.compile(r"[，。、；：？！,;:?!.]")


class _Token(NamedTuple):
    start: int
    end: int
    language: str
    """Empty for a number, which is read in the language around it."""


def split_by_language(text: str, spoken: str, language: str, terms: Sequence[Term], role: str = "") -> tuple[Span, ...]:
    """The stretches of a text in `language` and of the foreign words in it, in order; one where there are none.

    Lexicon terms are in their own language, other words in that of their letters. Punctuation stays with what stands
    before it; numbers and their units are said in the language of the text.
    Raises `RejectedError` where the spoken form has not the same languages in the same order.

    >>> text = "先做 CT，再用 losartan 五十毫克。"
    >>> [span.text for span in split_by_language(text, text, "zh", [Term("losartan")])]
    ['先做', 'CT，', '再用', 'losartan', '五十毫克。']
    """
    if text.isascii() and scripts_of(language) == ("LATIN",) and all(term.language == language for term in terms):
        return (Span(text, spoken, language, role),)
    written = list(_stretches(text, language, {term.text: term for term in terms}))
    said = written
    if spoken != text:
        said = list(_stretches(spoken, language, {term.pronunciation or term.text: term for term in terms}))
    if [stretch[1] for stretch in written] != [stretch[1] for stretch in said]:
        raise RejectedError(f"what is said of {text[:60]!r} is not in the languages of what is written")
    return tuple(Span(w, s, code, role) for (w, code), (s, _) in zip(written, said, strict=True))


def _stretches(text: str, language: str, terms: Mapping[str, Term]) -> Iterator[tuple[str, str]]:
    """(text, language) of each stretch."""
    tokens = _numbers_resolved(list(_tokens(text, language, terms)), text, language)
    first = 0
    for before, after in itertools.pairwise(tokens):
        if before.language != after.language:
            end = _before_opening(text, after.start)
            yield text[first:end].strip(), before.language
            first = end
    yield text[first:].strip(), tokens[-1].language if tokens else language


def _tokens(text: str, language: str, terms: Mapping[str, Term]) -> Iterator[_Token]:
    marks = _marks(text, terms)
    at, number_before = 0, False
    while at < len(text):
        if at in marks:
            end, code = marks[at]
            yield _Token(at, end, code)
            at, number_before = end, False
            continue
        match = _TOKEN.match(text, at)
        assert match
        end = min([match.end(), *(start for start in marks if at < start < match.end())])
        token = text[at:end]
        if token[0].isdigit():
            yield _Token(at, end, "")
        elif language == "zh" and is_read_in_mandarin(token, after_number=number_before):
            yield _Token(at, end, language)
        elif script := script_of(token[0]):
            yield _Token(at, end, language_of(script, language))
        number_before = token[0].isdigit() or (number_before and token.isspace())
        at = end


def _marks(text: str, terms: Mapping[str, Term]) -> dict[int, tuple[int, str]]:
    """Where terms start, where they end, and their languages; of two that overlap, the longer."""
    found = [
        (occurrence.start, occurrence.end, term.language)
        for surface, term in terms.items()
        for occurrence in occurrences(text, Term(surface))
    ]
    marks: dict[int, tuple[int, str]] = {}
    covered = 0
    for start, end, language in sorted(found, key=lambda mark: (mark[0], -mark[1])):
        if start >= covered:
            marks[start] = (end, language)
            covered = end
    return marks


def _numbers_resolved(tokens: Sequence[_Token], text: str, language: str) -> list[_Token]:
    """Numbers are in the text's language, except within a foreign phrase, such as `type 2 diabetes`."""
    resolved: list[_Token] = []
    for index, token in enumerate(tokens):
        if token.language == "":
            around = [*resolved[-1:], *tokens[index + 1 : index + 2]]
            codes = {neighbour.language for neighbour in around}
            unbroken = not _BREAK.search(text[around[0].end : token.start] + text[token.end : around[-1].start])
            within = len(around) == 2 and len(codes) == 1 and unbroken
            token = token._replace(language=codes.pop() if within else language)
        resolved.append(token)
    return resolved


def _before_opening(text: str, position: int) -> int:
    """Where brackets and quotation marks open that belong to what starts at `position`."""
    while position and unicodedata.category(text[position - 1]) in ("Ps", "Pi"):
        position -= 1
    return position
