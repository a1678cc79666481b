"""Sentences from an OpenAI-compatible server: a vLLM that runs already, or a hosted model."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from pipelines.transcripts.answers import parse_answer
from pipelines.transcripts.chat_server import ChatServer
from pipelines.transcripts.config import TranscriptsConfig
from pipelines.transcripts.generator import Draft, Generator, Step
from pipelines.transcripts.styles import prompt_sets, style_contents
from pipelines.transcripts.write import chosen
from rayapp.execution import Group
from rayapp.records import Slot, Term, Utterance
from rayapp.stage import BatchStage, Resources


class OpenAIGenerator(Generator):
    """Has a server write the sentences."""

    def __init__(self, config: TranscriptsConfig, held_out: Sequence[Term]) -> None:
        """held_out: terms that no sentence of training or validation may have."""
        self.config, self.held_out = config, held_out

    def check(self) -> None:
        """Raises `UserError` where the server cannot be reached, refuses the key or lacks the model."""
        ChatServer(self.config.openai).check()

    def steps(self) -> list[Step]:
        return [Group([partial(AskForTranscript, self.config, self.held_out)])]  # waits while others speak

    def identity(self) -> list[str]:
        # No server tells which weights it has loaded: the address and the model's name are all that is known of the
        # model, and both are settings.
        return style_contents(self.config)


class AskForTranscript(BatchStage):
    """Asks a server for sentences, and takes the first that passes the checks and belongs to the slot's split.

    Several slots at a time. The seed of a request comes from its slot: a server that keeps to seeds writes the same
    again.
    """

    name = "transcript"
    version = 3
    resources = Resources(cpus=0.0)  # it waits

    def __init__(self, config: TranscriptsConfig, held_out: Sequence[Term]) -> None:
        """held_out: terms that no sentence of training or validation may have."""
        self.config, self.held_out = config, held_out
        self.batch_size = config.openai.concurrency * 2
        self.styles = prompt_sets(config)
        self.server = ChatServer(config.openai)

    def on_batch(self, utterances: Sequence[Utterance]) -> list[Utterance | Exception]:
        written = self.drafts([utterance.slot for utterance in utterances])
        return [
            chosen(utterance, drafts, self.config, self.held_out)
            for utterance, drafts in zip(utterances, written, strict=True)
        ]

    def drafts(self, slots: Sequence[Slot]) -> list[Sequence[Draft] | Exception]:
        """For each slot its candidates; a `RejectedError` where the server gave none."""
        with ThreadPoolExecutor(self.config.openai.concurrency) as pool:
            return list(pool.map(self._drafts, slots))

    def _drafts(self, slot: Slot) -> Sequence[Draft] | Exception:
        settings = self.config.openai
        try:
            style, seed = self.styles[slot.style], int(slot.rng("llm").integers(2**31))
            messages, schema = style.messages(slot, settings.candidates), style.schema(settings.candidates)
            return parse_answer(self.server.ask(messages, schema, seed, settings.temperature), style.roles)
        except Exception as error:  # one slot's: the others have theirs
            return error
