"""Which styles a run has: those of its generator that its settings name."""

from __future__ import annotations

from pipelines.transcripts.config import TranscriptsConfig
from pipelines.transcripts.generator import Style
from pipelines.transcripts.generators import GENERATORS
from pipelines.transcripts.library import StyleLibrary
from pipelines.transcripts.prompts import PromptSet
from rayapp.errors import UserError


def term_styles(config: TranscriptsConfig) -> list[tuple[Style, float]]:
    """The styles of the sentences around terms, with their weights."""
    weights = config.styles or {_library(config).around_terms: 1.0}
    return [(open_style(config, name), weight) for name, weight in weights.items() if weight]


def everyday_style(config: TranscriptsConfig) -> Style:
    """Raises `UserError` for a style whose sentences have terms."""
    without_terms = _library(config).everyday
    style = open_style(config, config.everyday or without_terms)
    if any(pattern.category for pattern in style.patterns.values()):
        raise UserError(f"transcripts.everyday: the sentences of {style.name} have terms; {without_terms} has none")
    return style


def all_styles(config: TranscriptsConfig) -> list[Style]:
    return [*(style for style, _ in term_styles(config)), everyday_style(config)]


def prompt_sets(config: TranscriptsConfig) -> dict[str, PromptSet]:
    """Those styles that a language model is asked for."""
    return {style.name: style for style in all_styles(config) if isinstance(style, PromptSet)}


def style_contents(config: TranscriptsConfig) -> list[str]:
    """What the styles hold, for the identity of the generator that writes in them."""
    return [repr(style) for style in all_styles(config)]


def open_style(config: TranscriptsConfig, name: str) -> Style:
    """Raises `UserError` for a style that the generator does not have."""
    return _library(config).open(name, config)


def _library(config: TranscriptsConfig) -> StyleLibrary:
    return GENERATORS[config.generator].library
