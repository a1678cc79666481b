"""What every speech engine can do, whoever made it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from rayapp.records import Audio, Phoneme, SpokenWord, Voice


class Line(NamedTuple):
    """Something to say in one voice."""

    text: str
    """The spoken form. IPA stands between slashes, as in `take /ləˈsɑːtən/ daily`."""
    voice: Voice


class Speech(NamedTuple):
    """What an engine made of a line; times are from its start."""

    audio: Audio
    phonemes: tuple[Phoneme, ...] = ()
    """Empty where the engine does not tell."""
    words: tuple[SpokenWord, ...] = ()
    """Of the spoken form; empty where the engine does not tell."""


class SpeechEngine(Protocol):
    """Turns text into speech. Made once per worker, with its settings."""

    name: str

    def speak(self, lines: Sequence[Line]) -> Sequence[Speech | Exception]:
        """One `Speech` per line, in order, at 16 kHz; a `RejectedError` for a line that cannot be said.

        The same line sounds the same, whatever was said before, where the engine can promise that.
        """
        ...

    def check_voices(self, voices: Sequence[str]) -> None:
        """Raises `UserError` that names each voice that there is not, and some that there are."""
        ...

    def check_pronounceable(self, texts: Sequence[str], language: str) -> None:
        """Raises `UserError` that names each text for which there is nothing to say."""
        ...
