"""The embedded grammar as a generator: needs neither a model nor a server."""

from __future__ import annotations

from functools import partial

from pipelines.transcripts.config import TranscriptsConfig
from pipelines.transcripts.generator import Generator, Step
from pipelines.transcripts.styles import style_contents
from pipelines.transcripts.write import WriteTranscript


class GrammarGenerator(Generator):
    """Draws sentences of the packaged grammars."""

    def __init__(self, config: TranscriptsConfig) -> None:
        self.config = config

    def check(self) -> None:
        """Its styles are packaged, and were opened for the plan."""

    def steps(self) -> list[Step]:
        return [partial(WriteTranscript, self.config)]

    def identity(self) -> list[str]:
        return style_contents(self.config)
