"""Long texts in parts that a speech model can carry: it was trained on single sentences."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterator, Sequence

from pipelines.speech.ipa import IPA

_CLAUSE_END = re.compile(r"(?<=[,;:])\s+|(?<=[，；：、])")
_HELD = 0xE000
"""First of the characters that stand for IPA while a text is cut; Unicode leaves them to private use."""


def parts_of(text: str, limit: int, sentences: Callable[[str], Sequence[str]]) -> list[str]:
    """The text in parts of about `limit` characters at most, cut at sentence ends, else at clauses, else at words.

    sentences: cuts a text into its sentences.

    >>> parts_of("Take one daily. Come back in a week, or sooner.", 24, lambda text: re.split(r"(?<=[.]) ", text))
    ['Take one daily.', 'Come back in a week,', 'or sooner.']
    """
    if len(text) <= limit:
        return [text]
    held: list[str] = []

    def hold(match: re.Match[str]) -> str:
        held.append(match[0])
        return chr(_HELD + len(held) - 1)

    whole = IPA.sub(hold, text)
    parts = _joined([part for sentence in sentences(whole) for part in _within(sentence.strip(), limit)], limit)
    for index, ipa in enumerate(held):
        parts = [part.replace(chr(_HELD + index), ipa) for part in parts]
    return parts


def _within(sentence: str, limit: int) -> Iterator[str]:
    if len(sentence) <= limit:
        yield sentence
        return
    for clause in _CLAUSE_END.split(sentence):
        yield from textwrap.wrap(clause, limit, break_on_hyphens=False)


def _joined(parts: Sequence[str], limit: int) -> list[str]:
    """As many parts together as the limit allows: fewer cuts, fewer pauses."""
    joined: list[str] = []
    for part in parts:
        if joined and len(joined[-1]) + 1 + len(part) <= limit:
            joined[-1] += f" {part}"
        else:
            joined.append(part)
    return joined
