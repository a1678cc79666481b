"""Which styles there are: the grammar's, and those that a language model is prompted with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files

from pipelines.transcripts.config import TranscriptsConfig
from pipelines.transcripts.generator import Style
from pipelines.transcripts.grammar import load_grammar
from pipelines.transcripts.prompts import load_prompts
from rayapp.errors import UserError


@dataclass(frozen=True)
class StyleLibrary:
    """Styles of one kind, each a file of a folder."""

    folder: str
    around_terms: str
    """The style of the sentences around terms, where the settings name none."""
    everyday: str
    """The style of those without terms."""
    load: Callable[[str, TranscriptsConfig], Style]

    def open(self, name: str, config: TranscriptsConfig) -> Style:
        """Raises `UserError` for a style that is not in the folder."""
        known = sorted(
            path.name.removesuffix(".yaml")
            for path in (files("pipelines.transcripts") / self.folder).iterdir()
            if path.name.endswith(".yaml")
        )
        if name not in known:
            raise UserError(
                f"transcripts: generator {config.generator} has no style {name!r}; it has {', '.join(known)}"
            )
        return self.load(name, config)


GRAMMARS = StyleLibrary(
    "grammar",
    "clinical_en",
    "everyday_en",
    lambda name, config: load_grammar(name, config.max_patterns, config.max_alternatives),
)
PROMPTS = StyleLibrary("prompts", "dictation_en", "everyday_en", lambda name, config: load_prompts(name))
