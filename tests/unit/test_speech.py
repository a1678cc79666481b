import hashlib
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest

from pipelines.speech.config import SpeechConfig, TurnsConfig, VoicesConfig
from pipelines.speech.espeak import speak
from pipelines.speech.speak import Speak, check_terms, check_voices
from pipelines.speech.voices import KLATT_SPEAKERS
from rayapp.audio.levels import active_level
from rayapp.errors import RejectedError, UserError
from rayapp.records import SAMPLE_RATE_HZ, Span, Term, Transcript, Utterance, Voice


def transcript(text, spoken=None, spans=()):
    return Transcript(text, spoken or text, (), "en", "test", spans)


def say(utterance):
    (outcome,) = Speak(SpeechConfig()).on_batch([utterance])
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


@pytest.mark.parametrize("voice", ["en-us+m3", "en-gb-x-rp+f4", "en+klatt2"])
def test_speech_has_a_plausible_length_and_the_level_of_all_voices(slot, voice):
    cast = (Voice("espeak", voice, "en"),)
    said = say(Utterance(slot(cast=cast), transcript("please start losartan fifty milligrams twice daily")))
    assert 2 < said.duration_seconds < 6
    assert 20 * np.log10(active_level(said.audio)) == pytest.approx(-26, abs=0.1)
    assert said.steps[0].params["voice"] == voice


def test_the_words_as_written_have_the_times_of_what_was_said(slot):
    said = say(Utterance(slot(), transcript("Take 500 mg daily.", "Take five hundred milligrams daily.")))
    assert [word.text for word in said.words] == ["Take", "500", "mg", "daily."]
    starts = [word.start_seconds for word in said.words]
    assert starts == sorted(starts)
    hundred = next(p.start_seconds for p in said.phonemes if p.symbol == "h")
    assert said.words[1].start_seconds < hundred < said.words[1].end_seconds
    assert said.words[-1].end_seconds <= said.duration_seconds + 0.01


def test_ipa_is_said_as_it_stands(slot):
    written = say(Utterance(slot(), transcript("take cough", "take /kəʊt/")))
    assert "oU" in [p.symbol for p in written.phonemes]
    assert [word.text for word in written.words] == ["take", "cough"]


def test_ipa_that_no_voice_can_say_is_rejected_by_its_symbol(slot):
    with pytest.raises(RejectedError, match=r"has 'ɮ' \(U\+026E\)"):
        say(Utterance(slot(), transcript("x", "/ɮa/")))


@pytest.fixture
def dialogue(slot):
    spans = (
        Span("How are you?", "How are you?", "en", "clinician"),
        Span("Not well today.", "Not well today.", "en", "patient"),
        Span("Since when?", "Since when?", "en", "clinician"),
    )
    cast = (Voice("espeak", "en-us+m3", "en-us", role="clinician"), Voice("espeak", "en+f4", "en", role="patient"))
    text = " ".join(span.text for span in spans)

    def make(**turns):
        speech = SpeechConfig(turns=TurnsConfig(**turns))
        (said,) = Speak(speech).on_batch([Utterance(slot(cast=cast), transcript(text, spans=spans))])
        return said

    return make


def test_a_dialogue_is_spoken_by_two_voices_in_turns(dialogue):
    said = dialogue(overlap_share=0, max_gap_seconds=0.5)
    assert [(turn.role, turn.voice) for turn in said.turns] == [
        ("clinician", "en-us+m3"), ("patient", "en+f4"), ("clinician", "en-us+m3"),
    ]  # fmt: skip
    for before, after in pairwise(said.turns):
        assert 0 <= after.start_seconds - before.end_seconds <= 0.5
    assert said.turns[-1].end_seconds == pytest.approx(said.duration_seconds, abs=0.01)
    assert [word.text for word in said.words] == said.transcript.text.split()
    assert _strongest_hz(_part(said, said.turns[1])) > 1.2 * _strongest_hz(_part(said, said.turns[0]))


def test_turns_overlap_as_often_as_is_set(dialogue):
    said = dialogue(overlap_share=1, max_overlap_seconds=0.4)
    for before, after in pairwise(said.turns):
        assert 0 < before.end_seconds - after.start_seconds <= 0.4
    silent = dialogue(overlap_share=0)
    assert said.duration_seconds < silent.duration_seconds


def _part(utterance, turn):
    return utterance.audio[int(turn.start_seconds * SAMPLE_RATE_HZ) : int(turn.end_seconds * SAMPLE_RATE_HZ)]


def test_words_of_another_language_are_said_by_its_voice_without_a_pause(slot):
    cast = (Voice("espeak", "cmn+m3", "cmn", "zh"), Voice("espeak", "en-us+m3", "en-us", "en"))
    spans = (Span("病人服用", "病人服用", "zh"), Span("losartan", "losartan", "en"), Span("五十毫克", "五十毫克", "zh"))
    said = say(Utterance(slot(cast=cast), transcript("病人服用 losartan 五十毫克", spans=spans)))
    assert [turn.voice for turn in said.turns] == ["cmn+m3", "en-us+m3", "cmn+m3"]
    assert all(b.start_seconds == pytest.approx(a.end_seconds) for a, b in pairwise(said.turns))
    english = {
        p.symbol for p in said.phonemes if said.turns[1].start_seconds <= p.start_seconds < said.turns[1].end_seconds
    }
    assert {"l", "s", "t"} <= english
    assert [word.text for word in said.words] == ["病", "人", "服", "用", "losartan", "五", "十", "毫", "克"]


def test_each_phoneme_starts_where_it_is_heard():
    audio, phonemes, _ = speak("see", "en-us+m3", rate_wpm=120, pitch=50)
    assert [p.symbol for p in phonemes[:4]] == ["s", "i:", "_", "_"]
    starts = [round(p.start_seconds * SAMPLE_RATE_HZ) for p in phonemes] + [len(audio)]
    assert starts == sorted(starts)
    hiss, vowel, *_ = (audio[a:b] for a, b in pairwise(starts))
    assert _zero_crossings(hiss) > 5 * _zero_crossings(vowel)


def test_times_count_on_over_clauses():
    audio, phonemes, _ = speak("Good morning. Take losartan.", "en-us+m3", rate_wpm=160, pitch=50)
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
    with pytest.raises(RejectedError, match=r"voice en-us\+m3 is silent"):
        say(Utterance(slot(), transcript("")))


def test_the_same_slot_sounds_the_same_in_another_process(slot):
    here = say(Utterance(slot(), transcript("good morning"))).audio
    program = (
        "import hashlib; from pipelines.speech.espeak import speak; from pipelines.speech.assemble import level;"
        "a = level(speak('good morning', 'en-us+m3', rate_wpm=160, pitch=50).audio);"
        "print(hashlib.sha256(a.tobytes()).hexdigest())"
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
    check_voices(SpeechConfig())


def test_an_unknown_voice_is_named_with_some_that_there_are():
    voices = VoicesConfig(train_speakers=("nobody", "m1"), train_accents=("en-us", "xx"))
    with pytest.raises(UserError, match=r"no voice en-us\+nobody, .*xx\+m1.*; .*speakers are .*Alex"):
        check_voices(SpeechConfig(voices=voices))


def test_terms_that_no_voice_can_say_are_named():
    terms = [Term("losartan"), Term("→"), Term("氯沙坦"), Term("氯沙坦", language="zh"), Term("x", pronunciation="/ɮ/")]
    with pytest.raises(UserError, match=r"nobody can pronounce '→', '氯沙坦', '/ɮ/':"):
        check_terms(SpeechConfig(), terms)


def test_a_speaker_of_a_test_cannot_be_trained_on():
    with pytest.raises(ValueError, match=r"test_speakers shares m1 with train_speakers"):
        VoicesConfig(train_speakers=("m1", "m2"), test_speakers=("m1",))


def test_a_range_the_wrong_way_round_says_which_key_to_change():
    with pytest.raises(ValueError, match=r"min_rate_wpm \(200\) is above max_rate_wpm \(190\); swap them"):
        SpeechConfig(min_rate_wpm=200)
