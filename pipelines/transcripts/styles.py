"""Which styles there are, and which of them a run has: grammars and prompt sets, by name."""

from __future__ import annotations

from importlib.resources import files

from pipelines.transcripts.config import TranscriptsConfig
from pipelines.transcripts.generator import Style
from pipelines.transcripts.grammar import load_grammar
from pipelines.transcripts.prompts import PromptSet, load_prompts
from rayapp.errors import UserError

_DEFAULTS = {"grammar": ("clinical_en", "everyday_en"), "openai": ("dictation_en", "everyday_en")}
"""Of each generator: the style of the sentences around terms, and of those without."""
_FOLDERS = {"grammar": "grammar", "openai": "prompts", "vllm": "prompts"}


def term_styles(config: TranscriptsConfig) -> list[tuple[Style, float]]:
    """The styles of the sentences around terms, with their weights."""
    weights = config.styles or {_defaults(config)[0]: 1.0}
    return [(open_style(config, name), weight) for name, weight in weights.items() if weight]


def everyday_style(config: TranscriptsConfig) -> Style:
    """Raises `UserError` for a style whose sentences have terms."""
    style = open_style(config, config.everyday or _defaults(config)[1])
    if any(pattern.category for pattern in style.patterns.values()):
        raise UserError(
            f"transcripts.everyday: the sentences of {style.name} have terms; {_defaults(config)[1]} has none"
        )
    return style


def all_styles(config: TranscriptsConfig) -> list[Style]:
    return [*(style for style, _ in term_styles(config)), everyday_style(config)]


def prompt_sets(config: TranscriptsConfig) -> dict[str, PromptSet]:
    """Those styles that a language model is asked for."""
    return {style.name: style for style in all_styles(config) if isinstance(style, PromptSet)}


def open_style(config: TranscriptsConfig, name: str) -> Style:
    """Raises `UserError` for a style that the generator does not have."""
    folder = _FOLDERS[config.generator]
    known = sorted(
        path.name.removesuffix(".yaml")
        for path in (files("pipelines.transcripts") / folder).iterdir()
        if path.name.endswith(".yaml")
    )
    if name not in known:
        raise UserError(f"transcripts: generator {config.generator} has no style {name!r}; it has {', '.join(known)}")
    if folder == "grammar":
        return load_grammar(name, config.max_patterns, config.max_alternatives)
    return load_prompts(name)


def _defaults(config: TranscriptsConfig) -> tuple[str, str]:
    return _DEFAULTS["grammar" if config.generator == "grammar" else "openai"]
