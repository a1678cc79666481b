"""Audio of any length, heard in pieces: cut where nobody speaks, joined so that no word is lost or doubled."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rayapp.asr.batching import transcribe_all
from rayapp.asr.recogniser import Heard, Recogniser, Word
from rayapp.audio.speech_activity import FRAME, FRAME_SECONDS, SpeechActivity
from rayapp.records import SAMPLE_RATE_HZ, Audio

_BLOCK = 64 * FRAME
"""Samples that the detector is given at a time, about 2 s."""
_GLANCE = 16 * FRAME
"""Samples that it is given at a time where all that matters is whether anybody speaks: about half a second."""
_SHORTEST_SPEECH = 5
"""Frames in a row; clicks and hums have up to 4, the shortest words at least 7."""
_FAINT_SPEECH = 15
"""Frames in all, of speech that the detector hears in shreds."""
_SHORTEST_GAP = 5
"""Frames; a shorter silence may be the closure of a stop consonant."""
_SAME_WORD_SECONDS = 0.5
"""Two pieces may differ by so much on when a word was said."""


class Piece(NamedTuple):
    """A stretch of a longer audio in which somebody speaks."""

    start_seconds: float
    """In the whole audio."""
    audio: Audio
    shared_before: float = 0.0
    """So many seconds at its start are the end of the piece before: there was no silence to cut in."""
    shared_after: float = 0.0
    """So many at its end are the start of the next."""


@dataclasses.dataclass(frozen=True)
class Cutting:
    """Where pieces end."""

    max_seconds: float = 30.0
    """Longest piece, the silence around it included."""
    threshold: float = 0.5
    """Somebody speaks where that is this likely."""
    silence_seconds: float = 1.0
    """A silence as long as this ends a piece."""
    padding_seconds: float = 0.3
    """So much of the silence stays on both sides."""
    overlap_seconds: float = 2.0
    """Of pieces that no silence parts."""
    short_stays_whole: bool = True
    """Audio that is no longer than a piece is heard as it is, as it was in evaluation, if anybody speaks in it."""


def pieces(blocks: Iterable[Audio], cutting: Cutting) -> Iterator[Piece]:
    """Where somebody speaks in a stream of mono blocks at 16 kHz; silence and noise give none.

    No more is held than the longest piece and some seconds.
    """
    return (piece for piece in pieces_in_turns(blocks, cutting) if piece is not None)


def pieces_in_turns(blocks: Iterable[Audio], cutting: Cutting) -> Iterator[Piece | None]:
    """`pieces`, with a None after each two seconds of audio, so that others can have their turn."""
    following, held, longest = _even(blocks), list[Audio](), cutting.max_seconds * SAMPLE_RATE_HZ
    if cutting.short_stays_whole:
        for block in following:
            held.append(block)
            if sum(map(len, held)) > longest:
                break
            yield None
        else:
            yield from _undivided(held, cutting)
            return
    cutter, activity = _Cutter(cutting), SpeechActivity()
    for block in chain(held, following):
        yield from cutter.add(block, activity.probabilities(block) >= cutting.threshold)
        yield None
    yield from cutter.end()


def _undivided(blocks: Sequence[Audio], cutting: Cutting) -> Iterator[Piece | None]:
    """All of it, as soon as somebody is found to speak."""
    cutter, activity = _Cutter(cutting), SpeechActivity()
    for glance in (block[at : at + _GLANCE] for block in blocks for at in range(0, len(block), _GLANCE)):
        if any(cutter.add(glance, activity.probabilities(glance) >= cutting.threshold)) or cutter.hears_speech:
            yield Piece(0.0, np.concatenate(blocks))
            return
        yield None


def _even(blocks: Iterable[Audio]) -> Iterator[Audio]:
    """The same in blocks of `_BLOCK` samples; the last one has what is left."""
    held, there = list[Audio](), 0
    for block in blocks:
        held.append(block)
        there += len(block)
        if there >= _BLOCK:
            whole = np.concatenate(held)
            end = there - there % _BLOCK
            yield from (whole[at : at + _BLOCK] for at in range(0, end, _BLOCK))
            held, there = [whole[end:]], there - end
    if there:
        yield np.concatenate(held)


class _Cutter:
    """Holds what was not cut off yet, with a mark for each frame in which somebody speaks."""

    def __init__(self, cutting: Cutting) -> None:
        lengths = (cutting.max_seconds, cutting.silence_seconds, cutting.padding_seconds, cutting.overlap_seconds)
        self.longest, self.silence, self.padding, self.shared = (int(s / FRAME_SECONDS) for s in lengths)
        self.audio: Audio = np.zeros(0, np.float32)
        self.speech: NDArray[np.bool_] = np.zeros(0, bool)
        self.start = 0
        """Frame of the whole audio with which `audio` starts."""
        self.overlap = 0
        """So many frames at its start were in the piece before."""

    def add(self, audio: Audio, speech: NDArray[np.bool_]) -> Iterator[Piece]:
        self.audio = np.concatenate([self.audio, audio])
        self.speech = np.concatenate([self.speech, speech])
        while (cut := self._cut()) is not None:
            end, following = cut
            yield from self._piece(end, end - following)
            self._drop(following)
            self.overlap = end - following
        if not self.speech.any():  # only what may be the padding of what comes
            self._drop(max(len(self.speech) - self.padding, 0))
            self.overlap = 0

    def end(self) -> Iterator[Piece]:
        yield from self._piece(len(self.speech), 0)

    def _cut(self) -> tuple[int, int] | None:
        """Where the piece ends and where the next one starts, in frames; None where more must come first."""
        spoken = np.flatnonzero(self.speech)
        if not len(spoken):
            return None
        first = self._first(spoken)
        gaps = np.flatnonzero(np.diff(spoken) > self.silence)
        last = int(spoken[gaps[0]] if len(gaps) else spoken[-1])
        ends = bool(len(gaps)) or len(self.speech) - 1 - last > self.silence
        if ends and last + 1 - first <= self.longest:
            following = int(spoken[gaps[0] + 1]) if len(gaps) else len(self.speech)
            end = min(last + 1 + self.padding, first + self.longest, (last + 1 + following) // 2)
            return end, end
        return self._forced(first) if len(self.speech) - first > self.longest else None

    def _forced(self, first: int) -> tuple[int, int]:
        """In the middle of the longest silence of the second half, or with an overlap where there is none."""
        half, limit = first + self.longest // 2, first + self.longest
        silent = np.flatnonzero(~self.speech[half:limit]) + half
        run = max(_runs(silent), key=len)
        if len(run) >= _SHORTEST_GAP:
            middle = int(run[0] + run[-1] + 1) // 2
            return middle, middle
        return limit, limit - self.shared

    def _first(self, spoken: NDArray[np.intp]) -> int:
        return 0 if self.overlap else max(int(spoken[0]) - self.padding, 0)

    @property
    def hears_speech(self) -> bool:
        """Whether somebody speaks in what was not cut off yet."""
        return not _is_click(np.flatnonzero(self.speech))

    def _piece(self, end: int, shared: int) -> Iterator[Piece]:
        spoken = np.flatnonzero(self.speech[:end])
        if not len(spoken) or spoken[-1] < self.overlap:
            return
        if _is_click(spoken) and not self.overlap and not shared:
            return
        first, last = self._first(spoken), min(int(spoken[-1]) + 1 + self.padding, end)
        yield Piece(
            (self.start + first) * FRAME_SECONDS,
            self.audio[first * FRAME : last * FRAME].copy(),
            self.overlap * FRAME_SECONDS,
            shared * FRAME_SECONDS,
        )

    def _drop(self, frames: int) -> None:
        self.audio, self.speech = self.audio[frames * FRAME :], self.speech[frames:]
        self.start += frames


def _is_click(spoken: NDArray[np.intp]) -> bool:
    return len(spoken) < _FAINT_SPEECH and max(map(len, _runs(spoken))) < _SHORTEST_SPEECH


def _runs(frames: NDArray[np.intp]) -> list[NDArray[np.intp]]:
    """Ascending numbers, parted where one is left out."""
    return np.split(frames, np.flatnonzero(np.diff(frames) > 1) + 1)


def hear_whole(recogniser: Recogniser, audio: Sequence[Audio], cutting: Cutting) -> list[Heard]:
    """One `Heard` per audio of any length, with times; the pieces of all are batched together."""
    cut = [(number, piece) for number, samples in enumerate(audio) for piece in pieces([samples], cutting)]
    heard = transcribe_all(recogniser, [piece.audio for _, piece in cut], times=True)
    parts: list[list[Heard]] = [[] for _ in audio]
    joiners = [Joiner() for _ in audio]
    for (number, piece), told in zip(cut, heard, strict=True):
        parts[number].append(joiners[number].add(piece, told))
    return [whole([*of, joiner.end()]) for joiner, of in zip(joiners, parts, strict=True)]


def whole(parts: Iterable[Heard]) -> Heard:
    """What a `Joiner` told, as one."""
    told = list(parts)
    return Heard(" ".join(part.text for part in told if part.text), tuple(word for part in told for word in part.words))


class Joiner:
    """Joins what was heard in the pieces of one audio, in their order.

    Where two pieces share a stretch, they are joined at a word that both have, or else in the middle of it.
    """

    def __init__(self) -> None:
        self._held: tuple[Word, ...] = ()
        """What the piece before has in the stretch that it shares with the next."""

    def add(self, piece: Piece, heard: Heard) -> Heard:
        """What is certain now, with times in the whole audio.

        Where a recogniser tells no words, their times are guessed, evenly over the piece.
        """
        seconds = len(piece.audio) / SAMPLE_RATE_HZ
        words = [_later(word, piece.start_seconds) for word in heard.words or _guessed(heard.text, seconds)]
        if not (piece.shared_before or piece.shared_after or self._held):
            return Heard(heard.text, tuple(words))
        middle = piece.start_seconds + piece.shared_before / 2
        words = _joined(self._held, words, middle) if piece.shared_before else [*self._held, *words]
        ends = piece.start_seconds + seconds
        certain = [word for word in words if not piece.shared_after or _middle(word) < ends - piece.shared_after]
        self._held = tuple(words[len(certain) :])
        return Heard(" ".join(word.text for word in certain), tuple(certain))

    def end(self) -> Heard:
        """What was held back for a piece that did not come."""
        held, self._held = self._held, ()
        return Heard(" ".join(word.text for word in held), held)


def _joined(left: Sequence[Word], right: Sequence[Word], middle: float) -> list[Word]:
    """Two accounts of the same stretch, and of what follows it."""
    same = [
        (abs(_middle(a) - middle), abs(_middle(a) - _middle(b)), i, j)
        for i, a in enumerate(left)
        for j, b in enumerate(right)
        if a.text.casefold() == b.text.casefold() and abs(_middle(a) - _middle(b)) < _SAME_WORD_SECONDS
    ]
    if same:
        *_, i, j = min(same)
        return [*left[: i + 1], *right[j + 1 :]]
    return [*(word for word in left if _middle(word) < middle), *(word for word in right if _middle(word) >= middle)]


def _guessed(text: str, seconds: float) -> list[Word]:
    said = text.split()
    each = seconds / max(len(said), 1)
    return [Word(word, number * each, (number + 1) * each) for number, word in enumerate(said)]


def _middle(word: Word) -> float:
    return (word.start_seconds + word.end_seconds) / 2


def _later(word: Word, seconds: float) -> Word:
    return dataclasses.replace(word, start_seconds=word.start_seconds + seconds, end_seconds=word.end_seconds + seconds)
