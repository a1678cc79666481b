"""What a generator of sentences is, whatever writes them: the shapes that grammars and language models share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from pipelines.transcripts.grammar import Pattern
    from rayapp.execution import AnyGroup
    from rayapp.stage import BatchStage, Stage

Step: TypeAlias = "AnyGroup | Callable[[], Stage | BatchStage]"
"""A group of the stream, or what makes a stage in the workers that all CPU work shares."""


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


class Generator(Protocol):
    """Writes the sentences of a run. Cheap to make: what it loads or opens, its steps do, in their workers."""

    def check(self) -> None:
        """Raises `UserError` for what would fail in every slot: files, a model or a server that are not there."""
        ...

    def steps(self) -> Sequence[Step]:
        """What gives each utterance of the stream its transcript, in order.

        Raises `UserError` for settings that do not suit one another, without asking anybody.
        """
        ...

    def identity(self) -> Sequence[str]:
        """What its sentences depend on besides its settings: the contents of styles, models and templates.

        Part of the key of a run: what was made before one of them changed is not taken for what would be made now.
        """
        ...
