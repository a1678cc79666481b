import hashlib
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest

from pipelines.speech.config import SpeechConfig, VoicesConfig
from pipelines.speech.espeak import speak
from pipelines.speech.speak import Speak, check_voices
from pipelines.speech.voices import KLATT_SPEAKERS
from rayapp.errors import RejectedError, UserError
from rayapp.records import SAMPLE_RATE_HZ, Transcript, Utterance


def transcript(text):
    return Transcript(text, text, (), "en", "test")


def test_speech_has_a_plausible_length_and_level(slot):
    said = Speak()(Utterance(slot(), transcript("please start losartan fifty milligrams twice daily")))
    assert 2 < said.duration_seconds < 6
    assert np.abs(said.audio).max() == pytest.approx(0.5, abs=0.01)
    assert said.steps[0].params["voice"] == "en-us+m3"


def test_each_phoneme_starts_where_it_is_heard():
    audio, phonemes = speak("see", "en-us+m3", rate_wpm=120, pitch=50)
    assert [p.symbol for p in phonemes[:4]] == ["s", "i:", "_", "_"]
    starts = [round(p.start_seconds * SAMPLE_RATE_HZ) for p in phonemes] + [len(audio)]
    assert starts == sorted(starts)
    hiss, vowel, *_ = (audio[a:b] for a, b in pairwise(starts))
    assert _zero_crossings(hiss) > 5 * _zero_crossings(vowel)


def test_times_count_on_over_clauses():
    audio, phonemes = speak("Good morning. Take losartan.", "en-us+m3", rate_wpm=160, pitch=50)
    starts = [p.start_seconds for p in phonemes]
    assert starts == sorted(starts)
    assert starts[-1] <= len(audio) / SAMPLE_RATE_HZ
    symbols = [p.symbol for p in phonemes]
    pause = symbols.index("_")
    assert [("t" in part) for part in (symbols[:pause], symbols[pause:])] == [False, True]
    assert 0.3 < starts[pause] / starts[-1] < 0.7


def _zero_crossings(audio):
    """Share of the samples at which the sign changes: high in a hiss, low in a vowel."""
    return np.mean(np.diff(np.signbit(audio)))


def test_rate_and_pitch_are_heard():
    slow = speak("good morning everyone", "en-us+m3", rate_wpm=120, pitch=50).audio
    fast = speak("good morning everyone", "en-us+m3", rate_wpm=220, pitch=50).audio
    high = speak("good morning everyone", "en-us+m3", rate_wpm=120, pitch=90).audio
    assert len(fast) < 0.75 * len(slow)
    assert _strongest_hz(high) > 1.2 * _strongest_hz(slow)


def _strongest_hz(audio):
    """The fundamental, by autocorrelation."""
    voiced = audio[2000:10_000]
    correlation = np.fft.irfft(np.abs(np.fft.rfft(voiced, 2 * len(voiced))) ** 2)
    shortest, longest = SAMPLE_RATE_HZ // 400, SAMPLE_RATE_HZ // 60
    return SAMPLE_RATE_HZ / (shortest + int(np.argmax(correlation[shortest:longest])))


def test_a_sentence_with_nothing_to_say_is_rejected(slot):
    with pytest.raises(RejectedError, match="said nothing"):
        Speak()(Utterance(slot(), transcript("")))


def test_the_same_slot_sounds_the_same_in_another_process(slot):
    here = Speak()(Utterance(slot(), transcript("good morning"))).audio
    program = (
        "import hashlib; from pipelines.speech.espeak import speak;"
        "a = speak('good morning', 'en-us+m3', rate_wpm=160, pitch=50).audio;"
        "print(hashlib.sha256((a * (0.5 / float(abs(a).max()))).tobytes()).hexdigest())"
    )
    there = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()
    assert hashlib.sha256(here.tobytes()).hexdigest() == there


def test_every_default_voice_is_the_same_whatever_was_said_before():
    speakers = VoicesConfig().train_speakers + VoicesConfig().test_speakers + KLATT_SPEAKERS
    sentence = "Who is watching the kids on Saturday?"

    def digests(order):
        keep = []
        for speaker in order:
            keep.append(bytes(len(speaker) * 10_000))  # other memory lies about the second time
            audio = speak(sentence, f"en-gb-x-rp+{speaker}", rate_wpm=185, pitch=50).audio
            yield speaker, hashlib.sha256(audio.tobytes()).hexdigest()

    assert dict(digests(speakers)) == dict(digests(speakers[::-1]))


def test_every_default_voice_exists():
    voices = VoicesConfig()
    speakers = voices.train_speakers + voices.validation_speakers + voices.test_speakers
    check_voices([f"{accent}+{speaker}" for accent in voices.test_accents for speaker in speakers])
    check_voices([f"en-us+{speaker}" for speaker in voices.other_synthesiser_speakers])


def test_an_unknown_voice_is_named():
    with pytest.raises(UserError, match=r"no voice en-us\+nobody, xx\+m3"):
        check_voices(["en-us+nobody", "en-us+m3", "xx+m3"])


def test_a_speaker_of_a_test_cannot_be_trained_on():
    with pytest.raises(ValueError, match=r"test_speakers shares m1 with train_speakers"):
        VoicesConfig(train_speakers=("m1", "m2"), test_speakers=("m1",))


def test_a_range_the_wrong_way_round_says_which_key_to_change():
    with pytest.raises(ValueError, match=r"min_rate_wpm \(200\) is above max_rate_wpm \(190\); swap them"):
        SpeechConfig(min_rate_wpm=200)
