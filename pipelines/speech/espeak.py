"""espeak-ng through its C library: speech with no model to download, some 300 times faster than real time.

The library keeps state in static variables that no call resets: the tremor of a voice goes on where
the last utterance left it, so the same sentence sounds a little different each time. It is therefore
loaded anew for every utterance, which costs 1 ms and makes speech depend on its slot alone.
"""

from __future__ import annotations

import _ctypes
import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import espeakng_loader
import numpy as np
import soxr

from rayapp.records import SAMPLE_RATE_HZ, Audio

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SYNCHRONOUS = 2  # espeak_AUDIO_OUTPUT: deliver samples to the callback, play nothing
_UTF8 = 1
_IPA = 2
_RATE, _PITCH = 1, 3  # espeak_PARAMETER
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
_DATA = Path(espeakng_loader.get_data_path())


def speak(text: str, voice: str, *, rate_wpm: int, pitch: int) -> Audio:
    """Speak a text; empty where there is nothing to say.

    voice: `accent+speaker`, such as `en-us+m3`. pitch: 0–99; 50 is the voice's own.
    Raises `ValueError` for a voice that espeak-ng does not have.

    >>> audio = speak("take losartan", "en-us+m3", rate_wpm=160, pitch=50)
    >>> 0.5 < len(audio) / SAMPLE_RATE_HZ < 3
    True
    """
    chunks: list[NDArray[np.int16]] = []

    def receive(samples: ctypes._Pointer[ctypes.c_short], count: int, _events: int) -> int:
        if samples and count > 0:
            chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    with _library(voice) as (library, rate_hz):
        callback = _CALLBACK(receive)  # kept in a variable, or it would be collected while C still calls it
        library.espeak_SetSynthCallback(callback)
        library.espeak_SetParameter(_RATE, rate_wpm, 0)
        library.espeak_SetParameter(_PITCH, pitch, 0)
        encoded = text.encode()
        library.espeak_Synth(encoded, len(encoded) + 1, 0, 0, 0, _UTF8, None, None)
    if not chunks:
        return np.zeros(0, np.float32)
    speech = np.concatenate(chunks).astype(np.float32) / 32768
    resampled: Audio = soxr.resample(speech, rate_hz, SAMPLE_RATE_HZ)
    return resampled


def phonemes(text: str, voice: str = "en-us") -> str:
    """How the text is pronounced, in IPA; empty where there is nothing to say."""
    with _library(voice) as (library, _):
        library.espeak_TextToPhonemes.restype = ctypes.c_char_p
        rest = ctypes.c_char_p(text.encode())
        parts = []
        while rest.value:
            parts.append(library.espeak_TextToPhonemes(ctypes.byref(rest), _UTF8, _IPA))
        return b" ".join(part for part in parts if part).decode().strip()


def has_voice(voice: str) -> bool:
    """Whether espeak-ng has the accent and the speaker; itself it takes an unknown speaker for none."""
    _, _, speaker = voice.partition("+")
    if speaker and not (_DATA / "voices" / "!v" / speaker).is_file():
        return False
    try:
        with _library(voice):
            return True
    except ValueError:
        return False


@contextmanager
def _library(voice: str) -> Iterator[tuple[ctypes.CDLL, int]]:
    """The library, fresh, with a voice set, and its sample rate in Hz."""
    library = ctypes.CDLL(espeakng_loader.get_library_path())
    try:
        rate_hz = library.espeak_Initialize(_SYNCHRONOUS, 0, str(_DATA).encode(), 0)
        if rate_hz <= 0:
            raise RuntimeError(f"espeak-ng did not start with its data in {_DATA}")
        if library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise ValueError(f"espeak-ng has no voice {voice!r}; a voice is accent+speaker, such as en-us+m3")
        yield library, rate_hz
    finally:
        library.espeak_Terminate()
        _ctypes.dlclose(library._handle)
