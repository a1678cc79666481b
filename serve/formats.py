"""What a client gets: a transcript as JSON, text, subtitles, or events as it comes."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rayapp.asr.recogniser import Word

_LONGEST_CUE_SECONDS = 6.0
_LONGEST_CUE_CHARACTERS = 84
"""Two lines of a subtitle, as broadcasters have them."""
_PAUSE_SECONDS = 0.8
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


def as_srt(told: Transcript) -> str:
    """SubRip."""
    return "\n".join(
        f"{number}\n{_clock(cue[0].start_seconds, ',')} --> {_clock(cue[-1].end_seconds, ',')}\n{_text(cue)}\n"
        for number, cue in enumerate(cues(told.words), start=1)
    )


def as_vtt(told: Transcript) -> str:
    """WebVTT."""
    return "WEBVTT\n\n" + "\n".join(
        f"{_clock(cue[0].start_seconds, '.')} --> {_clock(cue[-1].end_seconds, '.')}\n{_escaped(_text(cue))}\n"
        for cue in cues(told.words)
    )


def event(kind: str, **values: Any) -> str:
    """A server-sent event of OpenAI's transcription streams."""
    return f"data: {json.dumps({'type': kind, **values}, ensure_ascii=False)}\n\n"


def cues(words: Sequence[Word]) -> Iterator[list[Word]]:
    """Words that are shown together: to the end of a sentence, to a pause, or as many as fit."""
    cue: list[Word] = []
    for word in words:
        if cue and (
            cue[-1].text[-1:] in ".?!。？！"
            or word.start_seconds - cue[-1].end_seconds > _PAUSE_SECONDS
            or word.end_seconds - cue[0].start_seconds > _LONGEST_CUE_SECONDS
            or len(_text([*cue, word])) > _LONGEST_CUE_CHARACTERS
        ):
            yield cue
            cue = []
        cue.append(word)
    if cue:
        yield cue


def word_logprobs(words: Sequence[Word]) -> list[dict[str, Any]]:
    """Words stand for tokens: a recogniser's own tokens say nothing to a client."""
    return [
        {"token": word.text, "bytes": list(word.text.encode()), "logprob": _logprob(word)}
        for word in words
        if word.confidence is not None
    ]


def _segment(number: int, cue: Sequence[Word], temperature: float) -> Mapping[str, Any]:
    text = _text(cue)
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


def _text(cue: Sequence[Word]) -> str:
    return " ".join(word.text for word in cue)


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _clock(seconds: float, mark: str) -> str:
    """
    >>> _clock(3723.5, ",")
    '01:02:03,500'
    """
    whole, thousandths = divmod(round(seconds * 1000), 1000)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}{mark}{thousandths:03d}"
