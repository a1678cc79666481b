"""Whether the terms were heard, what was heard instead, and where one was heard that nobody said."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from rapidfuzz.distance import Levenshtein

from pipelines.evaluation.alignment import Alignment
from rayapp.text.inflections import occurrences
from rayapp.text.normalise import normalise


@dataclass
class Sighting:
    """A term in one utterance. Its inflected forms count as the term, if they were heard as they were said."""

    term: str
    said: int = 0
    heard: int = 0
    """As often as it was said, at most."""
    close: int = 0
    """Heard, or with one character more, less or other than it should have."""
    inserted: int = 0
    """Heard more often than it was said."""
    confusions: list[str] = field(default_factory=list)
    """What was heard in its place; empty texts where nothing was."""


class Vocabulary:
    """Terms, to be found in what was heard whether they were said or not."""

    def __init__(self, terms: Iterable[str]) -> None:
        self._terms = sorted(set(terms))
        self._indices: dict[str, dict[str, list[tuple[tuple[str, ...], str]]]] = {}

    def __bool__(self) -> bool:
        return bool(self._terms)

    def sightings(
        self,
        terms: Sequence[str],
        said: Sequence[str],
        heard: Sequence[str],
        language: str = "en",
        alignment: Alignment | None = None,
    ) -> list[Sighting]:
        """Each term that was said or heard.

        terms: those that were said. said, heard: the words of both texts, as `normalise` writes them in `language`.
        alignment: of the two, where it is known already.
        """
        alignment = alignment or Alignment(said, heard)
        found = {term: _sighting(term, _words(term, language), said, heard, alignment) for term in dict.fromkeys(terms)}
        in_said, in_heard = self._count(said, language), self._count(heard, language)
        for term, count in in_heard.items():
            extra = count - in_said[term]
            if extra > 0 and term not in found:
                found[term] = Sighting(term, inserted=extra)
            elif extra > 0:
                found[term].inserted = max(found[term].inserted, extra)
        return list(found.values())

    def _count(self, words: Sequence[str], language: str) -> Counter[str]:
        if language not in self._indices:
            by_first = self._indices[language] = {}
            for term in self._terms:
                if wanted := _words(term, language):
                    by_first.setdefault(wanted[0], []).append((wanted, term))
        counts = Counter[str]()
        for index, word in enumerate(words):
            for wanted, term in self._indices[language].get(word, ()):
                counts[term] += tuple(words[index : index + len(wanted)]) == wanted
        return counts


def _sighting(
    term: str, wanted: Sequence[str], said: Sequence[str], heard: Sequence[str], alignment: Alignment
) -> Sighting:
    places = occurrences(said, wanted)
    if not places:  # normalised otherwise within its sentence: what counts is whether it was heard at all
        hit = bool(occurrences(heard, wanted))
        return Sighting(term, said=1, heard=int(hit), close=int(hit), confusions=[] if hit else [""])
    sighting = Sighting(term, said=len(places))
    for form in dict.fromkeys(tuple(said[place.start : place.stop]) for place in places):
        mine = [place for place in places if tuple(said[place.start : place.stop]) == form]
        times_heard = _times(heard, form)
        sighting.heard += min(len(mine), times_heard)
        sighting.inserted += max(times_heard - len(mine), 0)
        missed = []
        for place in mine:
            stretch = alignment.stretch(place.start, place.stop)
            instead = tuple(heard[stretch.start : stretch.stop])
            if instead != form:
                missed.append(instead)
        missed = missed[: max(len(mine) - times_heard, 0)]
        sighting.confusions += [" ".join(instead) for instead in missed]
        near = sum(bool(instead) and Levenshtein.distance("".join(instead), "".join(form)) <= 1 for instead in missed)
        sighting.close += min(len(mine), times_heard) + near
    return sighting


def _times(words: Sequence[str], form: tuple[str, ...]) -> int:
    return sum(tuple(words[i : i + len(form)]) == form for i in range(len(words) - len(form) + 1))


@lru_cache(maxsize=65536)
def _words(term: str, language: str) -> tuple[str, ...]:
    return tuple(normalise(term, "medical", language).split())
