"""What a client gets: a transcript as JSON, or events as it comes. Subtitles are in `rayapp.asr.subtitles`."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rayapp.asr.recogniser import Word
from rayapp.asr.subtitles import cues, text_of

_LEAST_PROBABILITY = 1e-9


@dataclass(frozen=True)
class Transcript:
    """What was heard in a request."""

    text: str
    words: Sequence[Word]
    seconds: float
    """Of the audio, silence included."""
    language: str

    @property
    def usage(self) -> dict[str, Any]:
        return {"type": "duration", "seconds": round(self.seconds, 3)}


def as_json(told: Transcript, logprobs: bool) -> dict[str, Any]:
    answer: dict[str, Any] = {"text": told.text, "usage": told.usage}
    if logprobs:
        answer["logprobs"] = word_logprobs(told.words)
    return answer


def as_verbose_json(
    told: Transcript, granularities: Sequence[str], temperature: float, uncertain_below: float
) -> dict[str, Any]:
    """`confidence` and `uncertain` of a word are ours; clients that do not know them pass over them."""
    answer: dict[str, Any] = {
        "task": "transcribe",
        "language": told.language,
        "duration": round(told.seconds, 3),
        "text": told.text,
        "usage": told.usage,
    }
    if "segment" in granularities or not granularities:
        answer["segments"] = [_segment(n, cue, temperature) for n, cue in enumerate(cues(told.words))]
    if "word" in granularities:
        answer["words"] = [_word(word, uncertain_below) for word in told.words]
    return answer


def event(kind: str, **values: Any) -> str:
    """A server-sent event of OpenAI's transcription streams."""
    return f"data: {json.dumps({'type': kind, **values}, ensure_ascii=False)}\n\n"


def word_logprobs(words: Sequence[Word]) -> list[dict[str, Any]]:
    """Words stand for tokens: a recogniser's own tokens say nothing to a client."""
    return [
        {"token": word.text, "bytes": list(word.text.encode()), "logprob": _logprob(word)}
        for word in words
        if word.confidence is not None
    ]


def _segment(number: int, cue: Sequence[Word], temperature: float) -> Mapping[str, Any]:
    text = text_of(cue)
    sure = [_logprob(word) for word in cue if word.confidence is not None]
    return {
        "id": number,
        "seek": round(cue[0].start_seconds * 100),
        "start": round(cue[0].start_seconds, 3),
        "end": round(cue[-1].end_seconds, 3),
        "text": text,
        "tokens": [],
        "temperature": temperature,
        "avg_logprob": sum(sure) / len(sure) if sure else 0.0,
        "compression_ratio": len(text.encode()) / len(zlib.compress(text.encode())),
        "no_speech_prob": 0.0,  # where nobody speaks, nothing is listened to
    }


def _word(word: Word, uncertain_below: float) -> dict[str, Any]:
    told: dict[str, Any] = {
        "word": word.text,
        "start": round(word.start_seconds, 3),
        "end": round(word.end_seconds, 3),
    }
    if word.confidence is not None:
        told |= {"confidence": round(word.confidence, 3), "uncertain": word.confidence < uncertain_below}
    return told


def _logprob(word: Word) -> float:
    return math.log(max(word.confidence or 0.0, _LEAST_PROBABILITY))
