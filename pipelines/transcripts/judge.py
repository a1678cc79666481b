"""A language model that scores what another wrote, and the stage that sets aside what nobody would say."""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from pipelines.transcripts.chat_server import ChatServer
from pipelines.transcripts.config import JudgeConfig, OpenAIConfig
from pipelines.transcripts.generator import Draft
from rayapp.errors import RejectedError
from rayapp.records import Slot, Transcript, Utterance
from rayapp.stage import BatchStage, Resources

_RUBRIC = """\
You judge sentences that will be spoken to train a medical speech recogniser. Score the text from 1 to 5:
5: a clinician or patient could have said exactly this; the term is used rightly.
4: natural, with a small oddity.
3: understandable and plausible, but stilted.
2: the term is used wrongly, or the facts cannot be.
1: nonsense, not a sentence, or about the task itself.
Answer with JSON alone, in this form: {"score": 4}"""
_SCHEMA = {
    "type": "object",
    "properties": {"score": {"type": "integer", "enum": [1, 2, 3, 4, 5]}},
    "required": ["score"],
    "additionalProperties": False,
}
_SCORE = re.compile(r'"score"\s*:\s*([1-5])\b(?!\.\d)')


class JudgeTranscript(BatchStage):
    """Sets aside what a language model finds unlikely to be said."""

    name = "judge"
    version = 1
    resources = Resources(cpus=0.0)  # it waits
    batch_size = 16

    def __init__(self, config: JudgeConfig) -> None:
        self.min_score = config.min_score
        self.judge = Judge(config)

    def on_batch(self, utterances: Sequence[Utterance]) -> list[Utterance | Exception]:
        scores = self.judge.scores([(u.slot, _draft(u.transcript)) for u in utterances if u.transcript])
        return [self._outcome(u, score) for u, score in zip(utterances, scores, strict=True)]

    def _outcome(self, utterance: Utterance, score: int | Exception) -> Utterance | Exception:
        if isinstance(score, Exception) or score >= self.min_score:
            return score if isinstance(score, Exception) else utterance
        return RejectedError(f"scored {score}, below {self.min_score}")


def _draft(transcript: Transcript) -> Draft:
    turns = tuple((span.role, span.text) for span in transcript.spans if span.role)
    return Draft(transcript.text, turns)


class Judge:
    """Asks an OpenAI-compatible server what drafts are worth."""

    def __init__(self, config: JudgeConfig) -> None:
        server = {name: getattr(config, name) for name in ("base_url", "model", "api_key_variable")}
        self.server = ChatServer(OpenAIConfig(**server))

    def check(self) -> None:
        """Raises `UserError` where the server cannot be reached, refuses the key or lacks the model."""
        self.server.check()

    def scores(self, written: Sequence[tuple[Slot, Draft]]) -> list[int | Exception]:
        """For each draft 1 to 5, 5 being best, or a `RejectedError` where the judge gave no score."""
        with ThreadPoolExecutor(self.server.config.concurrency) as pool:
            return list(pool.map(lambda entry: self._score(*entry), written))

    def _score(self, slot: Slot, draft: Draft) -> int | Exception:
        try:
            return self._asked(slot, draft)
        except Exception as error:  # one draft's: the others have their scores
            return error

    def _asked(self, slot: Slot, draft: Draft) -> int:
        term = f'"{slot.term.text}" ({slot.term.category})' if slot.term else "none; everyday speech"
        said = "\n".join(f"{role}: {text}" for role, text in draft.turns) or draft.written
        messages = [
            {"role": "system", "content": _RUBRIC},
            {"role": "user", "content": f"Term: {term}\nText: {said}"},
        ]
        scores = _SCORE.findall(self.server.ask(messages, _SCHEMA, seed=0, temperature=0.0))
        if not scores:
            raise RejectedError("the judge gave no score from 1 to 5")
        return int(scores[-1])  # the last: reasoning models weigh others before
