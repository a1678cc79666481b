"""Microphone responses, telephone, codecs, clipping, speed and padding."""

import numpy as np
import pytest

from pipelines.augmentation.clipping import Clip, clipped
from pipelines.augmentation.codec import Compress, compressed
from pipelines.augmentation.config import (
    ClippingConfig,
    CodecConfig,
    PaddingConfig,
    ResponseConfig,
    SpeedConfig,
    TelephoneConfig,
)
from pipelines.augmentation.padding import Pad
from pipelines.augmentation.response import RESPONSES, Colour, coloured_by
from pipelines.augmentation.speed import ChangeSpeed
from pipelines.augmentation.telephone import Telephone, called
from rayapp.audio.levels import rms
from rayapp.records import SAMPLE_RATE_HZ, Turn

LENGTHS = [700, 4_000, 16_001, 23_333]


def tone(hz, seconds=1.0):
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(int(seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ)).astype(np.float32)


def gain_db(transform, hz):
    sent = tone(hz)
    return 20 * np.log10(rms(transform(sent)[4_000:-4_000]) / rms(sent[4_000:-4_000]) + 1e-9)


def delay_of(received, sent):
    """Samples by which one lies behind the other, where they are most alike."""
    size = len(received) + len(sent)
    alike = np.fft.irfft(np.fft.rfft(received, size) * np.fft.rfft(sent, size).conj(), size)
    return (int(alike.argmax()) + size // 2) % size - size // 2


@pytest.mark.parametrize(("codec", "kbps"), [("mp3", 8), ("mp3", 16), ("mp3", 64), ("opus", 12), ("opus", 64)])
def test_a_codec_keeps_length_and_time(spoken, codec, kbps):
    speech = spoken().audio
    for samples in LENGTHS:
        received = compressed(speech[:samples], codec, kbps)
        assert received.shape == (samples,)
    assert abs(delay_of(compressed(speech, codec, kbps), speech)) <= 1


def test_fewer_bits_sound_worse(spoken):
    speech = spoken().audio
    for codec in ("mp3", "opus"):
        errors = [rms(compressed(speech, codec, kbps) - speech) / rms(speech) for kbps in (12, 24, 64)]
        assert errors[0] > 1.3 * errors[1] > 1.3**2 * errors[2] > 0


@pytest.mark.parametrize("law", ["mulaw", "alaw"])
def test_g711_has_eight_bits_and_cuts_off_what_is_too_loud(law):
    ramp = np.linspace(-1.5, 1.5, 20_001, dtype=np.float32)
    received = compressed(ramp, law)
    assert len(np.unique(received)) <= 256
    assert np.abs(received - np.clip(ramp, -1, 1)).max() < 0.04
    assert np.all(np.diff(received) >= 0)  # nothing wraps around


def test_the_row_says_which_codec_at_which_rate(spoken):
    stage = Compress(CodecConfig(probability=1, codecs=("mp3", "opus", "alaw")))
    steps = [stage(spoken("hello", seed=seed)).steps[-1] for seed in range(12)]
    assert {step.params["codec"] for step in steps} == {"mp3", "opus", "alaw"}
    for seed, step in enumerate(steps):
        again = compressed(spoken("hello", seed=seed).audio, **step.params)
        assert np.array_equal(again, stage(spoken("hello", seed=seed)).audio)
        assert ("kbps" in step.params) == (step.params["codec"] != "alaw")


@pytest.mark.parametrize("law", ["mulaw", "alaw"])
def test_the_telephone_lets_through_300_to_3400_hz(law):
    def call(audio):
        return called(audio, law)

    for hz in (500, 1000, 2500, 3000):
        assert gain_db(call, hz) == pytest.approx(0, abs=1)
    for hz in (100, 200, 4500, 6000):
        assert gain_db(call, hz) < -20


def test_the_telephone_keeps_length_and_time(spoken):
    speech = spoken().audio
    for samples in LENGTHS:
        assert called(speech[:samples], "mulaw").shape == (samples,)
    assert abs(delay_of(called(speech, "mulaw"), speech)) <= 1
    made = Telephone(TelephoneConfig(probability=1, laws=("alaw",)))(spoken())
    assert np.array_equal(made.audio, called(speech, "alaw"))
    assert made.steps[-1].params == {"law": "alaw"}


def test_microphones_favour_the_frequencies_that_they_are_known_for():
    def level_db(kind, hz):
        return gain_db(lambda audio: coloured_by(audio, kind, shift=1.0, depth=1.0), hz)

    assert level_db("lapel", 700) > level_db("lapel", 6000) + 8
    assert level_db("phone", 3000) > level_db("phone", 1000) + 3
    assert level_db("far_desk", 1300) < level_db("far_desk", 500) - 4
    for kind in RESPONSES:
        assert level_db(kind, 50) < -3


def test_no_microphone_is_quite_like_another(spoken):
    made = [Colour(ResponseConfig(probability=1))(spoken(seed=seed)) for seed in range(12)]
    params = [utterance.steps[-1].params for utterance in made]
    assert {drawn["microphone"] for drawn in params} == set(RESPONSES)
    assert len({(drawn["shift"], drawn["depth"]) for drawn in params}) == 12
    peaks = [np.abs(utterance.audio).max() for utterance in made]
    assert peaks == pytest.approx([np.abs(spoken().audio).max()] * 12, rel=1e-5)


@pytest.mark.parametrize("share", [0.001, 0.02, 0.3])
def test_so_many_samples_are_cut_off_as_the_row_says(spoken, share):
    utterance = spoken()
    made = Clip(ClippingConfig(probability=1, min_share=share, max_share=share))(utterance)
    at_level = np.abs(made.audio) == np.abs(made.audio).max()
    assert np.mean(at_level) == pytest.approx(share, rel=0.05)
    assert np.array_equal(made.audio[~at_level], utterance.audio[~at_level])
    assert made.steps[-1].params == {"share": share}


def test_silence_can_be_clipped():
    assert not clipped(np.zeros(100, np.float32), 0.01).any()


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_speed_changes_tempo_and_pitch_together(spoken, factor):
    utterance = spoken().with_audio(tone(440))
    made = ChangeSpeed(SpeedConfig(probability=1, min_factor=factor, max_factor=factor))(utterance)
    assert len(made.audio) == pytest.approx(16_000 / factor, abs=1)
    loudest_hz = np.abs(np.fft.rfft(made.audio)).argmax() * SAMPLE_RATE_HZ / len(made.audio)
    assert loudest_hz == pytest.approx(440 * factor, abs=1)


def timed_click(spoken, at_seconds):
    """An utterance with a click where a phoneme, a word and a turn start."""
    audio = np.zeros(2 * SAMPLE_RATE_HZ, np.float32)
    audio[int(at_seconds * SAMPLE_RATE_HZ)] = 0.5
    said = spoken()
    phoneme, word = said.phonemes[0], said.words[0]
    move = {"start_seconds": at_seconds}
    return said.with_audio(audio).with_times(
        [type(phoneme)(phoneme.symbol, at_seconds)],
        [type(word)(word.text, at_seconds, at_seconds + 0.2)],
        [Turn("", "en", "en-us+m3", "hello", **move, end_seconds=at_seconds + 0.2)],
    )


@pytest.mark.parametrize(
    "stage",
    [
        ChangeSpeed(SpeedConfig(probability=1, min_factor=0.9, max_factor=0.9)),
        ChangeSpeed(SpeedConfig(probability=1, min_factor=1.1, max_factor=1.1)),
        Pad(PaddingConfig(min_seconds=0.2, max_seconds=0.6)),
    ],
    ids=["slower", "faster", "padded"],
)
def test_times_follow_the_sound(spoken, stage):
    made = stage(timed_click(spoken, 0.7))
    heard_seconds = np.abs(made.audio).argmax() / SAMPLE_RATE_HZ
    assert abs(heard_seconds - 0.7) > 0.05
    for times in (made.phonemes, made.words, made.turns):
        assert times[0].start_seconds == pytest.approx(heard_seconds, abs=2e-4)
    stretch = len(made.audio) / (2 * SAMPLE_RATE_HZ) if isinstance(stage, ChangeSpeed) else 1.0
    assert made.words[0].end_seconds - made.words[0].start_seconds == pytest.approx(0.2 * stretch, abs=2e-4)


def test_padding_is_silence_around_the_same_speech(spoken):
    utterance = spoken()
    made = Pad(PaddingConfig(min_seconds=0.1, max_seconds=0.3))(utterance)
    before, after = (made.steps[-1].params[name] for name in ("samples_before", "samples_after"))
    assert 1_600 <= before <= 4_800
    assert 1_600 <= after <= 4_800
    assert before != after
    assert np.array_equal(made.audio[before:-after], utterance.audio)
    assert not made.audio[:before].any()
    assert not made.audio[-after:].any()
