"""What a writer of sentences is, whatever writes them: the shapes that grammars and language models share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pipelines.transcripts.grammar import Pattern


class Style(Protocol):
    """A way of writing, such as dictation: a grammar, or a set of prompts for a language model."""

    @property
    def name(self) -> str: ...

    @property
    def language(self) -> str: ...

    @property
    def patterns(self) -> Mapping[str, Pattern]: ...

    @property
    def roles(self) -> tuple[str, ...]:
        """Who speaks in its dialogues, such as clinician and patient; empty for sentences."""
        ...

    def split_patterns(self, held_out_share: float) -> tuple[list[Pattern], list[Pattern]]:
        """Patterns to train on, and patterns held out of it."""
        ...

    def lists(self) -> list[Pattern]:
        """Patterns that take several terms; they are never held out."""
        ...


@dataclass(frozen=True)
class Draft:
    """What a generator wrote, before anything was checked."""

    written: str
    """As the recogniser should write it."""
    turns: tuple[tuple[str, str], ...] = ()
    """(role, written) in order, for dialogues; else empty."""
