"""espeak-ng through its C library: speech with no model to download, some 500 times faster than real time.

The library keeps its state in globals: one engine a process. `espeakng-loader` ships it with its data.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import TYPE_CHECKING

import espeakng_loader
import numpy as np
import soxr

from rayapp.records import SAMPLE_RATE_HZ, Audio

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SYNCHRONOUS = 2  # espeak_AUDIO_OUTPUT: deliver samples to the callback, play nothing
_UTF8 = 1
_RATE, _PITCH = 1, 3  # espeak_PARAMETER
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


class Espeak:
    """Speaks a text in a voice.

    >>> audio = espeak().speak("take losartan", "en-us+m3", rate_wpm=160, pitch=50)
    >>> 0.5 < len(audio) / SAMPLE_RATE_HZ < 3
    True
    """

    def __init__(self) -> None:
        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        self._library.espeak_TextToPhonemes.restype = ctypes.c_char_p
        data = espeakng_loader.get_data_path().encode()
        self.sample_rate_hz: int = self._library.espeak_Initialize(_SYNCHRONOUS, 0, data, 0)
        if self.sample_rate_hz <= 0:
            raise RuntimeError(f"espeak-ng did not start with its data in {data.decode()}")
        self._chunks: list[NDArray[np.int16]] = []
        self._callback = _CALLBACK(self._receive)  # kept, or it would be collected while C still calls it
        self._library.espeak_SetSynthCallback(self._callback)

    def speak(self, text: str, voice: str, *, rate_wpm: int, pitch: int) -> Audio:
        """Returns (samples,) at 16 kHz, empty where the text has nothing to say.

        Raises `ValueError` for a voice that espeak-ng does not have.
        """
        self._set_voice(voice)
        self._library.espeak_SetParameter(_RATE, rate_wpm, 0)
        self._library.espeak_SetParameter(_PITCH, pitch, 0)
        self._chunks.clear()
        encoded = text.encode()
        self._library.espeak_Synth(encoded, len(encoded) + 1, 0, 0, 0, _UTF8, None, None)
        if not self._chunks:
            return np.zeros(0, np.float32)
        speech = np.concatenate(self._chunks).astype(np.float32) / 32768
        return soxr.resample(speech, self.sample_rate_hz, SAMPLE_RATE_HZ)

    def phonemes(self, text: str, voice: str = "en-us") -> str:
        """How the text is pronounced, in IPA; empty where there is nothing to say."""
        self._set_voice(voice)
        pointer = ctypes.c_char_p(text.encode())
        parts = []
        while pointer.value:
            parts.append(self._library.espeak_TextToPhonemes(ctypes.byref(pointer), _UTF8, 0x02))
        return b" ".join(part for part in parts if part).decode().strip()

    def _set_voice(self, voice: str) -> None:
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise ValueError(f"espeak-ng has no voice {voice!r}; a voice is accent+speaker, such as en-us+m3")

    def _receive(self, samples: ctypes._Pointer[ctypes.c_short], count: int, _events: int) -> int:
        if samples and count > 0:
            self._chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0


@cache
def espeak() -> Espeak:
    """The engine of this process."""
    return Espeak()
