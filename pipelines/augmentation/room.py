"""Reverberation: the speech is played in one of a fixed number of simulated rooms."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from pipelines.augmentation.config import RoomConfig
from pipelines.augmentation.sides import side_of
from rayapp.audio.levels import peak
from rayapp.ids import content_id
from rayapp.records import SAMPLE_RATE_HZ, Audio, Slot, Utterance
from rayapp.stage import Resources, Stage


class PlayInRoom(Stage):
    """Convolves the speech with a room's impulse response; rooms of the tests are never trained in."""

    name = "room"
    version = 1
    resources = Resources(cpus=0.5)

    def __init__(self, config: RoomConfig) -> None:
        self.config = config

    def __call__(self, utterance: Utterance) -> Utterance:
        from scipy.signal import fftconvolve

        room = draw_room(utterance.slot, self.config)
        if room is None:
            return utterance
        speech = utterance.audio
        assert speech is not None
        wet = fftconvolve(speech, impulse_response(room))[: len(speech)]
        return utterance.with_audio(wet * (peak(speech) / peak(wet))).with_step(self.name, self.version, room=room)


def draw_room(slot: Slot, config: RoomConfig) -> int | None:
    """Number of the room that an utterance is played in; None where it stays dry."""
    rng = slot.rng("room")
    if rng.random() >= config.probability:
        return None
    half = config.rooms // 2
    return int(rng.integers(half)) + (0 if side_of(slot) == "train" else half)


@lru_cache(maxsize=256)
def impulse_response(room: int) -> Audio:
    """Impulse response of room number `room`, (samples,) at 16 kHz, from the direct sound on.

    A shoebox of 2.5–7 m with a reverberation time of 0.15–0.45 s, speaker and microphone 0.3–1.5 m
    apart: consulting rooms and wards, with a phone or a desk microphone. Image source method.
    """
    import pyroomacoustics

    rng = np.random.default_rng(int(content_id("room", room), 16))
    size = np.array([rng.uniform(3, 7), rng.uniform(2.5, 6), rng.uniform(2.4, 3.2)])
    absorption, order = pyroomacoustics.inverse_sabine(rng.uniform(0.15, 0.45), size)
    shoebox = pyroomacoustics.ShoeBox(
        size, fs=SAMPLE_RATE_HZ, materials=pyroomacoustics.Material(absorption), max_order=min(order, 12)
    )
    microphone = rng.uniform(0.3, 0.7, 3) * size
    towards = rng.normal(size=3)
    speaker = microphone + towards / np.linalg.norm(towards) * rng.uniform(0.3, 1.5)
    shoebox.add_source(np.clip(speaker, 0.2, size - 0.2))
    shoebox.add_microphone(microphone)
    shoebox.compute_rir()
    response = np.asarray(shoebox.rir[0][0], np.float32)
    return response[max(int(np.abs(response).argmax()) - 20, 0) :]
