"""The generators that there are, by the name that the settings give them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from pipelines.transcripts.config import TranscriptsConfig
from pipelines.transcripts.generator import Generator
from pipelines.transcripts.library import GRAMMARS, PROMPTS, StyleLibrary
from rayapp.records import Term


def _grammar(config: TranscriptsConfig, held_out: Sequence[Term]) -> Generator:
    from pipelines.transcripts.grammar_generator import GrammarGenerator

    return GrammarGenerator(config)


def _openai(config: TranscriptsConfig, held_out: Sequence[Term]) -> Generator:
    from pipelines.transcripts.openai_server import OpenAIGenerator

    return OpenAIGenerator(config, held_out)


def _vllm(config: TranscriptsConfig, held_out: Sequence[Term]) -> Generator:
    from pipelines.transcripts.vllm_engine import VllmGenerator

    return VllmGenerator(config, held_out)


class _Entry(NamedTuple):
    library: StyleLibrary
    """The styles that it writes in."""
    make: Callable[[TranscriptsConfig, Sequence[Term]], Generator]


GENERATORS: dict[str, _Entry] = {
    "grammar": _Entry(GRAMMARS, _grammar),
    "openai": _Entry(PROMPTS, _openai),
    "vllm": _Entry(PROMPTS, _vllm),
}


def make_generator(config: TranscriptsConfig, held_out: Sequence[Term]) -> Generator:
    """The generator that the settings choose.

    held_out: terms that no sentence of training or validation may have; a language model may think of one.
    """
    return GENERATORS[config.generator].make(config, held_out)
