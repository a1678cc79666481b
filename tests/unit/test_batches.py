import numpy as np
import pyarrow as pa
import pytest
import torch

from pipelines.training.batches import Corpus, plan_epoch, scoring_batches
from rayapp.asr.batching import transcribe_all
from rayapp.asr.phonemes import UNKNOWN
from rayapp.asr.recogniser import Heard
from rayapp.asr.text import plain_text


@pytest.fixture
def corpus():
    """101 utterances of 1–5 s from two sources; the second gives 20 of its 41 rows to an epoch."""
    rng = np.random.default_rng(0)
    return Corpus(
        flac=pa.chunked_array([pa.array([None] * 101)]),
        durations=rng.uniform(1, 5, 101),
        targets=[[1]] * 101,
        texts=["x"] * 101,
        sources=[(np.arange(60), 60), (np.arange(60, 101), 20)],
        recogniser=LengthTeller(),
    )


def test_an_epoch_holds_each_row_of_a_source_once_and_its_share_of_another(corpus):
    rows = np.concatenate([step.ravel() for step in plan_epoch(corpus, 0, batch_size=4, ranks=2, seed=0)])
    assert len(rows) == 80
    assert set(range(60)) <= set(rows.tolist())
    assert len(set(rows[rows >= 60].tolist())) == 20


def test_every_rank_has_as_many_batches_and_alike_lengths(corpus):
    for step in plan_epoch(corpus, 0, batch_size=3, ranks=3, seed=0):
        assert step.shape == (3, 3)
        seconds = corpus.durations[step].sum(axis=1)
        assert seconds.max() / seconds.min() < 1.2


def test_alike_lengths_share_a_step_so_that_little_is_padding(corpus):
    padded = spoken = 0.0
    for step in plan_epoch(corpus, 0, batch_size=4, ranks=2, seed=0):
        for batch in corpus.durations[step]:
            padded += batch.max() * len(batch)
            spoken += batch.sum()
    assert 1 - spoken / padded < 0.12


def test_epochs_differ_and_each_is_the_same_again(corpus):
    first, again, second = (plan_epoch(corpus, epoch, 4, 2, seed=0) for epoch in (0, 0, 1))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_new_model_starts_with_short_sentences(corpus):
    steps = plan_epoch(corpus, 0, batch_size=4, ranks=2, seed=0, shortest_first=True)
    seconds = [corpus.durations[step].mean() for step in steps]
    assert seconds == sorted(seconds)


def test_phonemes_past_the_end_of_an_utterance_are_unknown(corpus):
    corpus._features = {0: torch.zeros(12, 80), 1: torch.zeros(8, 80)}
    assert corpus.batch([0, 1]).phoneme_slices.shape == (2, 0)
    corpus.phoneme_slices = [np.array([3, 0, 5], np.int16), np.array([4], np.int16)]
    assert corpus.batch([0, 1]).phoneme_slices.tolist() == [[3, 0, 5], [4, UNKNOWN, UNKNOWN]]


def test_scoring_leaves_no_row_out_and_takes_none_twice(corpus):
    rows = [row for rank in range(3) for batch in scoring_batches(corpus, rank, 3, batch_size=7) for row in batch]
    assert sorted(rows) == list(range(101))


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
