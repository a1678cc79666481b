"""Finding candidate terms in a text: what it says often, and people in general seldom."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from pipelines.lexicon.corpus import Corpus, Phrase, phrases_apart, runs
from pipelines.lexicon.keyness import GeneralLanguage, log_likelihood, zipf
from pipelines.lexicon.row import MAX_TERM_CHARACTERS
from pipelines.lexicon.sightings import sightings
from rayapp.errors import UserError
from rayapp.records import Term

MAX_WORDS = 3
MIN_KEYNESS = 15.13
"""Chance in less than 1 of 10 000 cases."""
RARE_ZIPF = 3.5
"""A candidate is said at most so often in general: three times in a million words."""
FUNCTION_ZIPF = 6.0
"""A phrase neither starts nor ends with a word that is said as often as once in a thousand words."""
MIN_COHESION = 0.5
"""A phrase has at least this share of the occurrences of its rarest word: it is no chance neighbourhood."""
ABSORBED = 0.8
"""A candidate is left out when a longer one has this share of its occurrences."""
MIN_PART_SHARE = 1 / 3
"""A phrase is left out when a candidate within it stands elsewhere much more often: it is that one with a neighbour."""


class Candidate(NamedTuple):
    """A word or phrase that might be worth teaching."""

    text: str
    occurrences: int
    keyness: float
    """G², see `log_likelihood`."""
    zipf: float
    """How often it is said in general; 1 and below is as good as never."""
    contexts: list[str]
    """Where it stands: up to three, with some words around it."""

    def term(self, language: str) -> Term:
        return Term(self.text, language=language)


def mine(corpus: Corpus, language: str, min_count: int, limit: int) -> list[Candidate]:
    """The candidates of a text, those that stand out most first.

    Reads the text three times; memory grows with its distinct words and frequent phrases, not with its length.

    Raises `UserError` for text that cannot be read or that nothing stands out of, and for an unknown language.
    """
    general = GeneralLanguage.of(language)
    words = Counter(word.key for line in corpus.lines() for stretch in phrases_apart(line) for word in stretch)
    if not words:
        raise UserError(f"there are no words in {', '.join(corpus.locations)}")
    counts = _counted(corpus, words, general, min_count)
    total = words.total()
    keyness = {phrase: _keyness(general, phrase, count, total) for phrase, count in counts.items()}
    chosen = _apart({phrase: count for phrase, count in counts.items() if keyness[phrase] >= MIN_KEYNESS})
    best = sorted(chosen, key=lambda phrase: (-keyness[phrase], phrase))[:limit]
    if not best:
        raise UserError(
            f"nothing stands out of {total} words {min_count} times or more; lower --min-count, or give more text"
        )
    seen = sightings(corpus, best)
    return [
        Candidate(
            seen[phrase].spelling(),
            counts[phrase],
            round(keyness[phrase], 1),
            zipf(general.share(" ".join(phrase))),
            seen[phrase].contexts,
        )
        for phrase in best
    ]


def _counted(corpus: Corpus, words: Counter[str], general: GeneralLanguage, min_count: int) -> dict[Phrase, int]:
    """How often each word and phrase stands there that could be a candidate by its form and number."""
    frequent = {word for word, count in words.items() if count >= min_count}
    edges = {word for word in frequent if word[0].isalpha() and zipf(general.share(word)) < FUNCTION_ZIPF}
    phrases = Counter(
        phrase
        for line in corpus.lines()
        for stretch in phrases_apart(line)
        for phrase, _ in runs([word.key for word in stretch], MAX_WORDS)
        if phrase[0] in edges and phrase[-1] in edges and frequent.issuperset(phrase)
    )
    return {
        phrase: count
        for phrase, count in phrases.items()
        if count >= max(min_count, MIN_COHESION * min(words[word] for word in phrase))
        and 2 <= len(" ".join(phrase)) <= MAX_TERM_CHARACTERS
    }


def _keyness(general: GeneralLanguage, phrase: Phrase, count: int, total: int) -> float:
    share = general.share(" ".join(phrase))
    return log_likelihood(count, total, share) if zipf(share) <= RARE_ZIPF else 0.0


def _apart(counts: dict[Phrase, int]) -> list[Phrase]:
    """Of phrases that stand within one another, those that are terms of their own."""
    within = [
        (part, phrase) for phrase in counts for part, _ in runs(phrase, MAX_WORDS) if part != phrase and part in counts
    ]
    absorbed = {part for part, phrase in within if counts[phrase] >= ABSORBED * counts[part]}
    chance = {phrase for part, phrase in within if counts[phrase] < MIN_PART_SHARE * counts[part]}
    return [phrase for phrase in counts if phrase not in absorbed | chance]
