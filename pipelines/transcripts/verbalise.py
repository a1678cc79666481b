"""From the written to the spoken form: a voice is told `five hundred milligrams` where the text has `500 mg`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from pipelines.transcripts.occurrences import occurrences
from rayapp.records import Term
from rayapp.text.english import read_english
from rayapp.text.mandarin import read_mandarin

_READERS: dict[str, Callable[[str], str]] = {"en": read_english, "zh": read_mandarin}
"""Voices of other languages read numbers themselves."""
_IPA = re.compile(r"(?<![\w/])/[^/\s][^/]*/(?![\w/])")
_VOICELESS = ("p", "t", "k", "f", "θ")
_SIBILANTS = ("s", "z", "ʃ", "ʒ")


def verbalise(written: str, language: str, spellings: Mapping[str, str] = {}) -> str:
    """What is said for what is written; IPA between slashes stays, and so does what is in spoken form already.

    spellings: what is said for certain words, wherever they stand and whatever their ending.

    >>> verbalise("Losartan 50 mg q8h", "en", {"losartan": "low-sartan"})
    'low-sartan fifty milligrams every eight hours'
    """
    read = _READERS.get(language, str)
    parts, end = [], 0
    for start, stop, said in sorted(_kept(written, spellings), key=lambda kept: (kept[0], -kept[1])):
        if start >= end:  # else it is within a longer one
            parts += [_read(written[end:start], read), said]
            end = stop
    return "".join([*parts, _read(written[end:], read)])


def spoken_form(draft_text: str, language: str, terms: Sequence[Term]) -> str:
    """What is said for a text with lexicon terms in it: they are said as the lexicon has them.

    >>> spoken_form("Both losartans, 50 mg", "en", [Term("losartan", pronunciation="/ləˈsɑːtən/")])
    'Both /ləˈsɑːtənz/, fifty milligrams'
    """
    return verbalise(draft_text, language, {term.text: term.pronunciation for term in terms if term.pronunciation})


def _kept(written: str, spellings: Mapping[str, str]) -> Iterator[tuple[int, int, str]]:
    """(start, end, what is said) of what no rule may touch."""
    for match in _IPA.finditer(written):
        yield match.start(), match.end(), match[0]
    for word, said in spellings.items():
        for start, end, ending in occurrences(written, Term(word)):
            yield start, end, _with_ending(said, ending)


def _read(text: str, read: Callable[[str], str]) -> str:
    """A stretch read out; the spaces around it stay."""
    bare = text.strip()
    return text.replace(bare, read(bare), 1) if bare else text


def _with_ending(said: str, ending: str) -> str:
    """A respelling takes an ending as it is written, IPA as it sounds.

    >>> [_with_ending("low-sartan", "s"), _with_ending("abb-sess", "s"), _with_ending("/ˈstɛnt/", "ed")]
    ['low-sartans', 'abb-sesses', '/ˈstɛntɪd/']
    """
    if _IPA.fullmatch(said):
        return f"/{said[1:-1]}{_ending_sound(said[-2], ending)}/"
    if ending == "s" and re.search(r"(s|x|z|ch|sh)$", said):
        return f"{said}es"
    return f"{said}{ending[1:] if ending == 'ed' and said.endswith('e') else ending}"


def _ending_sound(last: str, ending: str) -> str:
    """How an English ending sounds after a phone: `s` and `'s` as s, z or ɪz, `ed` as t, d or ɪd."""
    if ending in ("s", "'s"):
        return "ɪz" if last in _SIBILANTS else "s" if last in _VOICELESS else "z"
    if ending == "ed":
        return "ɪd" if last in ("t", "d") else "t" if last in (*_VOICELESS, "s", "ʃ") else "d"
    return {"ing": "ɪŋ", "": ""}[ending]
