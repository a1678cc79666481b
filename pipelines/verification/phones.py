"""How far what a voice said is from how a term should be said.

A recogniser is no judge of that: the terms are the words that it does not know. Where the speech engine tells its
phonemes, they are compared with the pronunciation instead. Of other engines it is only known what they were given to
say: that is compared, as a phonemiser reads it. It finds a term that a voice was given otherwise than the lexicon has
it, such as by its letters; it cannot find what the voice made of it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeAlias

from pipelines.verification.units import CJK, units_of
from rayapp.errors import RejectedError
from rayapp.records import PAUSE, Span, Term, Transcript, Utterance
from rayapp.text.inflections import occurrences

Phonemiser: TypeAlias = Callable[[str, str], Sequence[str]]
"""From a text (IPA between slashes) and the name of a voice to the phonemes, as the voice's engine names them."""

_MARGIN_SECONDS = 0.6
"""The times of words are rough where several words are written for several others that are said, and where espeak-ng
tells of no word, as of `humerus` in New York, whose `h` is silent."""
_MARKS = re.compile(r"[^\w@&?]|_|(?<=.)[24-9]$")
"""Length, stress and variant in a name of espeak-ng. The vowels `0` and `3`, and diphthongs such as `aI3`, stay."""
_SPOKEN_WORD = re.compile(rf"(?<![\w/])/[^/\s][^/]*/|[{CJK}]|[^\s{CJK}]+")
"""IPA between slashes is one, whatever it holds."""
_Pair: TypeAlias = tuple[Sequence[str], Sequence[str]]
"""The phones of a pronunciation, and those that were said where it belongs."""


def phone_distance(wanted: Sequence[str], said: Sequence[str]) -> float:
    """Edits that turn the best fitting stretch of `said` into `wanted`, per phone of `wanted`; 0 is perfect.

    What is said before and after that stretch costs nothing (P. H. Sellers, The theory and computation of
    evolutionary distances, 1980): neighbours are no mispronunciation, nor is an ending.

    wanted: at least one phone.

    >>> phone_distance("l 0 s A@ t @ n".split(), "t eI k l 0 s A@ t @ n t @ d eI".split())
    0.0
    >>> phone_distance("s I t".split(), "s E d".split())
    0.6666666666666666
    """
    edits = [0] * (len(said) + 1)
    for row, phone in enumerate(wanted, start=1):
        above, edits = edits, [row]
        for column, other in enumerate(said):
            edits.append(min(above[column] + (phone != other), above[column + 1] + 1, edits[column] + 1))
    return min(edits) / len(wanted)


def bare_phones(symbols: Sequence[str]) -> list[str]:
    """Phonemes without pauses, and without the marks of length, stress and variant: context alone changes these.

    >>> bare_phones(["l", "0", "s", "'A@", "t#", "I2", "i:", "_"])
    ['l', '0', 's', 'A@', 't', 'I', 'i']
    """
    return [phone for symbol in symbols if symbol != PAUSE and (phone := _MARKS.sub("", symbol))]


def worst_phone_distance(utterance: Utterance, phonemiser: Phonemiser, voices: Mapping[str, str]) -> float | None:
    """That of the term that is said worst; None where nobody knows what is right, or nothing can be compared.

    voices: what the phonemiser calls the voice of a language, where that is not the language's own code; for engines
        that tell no phonemes.
    """
    pairs = _told(utterance, phonemiser) if utterance.phonemes else _given(utterance, phonemiser, voices)
    return max((phone_distance(wanted, said) for wanted, said in pairs if wanted and said), default=None)


def _told(utterance: Utterance, phonemiser: Phonemiser) -> Iterator[_Pair]:
    """What the engine tells that it said."""
    assert utterance.transcript
    for term in terms_of(utterance):
        if pronunciation := _pronunciation(term, utterance.transcript):
            for start, end in _stretches(utterance, term):
                yield bare_phones(phonemiser(pronunciation, _voice_at(utterance, start))), _said(utterance, start, end)


def _given(utterance: Utterance, phonemiser: Phonemiser, voices: Mapping[str, str]) -> Iterator[_Pair]:
    """What the engine was given to say, as the phonemiser reads it. Only terms that the lexicon pronounces: the others
    are given by their letters, and compared with nothing but these."""

    def read(text: str, language: str) -> list[str]:
        try:
            return bare_phones(phonemiser(text, voices.get(language, language)))
        except (ValueError, RejectedError):  # it has no voice of that language, or none for sounds in the IPA
            return []

    transcript = utterance.transcript
    assert transcript
    for term in (term for term in terms_of(utterance) if term.pronunciation):
        for span in transcript.spans or (Span(transcript.text, transcript.spoken, transcript.language),):
            for given in _given_for(term, span):
                yield read(term.pronunciation or "", span.language), read(given, span.language)


def _given_for(term: Term, span: Span) -> Iterator[str]:
    """The stretch of the spoken form in which each occurrence of a term is said.

    It lies between the nearest words that are said as they are written, and holds these two as well: they may be part
    of the pronunciation.

    >>> list(_given_for(Term("E11.9"), Span("He has E11.9, 2 years now", "he has E eleven point nine, two years now")))
    ['has E eleven point nine, two years']
    """
    written = units_of(span.text)
    said = [(u, m.span()) for m in _SPOKEN_WORD.finditer(span.spoken) for u in units_of(m[0]) or [m[0]]]
    matcher = difflib.SequenceMatcher(None, written, [unit for unit, _ in said], autojunk=False)
    same = {first + k: other + k for first, other, size in matcher.get_matching_blocks() for k in range(size)}
    for place in occurrences(written, units_of(term.text)) if said else ():
        before = max((there for here, there in same.items() if here < place.start), default=0)
        after = min((there for here, there in same.items() if here >= place.stop), default=len(said) - 1)
        yield span.spoken[said[before][1][0] : said[after][1][1]]


def terms_of(utterance: Utterance) -> list[Term]:
    """The terms that the transcript holds, with what the lexicon knows of them."""
    assert utterance.transcript
    known = {term.text: term for term in (utterance.slot.term, *utterance.slot.companions) if term}
    return [known.get(text, Term(text)) for text in utterance.transcript.terms]


def _pronunciation(term: Term, transcript: Transcript) -> str | None:
    """The lexicon's; else the text is read as it is, unless the voice was meant to say something else for it."""
    if term.pronunciation:
        return term.pronunciation
    return term.text if occurrences(units_of(transcript.spoken), units_of(term.text)) else None


def _stretches(utterance: Utterance, term: Term) -> Iterator[tuple[float, float]]:
    """When the term is said, in seconds; all of the utterance where the engine tells no words."""
    assert utterance.transcript
    if not utterance.words:
        if occurrences(units_of(utterance.transcript.text), units_of(term.text)):
            yield 0.0, utterance.duration_seconds
        return
    placed = [(unit, word) for word in utterance.words for unit in units_of(word.text)]
    for found in occurrences([unit for unit, _ in placed], units_of(term.text)):
        yield placed[found[0]][1].start_seconds, placed[found[-1]][1].end_seconds


def _said(utterance: Utterance, start: float, end: float) -> list[str]:
    """The phones between two times, and a little around them."""
    first, last = start - _MARGIN_SECONDS, end + _MARGIN_SECONDS
    return bare_phones([p.symbol for p in utterance.phonemes if first <= p.start_seconds < last])


def _voice_at(utterance: Utterance, seconds: float) -> str:
    turns = (turn.voice for turn in utterance.turns if turn.start_seconds <= seconds < turn.end_seconds)
    return next(turns, utterance.slot.voice.name)
