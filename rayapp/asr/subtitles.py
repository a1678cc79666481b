"""Words with times as subtitles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rayapp.asr.recogniser import Word

_LONGEST_CUE_SECONDS = 6.0
_LONGEST_CUE_CHARACTERS = 84
"""Two lines of a subtitle, as broadcasters have them."""
_PAUSE_SECONDS = 0.8


def as_srt(words: Sequence[Word]) -> str:
    """SubRip."""
    return "\n".join(
        f"{number}\n{_clock(cue[0].start_seconds, ',')} --> {_clock(cue[-1].end_seconds, ',')}\n{text_of(cue)}\n"
        for number, cue in enumerate(cues(words), start=1)
    )


def as_vtt(words: Sequence[Word]) -> str:
    """WebVTT."""
    return "WEBVTT\n\n" + "\n".join(
        f"{_clock(cue[0].start_seconds, '.')} --> {_clock(cue[-1].end_seconds, '.')}\n{_escaped(text_of(cue))}\n"
        for cue in cues(words)
    )


def cues(words: Sequence[Word]) -> Iterator[list[Word]]:
    """Words that are shown together: to the end of a sentence, to a pause, or as many as fit."""
    cue: list[Word] = []
    for word in words:
        if cue and (
            cue[-1].text[-1:] in ".?!。？！"
            or word.start_seconds - cue[-1].end_seconds > _PAUSE_SECONDS
            or word.end_seconds - cue[0].start_seconds > _LONGEST_CUE_SECONDS
            or len(text_of([*cue, word])) > _LONGEST_CUE_CHARACTERS
        ):
            yield cue
            cue = []
        cue.append(word)
    if cue:
        yield cue


def text_of(cue: Sequence[Word]) -> str:
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
