import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.evaluation.silence import clip
from rayapp.asr.long_audio import Cutting, Joiner, Piece, _Cutter, pieces
from rayapp.asr.recogniser import Heard, Word
from rayapp.audio.speech_activity import FRAME, FRAME_SECONDS, SpeechActivity
from rayapp.records import SAMPLE_RATE_HZ

CUTTING = Cutting(max_seconds=10)
LENGTHS = st.tuples(st.floats(0.3, 0.9), st.one_of(st.just(0.0), st.floats(0.0, 3.0)), st.sampled_from("ab"))
CUTTINGS = st.builds(
    Cutting,
    max_seconds=st.sampled_from([6.0, 10.0]),
    silence_seconds=st.floats(0.1, 2.0),
    padding_seconds=st.floats(0.0, 2.0),
)


def timed(words):
    """words: of each, how long it is, how long the silence before it, and what it is."""
    told, at = [], 0.0
    for seconds, silence, text in words:
        told.append(Word(text, at + silence, at + silence + seconds))
        at = told[-1].end_seconds
    return told


def cut(words, seconds, cutting=CUTTING):
    """The pieces of an audio in which the words are said, as a perfect detector would have them."""
    frames = round(seconds / FRAME_SECONDS)
    speech = np.zeros(frames, bool)
    for word in words:
        speech[int(word.start_seconds / FRAME_SECONDS) : int(np.ceil(word.end_seconds / FRAME_SECONDS))] = True
    cutter = _Cutter(cutting)
    for at in range(0, frames, 64):
        marks = speech[at : at + 64]
        yield from cutter.add(np.zeros(len(marks) * FRAME, np.float32), marks)
    yield from cutter.end()


def heard_in(piece, words, jitter):
    """What a recogniser makes of it: words that lie in it, and shreds of those that were cut through."""
    ends = piece.start_seconds + len(piece.audio) / SAMPLE_RATE_HZ
    told = []
    for word in words:
        start, end = max(word.start_seconds, piece.start_seconds), min(word.end_seconds, ends)
        if end > start:
            whole = (start, end) == (word.start_seconds, word.end_seconds)
            times = [at - piece.start_seconds + jitter for at in (start, end)]
            told.append(Word(word.text if whole else "shred", *times))
    return Heard(" ".join(word.text for word in told), tuple(told))


@settings(deadline=None, max_examples=60)
@given(st.lists(LENGTHS, max_size=120), CUTTINGS, st.randoms())
def test_no_word_is_lost_or_doubled_wherever_the_pieces_end(lengths, cutting, random):
    words = timed(lengths)
    joiner, told = Joiner(), []
    for piece in cut(words, (words[-1].end_seconds if words else 0) + 3, cutting):
        assert len(piece.audio) <= cutting.max_seconds * SAMPLE_RATE_HZ
        told += joiner.add(piece, heard_in(piece, words, random.uniform(-0.1, 0.1))).words
    told += joiner.end().words
    assert [word.text for word in told] == [word.text for word in words]
    for there, word in zip(told, words, strict=True):
        assert there.start_seconds == pytest.approx(word.start_seconds, abs=0.2)


def test_pieces_end_in_silence_where_there_is_some():
    words = timed([(0.5, 0.3, "a")] * 40)  # 32 s, and a breath after each word
    found = list(cut(words, 33))
    assert len(found) >= 4
    assert [piece.shared_before for piece in found] == [0.0] * len(found)
    assert all(heard_in(piece, words, 0).text.count("shred") == 0 for piece in found)


def test_a_click_is_no_speech():
    assert list(cut([Word("click", 3.0, 3.1)], 6)) == []


def test_what_was_held_back_comes_though_nothing_follows():
    joiner = Joiner()
    first = Piece(0.0, np.zeros(10 * SAMPLE_RATE_HZ, np.float32), shared_after=2.0)
    words = (Word("one", 1.0, 1.5), Word("two", 8.5, 9.0))
    assert joiner.add(first, Heard("one two", words)).text == "one"
    later = Piece(30.0, np.zeros(SAMPLE_RATE_HZ, np.float32))
    assert joiner.add(later, Heard("three", (Word("three", 0.1, 0.5),))).text == "two three"
    assert joiner.end() == Heard("")


def test_a_recogniser_without_words_loses_no_text_at_a_seam():
    joiner = Joiner()
    audio = np.zeros(10 * SAMPLE_RATE_HZ, np.float32)
    first = joiner.add(Piece(0.0, audio, shared_after=2.0), Heard("a b c d e f g h i j"))
    second = joiner.add(Piece(8.0, audio, shared_before=2.0), Heard("i j k l m n o p q r"))
    assert f"{first.text} {second.text} {joiner.end().text}".split() == list("abcdefghijklmnopqr")


def test_short_audio_with_speech_in_it_stays_whole(spoken):
    audio = np.concatenate([np.zeros(3 * SAMPLE_RATE_HZ, np.float32), spoken().audio])
    (piece,) = pieces(np.array_split(audio, 7), Cutting())
    assert piece.start_seconds == 0.0
    assert np.array_equal(piece.audio, audio)


def test_speech_is_found(spoken):
    silence = np.zeros(3 * SAMPLE_RATE_HZ, np.float32)
    audio = np.concatenate([silence, spoken().audio, silence, silence])
    (piece,) = pieces(np.array_split(audio, 7), Cutting(short_stays_whole=False))
    assert piece.start_seconds == pytest.approx(2.8, abs=0.3)
    assert len(piece.audio) / SAMPLE_RATE_HZ == pytest.approx(len(spoken().audio) / SAMPLE_RATE_HZ + 0.5, abs=0.4)


def test_silence_and_noise_have_no_pieces():
    for whole in (True, False):
        cutting = Cutting(short_stays_whole=whole)
        assert [number for number in range(40) if list(pieces([clip(number)], cutting))] == []


def test_the_detector_leaves_torch_its_threads():
    program = (
        "import torch; torch.set_num_threads(2); import rayapp.audio.speech_activity; print(torch.get_num_threads())"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout.strip() == b"2"


def test_a_stream_is_judged_alike_however_it_comes(spoken):
    audio = np.tile(spoken().audio, 20)[: 800 * FRAME]
    whole = SpeechActivity().probabilities(audio)
    stream = SpeechActivity()
    parts = [stream.probabilities(audio[at : at + 96 * FRAME]) for at in range(0, len(audio), 96 * FRAME)]
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-4)
