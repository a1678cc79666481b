"""Sentences from an OpenAI-compatible server: a vLLM that runs already, or a hosted model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from pipelines.transcripts.answers import parse_answer
from pipelines.transcripts.chat_server import ChatServer
from pipelines.transcripts.config import OpenAIConfig
from pipelines.transcripts.generator import Draft
from pipelines.transcripts.prompts import PromptSet
from rayapp.records import Slot


class OpenAIGenerator:
    """Asks a server for each slot's candidates, several slots at a time.

    The seed of a request comes from its slot: a server that keeps to seeds writes the same again.
    """

    def __init__(self, config: OpenAIConfig, styles: Mapping[str, PromptSet]) -> None:
        self.config, self.styles = config, styles
        self.server = ChatServer(config)

    def check(self) -> None:
        """Raises `UserError` where the server cannot be reached, refuses the key or lacks the model."""
        self.server.check()

    def drafts(self, slots: Sequence[Slot]) -> list[Sequence[Draft] | Exception]:
        """For each slot its candidates; a `RejectedError` where the server gave none."""
        with ThreadPoolExecutor(self.config.concurrency) as pool:
            return list(pool.map(self._drafts, slots))

    def _drafts(self, slot: Slot) -> Sequence[Draft] | Exception:
        style, candidates = self.styles[slot.style], self.config.candidates
        seed = int(slot.rng("llm").integers(2**31))
        try:
            answer = self.server.ask(
                style.messages(slot, candidates), style.schema(candidates), seed, self.config.temperature
            )
            return parse_answer(answer, style.roles)
        except Exception as error:  # one slot's: the others have theirs
            return error
