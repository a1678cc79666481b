"""Where somebody speaks: Silero's detector over a stream of audio."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch

from rayapp.records import SAMPLE_RATE_HZ, Audio

_threads = torch.get_num_threads()
from silero_vad import load_silero_vad  # noqa: E402
from silero_vad.sequence_vad import RATE_CONFIG, frame_blocks  # noqa: E402

torch.set_num_threads(_threads)  # its import leaves torch with one thread, for whatever else the process does

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from silero_vad.sequence_vad import SileroVADSequence

FRAME, _CONTEXT = RATE_CONFIG[SAMPLE_RATE_HZ]
FRAME_SECONDS = FRAME / SAMPLE_RATE_HZ
_STATE = np.zeros((1, 1, 128), np.float32)
_MOST_FRAMES = 512


class SpeechActivity:
    """How likely somebody speaks in each 32 ms. One for each stream: it remembers what it heard before."""

    def __init__(self) -> None:
        self._detector = _detector()
        self._hidden, self._cell = _STATE, _STATE
        self._before = np.zeros(_CONTEXT, np.float32)

    def probabilities(self, audio: Audio) -> NDArray[np.float32]:
        """(frames,) of (frames · FRAME,) samples, mono at 16 kHz; what follows in the next call comes right after.

        The last call of a stream may end in the middle of a frame.
        """
        heard = [np.zeros(0, np.float32)]
        for block in frame_blocks(audio, FRAME, _CONTEXT, _MOST_FRAMES):
            block[0, :_CONTEXT] = self._before
            self._before = block[-1, -_CONTEXT:].copy()
            names, state = ["speech_probs", "hn", "cn"], {"h": self._hidden, "c": self._cell}
            told, self._hidden, self._cell = self._detector.session.run(names, {"input": block, **state})
            heard.append(told.reshape(-1))
        return np.concatenate(heard)


@cache
def _detector() -> SileroVADSequence:
    """The same for all streams of a process: a call of it lets other threads run, and keeps no state."""
    return load_silero_vad(sequence=True)
