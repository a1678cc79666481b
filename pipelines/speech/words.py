"""From the times of the words that were spoken to those of the words as they are written.

A voice says "five hundred milligrams" where the recogniser should write "500 mg", and its engine tells the times of
what it said.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from rayapp.records import SpokenWord

_CJK = r"\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
WORD = re.compile(rf"[{_CJK}]|[^\s{_CJK}]+")
"""A word of a text: what stands between spaces, or one character of a script that has none."""


def written_words(text: str, spoken: Sequence[SpokenWord]) -> tuple[SpokenWord, ...]:
    """Times for the words of `text`. Where several words were said for several others, they share the time by length.

    >>> said = [SpokenWord("take", 0.0, 0.3), SpokenWord("five", 0.3, 0.6), SpokenWord("milligrams", 0.6, 1.2)]
    >>> [(word.text, round(word.end_seconds, 2)) for word in written_words("Take 5 mg.", said)]
    [('Take', 0.3), ('5', 0.52), ('mg.', 1.2)]
    """
    words = WORD.findall(text)
    if not spoken or not words:
        return ()
    matcher = difflib.SequenceMatcher(None, [_bare(w) for w in words], [_bare(w.text) for w in spoken], autojunk=False)
    times: list[SpokenWord] = []
    for kind, first, last, said_first, said_last in matcher.get_opcodes():
        said = spoken[said_first:said_last]
        if kind == "equal":
            times += [
                SpokenWord(w, s.start_seconds, s.end_seconds) for w, s in zip(words[first:last], said, strict=True)
            ]
        elif last > first:
            start = said[0].start_seconds if said else (times[-1].end_seconds if times else 0.0)
            times += _shared(words[first:last], start, said[-1].end_seconds if said else start)
    return tuple(times)


def _shared(words: Sequence[str], start: float, end: float) -> list[SpokenWord]:
    total, done = sum(map(len, words)), 0
    shared = []
    for word in words:
        begins = start + (end - start) * done / total
        done += len(word)
        shared.append(SpokenWord(word, begins, start + (end - start) * done / total))
    return shared


def _bare(word: str) -> str:
    return re.sub(r"[^\w]", "", word).casefold()
