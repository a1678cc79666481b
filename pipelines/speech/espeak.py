"""espeak-ng through its C library: speech with no model to download, some 300 times faster than real time.

The library keeps state in static variables that no call resets: the tremor of a voice goes on where
the last utterance left it, so the same sentence sounds a little different each time. It is therefore
loaded anew for every utterance, which costs 1 ms and makes speech depend on its slot alone.

It also tells when each sound starts: what a forced aligner would have to guess is known here.
"""

from __future__ import annotations

import _ctypes
import bisect
import ctypes
import itertools
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import espeakng_loader
import numpy as np
import soxr

from pipelines.speech.engine import Line, Speech
from pipelines.speech.ipa import with_mnemonics
from pipelines.speech.words import WORD
from rayapp.errors import RejectedError, UserError
from rayapp.records import PAUSE, SAMPLE_RATE_HZ, Phoneme, SpokenWord

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SYNCHRONOUS = 2  # espeak_AUDIO_OUTPUT: deliver samples to the callback, play nothing
_UTF8 = 1
_READ_MNEMONICS = 0x100  # a flag of espeak_Synth: [[…]] holds phonemes
_IPA = 2
_RATE, _PITCH = 1, 3  # espeak_PARAMETER
_TELL_PHONEMES = 1  # an option of espeak_Initialize
_LAST_EVENT, _WORD_EVENT, _PHONEME_EVENT = 0, 1, 7  # espeak_EVENT_TYPE
_MARKS = "',%=|"
"""Stress and other marks before the name of a phoneme."""
_NO_SOUND = ";"
"""Tells how the sound before it ends."""


class _Event(ctypes.Structure):
    """espeak_EVENT of speak_lib.h."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position_ms", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("name", ctypes.c_char * 8),
    )


ACCENT_OF = {"en": "en-us", "zh": "cmn", "fr": "fr"}
"""What espeak-ng calls the voice of a language, where that is not the language's own code."""
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))
_DATA = Path(espeakng_loader.get_data_path())


def speak(text: str, voice: str, *, rate_wpm: int, pitch: int) -> Speech:
    """Speak a text; empty where there is nothing to say.

    voice: `accent+speaker`, such as `en-us+m3`. pitch: 0–99; 50 is the voice's own.
    Raises `ValueError` for a voice that espeak-ng does not have.

    >>> speech = speak("take losartan", "en-us+m3", rate_wpm=160, pitch=50)
    >>> 0.5 < len(speech.audio) / SAMPLE_RATE_HZ < 3
    True
    >>> " ".join(phoneme.symbol for phoneme in speech.phonemes)
    't eI k l 0 s A@ t @ n _ _'
    """
    chunks: list[NDArray[np.int16]] = []
    starts: list[tuple[str, int]] = []
    words: list[tuple[int, int]] = []

    def receive(samples: ctypes._Pointer[ctypes.c_short], count: int, events: ctypes._Pointer[_Event]) -> int:
        if samples and count > 0:
            chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        for event in itertools.takewhile(lambda e: e.type != _LAST_EVENT, (events[i] for i in itertools.count())):
            if event.type == _PHONEME_EVENT and event.name.decode() != _NO_SOUND:
                starts.append((event.name.decode(), event.sample))
            elif event.type == _WORD_EVENT:
                words.append((event.text_position - 1, event.sample))
        return 0

    with _library(voice) as (library, rate_hz):
        callback = _CALLBACK(receive)  # kept in a variable, or it would be collected while C still calls it
        library.espeak_SetSynthCallback(callback)
        library.espeak_SetParameter(_RATE, rate_wpm, 0)
        library.espeak_SetParameter(_PITCH, pitch, 0)
        encoded = text.encode()
        library.espeak_Synth(encoded, len(encoded) + 1, 0, 0, 0, _UTF8 | _READ_MNEMONICS, None, None)
    if not chunks:
        return Speech(np.zeros(0, np.float32))
    samples = np.concatenate(chunks).astype(np.float32) / 32768
    phonemes = tuple(Phoneme(_symbol(name), start / rate_hz) for name, start in starts)
    pauses = [phoneme.start_seconds for phoneme in phonemes if phoneme.symbol == PAUSE]
    times = [(position, sample / rate_hz) for position, sample in words]
    return Speech(
        soxr.resample(samples, rate_hz, SAMPLE_RATE_HZ), phonemes, _timed(text, times, pauses, len(samples) / rate_hz)
    )


def _timed(
    text: str, events: Sequence[tuple[int, float]], pauses: Sequence[float], end: float
) -> tuple[SpokenWord, ...]:
    """The words of the text that the library told of; it tells of `140/90` in parts.

    events: position in the text and time in seconds. A word ends where the next one starts, or a pause before that.
    """
    starts: dict[tuple[int, int], float] = {}
    words = [match.span() for match in WORD.finditer(text)]
    for position, seconds in events:
        for word in words[max(bisect.bisect(words, (position, len(text))) - 1, 0) :][:1]:
            starts.setdefault(word, seconds)
    told = [(text[first:last], seconds) for (first, last), seconds in sorted(starts.items())]
    return tuple(
        SpokenWord(word, start, min((p for p in pauses if start < p < following), default=following))
        for (word, start), (_, following) in itertools.pairwise([*told, ("", end)])
    )


def _symbol(name: str) -> str:
    """The phoneme without its marks.

    >>> [_symbol(name) for name in ("'A@", ",eI", "_:", "t#")]
    ['A@', 'eI', '_', 't#']
    """
    bare = name.lstrip(_MARKS)
    return PAUSE if bare.startswith("_") or not bare else bare


def phonemes_of(text: str, voice: str) -> tuple[str, ...]:
    """The symbols of a text's sounds, without pauses, as `speak` tells them.

    >>> phonemes_of("losartan", "en-us+m3")
    ('l', '0', 's', 'A@', 't', '@', 'n')
    """
    said = speak(with_mnemonics(text), voice, rate_wpm=170, pitch=50)
    return tuple(phoneme.symbol for phoneme in said.phonemes if phoneme.symbol != PAUSE)


def ipa(text: str, voice: str = "en-us") -> str:
    """How the text is pronounced, in IPA; empty where there is nothing to say."""
    with _library(voice) as (library, _):
        library.espeak_TextToPhonemes.restype = ctypes.c_char_p
        rest = ctypes.c_char_p(text.encode())
        parts = []
        while rest.value:
            parts.append(library.espeak_TextToPhonemes(ctypes.byref(rest), _UTF8, _IPA))
        return b" ".join(part for part in parts if part).decode().strip()


class EspeakEngine:
    """espeak-ng behind the engine Protocol."""

    name = "espeak"

    def speak(self, lines: Sequence[Line]) -> list[Speech | Exception]:
        return [_spoken(line) for line in lines]

    def check_voices(self, voices: Sequence[str]) -> None:
        unknown = [voice for voice in voices if not has_voice(voice)]
        if unknown:
            some = ", ".join(sorted(path.name for path in (_DATA / "voices" / "!v").iterdir())[:12])
            raise UserError(
                f"espeak-ng has no voice {', '.join(unknown[:5])}; a voice is accent+speaker, such as en-us+m3; "
                f"speakers are {some} and more"
            )

    def check_pronounceable(self, texts: Sequence[str], language: str) -> None:
        silent = [text for text in texts if not _can_say(text, language)]
        if silent:
            raise UserError(
                f"nobody can pronounce {', '.join(map(repr, silent[:5]))}"
                f"{f' and {len(silent) - 5} more' if silent[5:] else ''}: the voice finds nothing to say; "
                "correct the term or give it a pronunciation"
            )


def _spoken(line: Line) -> Speech | Exception:
    voice = line.voice
    try:
        return speak(with_mnemonics(line.text), voice.name, rate_wpm=voice.rate_wpm, pitch=voice.pitch)
    except RejectedError as error:
        return error


_OTHER_SCRIPTS = frozenset({"zh", "ja", "ko", "th", "ru", "uk", "el", "he", "ar", "hi"})
"""Languages that are written in other letters: theirs are not asked to be Latin."""


def _can_say(text: str, language: str) -> bool:
    """espeak-ng reads out the names of signs and of other scripts' letters: that is no pronunciation."""
    try:
        said = with_mnemonics(text)
    except RejectedError:
        return False
    if said != text:
        return True
    letters = [c for c in text if c.isalnum()]
    latin = all(c.isdigit() or unicodedata.name(c, "").startswith("LATIN") for c in letters)
    return (
        bool(letters) and (latin or language in _OTHER_SCRIPTS) and bool(ipa(text, ACCENT_OF.get(language, language)))
    )


def has_voice(voice: str) -> bool:
    """Whether espeak-ng has the accent and the speaker; itself it takes an unknown speaker for none."""
    accent, _, speaker = voice.partition("+")
    return (not speaker or (_DATA / "voices" / "!v" / speaker).is_file()) and _has_accent(accent)


@cache
def _has_accent(accent: str) -> bool:
    """Asked once: the library takes milliseconds to start, and hundreds of voices share some twenty accents."""
    try:
        with _library(accent):
            return True
    except ValueError:
        return False


@contextmanager
def _library(voice: str) -> Iterator[tuple[ctypes.CDLL, int]]:
    """The library, fresh, with a voice set, and its sample rate in Hz."""
    library = ctypes.CDLL(espeakng_loader.get_library_path())
    try:
        rate_hz = library.espeak_Initialize(_SYNCHRONOUS, 0, str(_DATA).encode(), _TELL_PHONEMES)
        if rate_hz <= 0:
            raise RuntimeError(f"espeak-ng did not start with its data in {_DATA}")
        if library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise ValueError(f"espeak-ng has no voice {voice!r}; a voice is accent+speaker, such as en-us+m3")
        yield library, rate_hz
    finally:
        library.espeak_Terminate()
        _ctypes.dlclose(library._handle)
