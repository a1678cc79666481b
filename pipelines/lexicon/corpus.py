"""Plain text that terms are looked for in: read line by line, as often as needed, and never held whole."""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Iterator, Sequence
from typing import BinaryIO, NamedTuple, TypeAlias, cast

import regex  # type: ignore[import-untyped]

from rayapp.errors import UserError
from rayapp.storage import open_filesystem

_LETTER = r"[\p{L}\p{M}\p{N}]"  # with marks: without them words of many scripts would fall apart
_WORD = regex.compile(rf"{_LETTER}+(?:(?:['’-](?={_LETTER})|\.(?=\p{{N}})){_LETTER}+)*")

Phrase: TypeAlias = tuple[str, ...]
"""The keys of its words."""


class Word(NamedTuple):
    text: str
    start: int
    end: int
    """Where it stands in its line, in characters."""

    @property
    def key(self) -> str:
        """Alike for spellings that are counted together."""
        return self.text.casefold().replace("’", "'")


class Corpus:
    """Text files on any storage, UTF-8; a line break ends a phrase, as punctuation does."""

    def __init__(self, locations: Sequence[str]) -> None:
        self.locations = locations

    def lines(self) -> Iterator[str]:
        """Raises `UserError` for a file that is missing or no UTF-8 text."""
        for location in self.locations:
            filesystem, path = open_filesystem(location)
            try:
                with filesystem.open_input_stream(path) as stream:
                    for line in _decoded(cast(BinaryIO, io.BufferedReader(stream)), location):
                        yield unicodedata.normalize("NFC", line)
            except FileNotFoundError:
                raise UserError(f"text {location} does not exist") from None
            except OSError as error:
                raise UserError(f"text {location} cannot be read: {error}") from None


def _decoded(stream: BinaryIO, location: str) -> Iterator[str]:
    for number, line in enumerate(stream, start=1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise UserError(
                f"text {location} cannot be read as UTF-8: line {number} (byte 0x{line[error.start]:02X}); "
                "save it as UTF-8"
            ) from None


def phrases_apart(line: str) -> Iterator[list[Word]]:
    """The stretches of words that nothing but spaces separates.

    >>> [[word.text for word in stretch] for stretch in phrases_apart("Crohn's disease, E11.9: follow-up.")]
    [["Crohn's", 'disease'], ['E11.9'], ['follow-up']]
    """
    stretch: list[Word] = []
    for match in _WORD.finditer(line):
        word = Word(match[0], match.start(), match.end())
        if stretch and line[stretch[-1].end : word.start].strip():
            yield stretch
            stretch = []
        stretch.append(word)
    if stretch:
        yield stretch


def runs(keys: Sequence[str], longest: int) -> Iterator[tuple[Phrase, int]]:
    """Each run of one to `longest` words, with where it starts.

    >>> list(runs(["heart", "failure"], longest=3))
    [(('heart',), 0), (('heart', 'failure'), 0), (('failure',), 1)]
    """
    for start in range(len(keys)):
        for end in range(start + 1, min(start + longest, len(keys)) + 1):
            yield tuple(keys[start:end]), start
