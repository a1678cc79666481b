"""How candidate terms are written in a text, and where they stand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pipelines.lexicon.corpus import Corpus, Phrase, phrases_apart, runs

_CONTEXTS = 3
_CONTEXT_CHARACTERS = 40


class Sightings:
    """How a candidate is written, and where."""

    def __init__(self) -> None:
        self.within = Counter[str]()
        self.first = Counter[str]()
        """At the start of a sentence, where a capital means nothing."""
        self.contexts: list[str] = []

    def spelling(self) -> str:
        """The most frequent one."""
        forms = self.within or self.first
        return min(forms, key=lambda form: (-forms[form], form))


def sightings(corpus: Corpus, phrases: Sequence[Phrase]) -> dict[Phrase, Sightings]:
    """Reads a text once for all of the phrases."""
    seen = {phrase: Sightings() for phrase in phrases}
    longest = max(map(len, phrases))
    for line in corpus.lines():
        for stretch in phrases_apart(line):
            for phrase, start in runs([word.key for word in stretch], longest):
                if phrase not in seen:
                    continue
                first, last = stretch[start], stretch[start + len(phrase) - 1]
                entry, form = seen[phrase], " ".join(line[first.start : last.end].split())
                (entry.within if start else entry.first)[form] += 1
                context = _context(line, first.start, last.end)
                if len(entry.contexts) < _CONTEXTS and context not in entry.contexts:
                    entry.contexts.append(context)
    return seen


def _context(line: str, start: int, end: int) -> str:
    """The phrase with some whole words on both sides."""
    before, after = line[:start][-_CONTEXT_CHARACTERS:], line[end:][:_CONTEXT_CHARACTERS]
    if len(before) < start:
        before = "…" + before.partition(" ")[2]
    if len(after) < len(line) - end:
        after = after.rpartition(" ")[0] + "…"
    return " ".join(f"{before}{line[start:end]}{after}".split())
