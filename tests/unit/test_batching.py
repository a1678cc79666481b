"""How recordings are batched to be transcribed, and what the small model is taught to write."""

import numpy as np
import pytest

from rayapp.asr.batching import transcribe_all
from rayapp.asr.recogniser import Heard
from rayapp.asr.text import plain_text


class LengthTeller:
    """A recogniser that hears how long each audio is, and remembers its batches."""

    def __init__(self):
        self.batches = []

    def transcribe(self, audio, *, times=False):
        self.batches.append([len(a) for a in audio])
        return [Heard(str(len(a))) for a in audio]


def test_transcripts_come_back_in_the_order_of_the_audio():
    lengths = [48_000, 16_000, 80_000, 16_001, 640_000]
    recogniser = LengthTeller()
    heard = transcribe_all(recogniser, [np.zeros(n, np.float32) for n in lengths], max_batch_seconds=10)
    assert [int(h.text) for h in heard] == lengths
    assert all(max(batch) * len(batch) <= 160_000 or len(batch) == 1 for batch in recogniser.batches)


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("Start losartan, please.", "start losartan please"),
        ("Coded as E11.9.", "coded as e11.9"),
        ("Follow-up on Monday's ECG?", "follow up on monday's ecg"),
        ("", ""),
    ],
)
def test_the_small_model_is_taught_plain_text(text, plain):
    assert plain_text(text) == plain
