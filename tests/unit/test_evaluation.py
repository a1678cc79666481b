import jiwer
import numpy as np
import pytest

from pipelines.evaluation.intervals import estimate, paired_difference
from pipelines.release.config import GateConfig
from pipelines.release.gate import judge
from rayapp.asr.scoring import contains_term, count_errors, normalise
from rayapp.errors import UserError


def test_counts_are_jiwers_on_the_normalised_text():
    references = ["Start losartan fifty milligrams.", "Take it, please", "E11.9 was coded"]
    hypotheses = ["start lasartan fifty milligram", "take it", "e11.9 was coded now"]
    counts = count_errors(references, hypotheses, [["losartan"], [], ["E11.9"]])
    plain = [normalise(r) for r in references]
    assert counts.word_errors.sum() / counts.words.sum() == jiwer.wer(plain, hypotheses)
    assert counts.character_errors.sum() / counts.characters.sum() == jiwer.cer(plain, hypotheses)
    assert counts.terms_heard.tolist() == [0, 0, 1]
    assert counts.terms.tolist() == [1, 0, 1]


def test_empty_texts_are_counted_and_never_divide_by_zero():
    counts = count_errors(["", "hello there", ""], ["", "", "noise heard"], [[], [], []])
    assert counts.word_errors.tolist() == [0, 2, 2]
    assert counts.words.tolist() == [0, 2, 0]
    assert estimate(counts.terms_heard, counts.terms, 100, 0) is None


@pytest.mark.parametrize(
    ("text", "term", "found"),
    [
        ("start losartan today", "Losartan", True),
        ("start losartans today", "losartan", False),
        ("brachial plexus injury", "brachial plexus", True),
        ("coded e11.9 today", "E11.9", True),
        ("coded e11 9 today", "E11.9", False),
        ("suspected sjogren syndrome", "Sjögren", True),
    ],
)
def test_a_term_is_heard_when_its_words_stand_in_the_text(text, term, found):
    assert contains_term(normalise(text), term) == found


def test_the_interval_covers_the_truth_about_95_times_in_100():
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        words = rng.integers(5, 15, 120)
        errors = rng.binomial(words, 0.2)
        found = estimate(errors, words, 400, seed)
        covered += found.low <= 0.2 <= found.high
    assert 0.88 <= covered / 200 <= 0.99


def test_pairing_narrows_the_interval_of_a_difference():
    rng = np.random.default_rng(0)
    words = np.full(300, 10)
    hard = rng.random(300) < 0.3
    before = np.where(hard, 8, 1)
    after = before - (rng.random(300) < 0.2)
    paired = paired_difference((before, words), (after, words), 1000, 0)
    apart = estimate(after, words, 1000, 0), estimate(before, words, 1000, 1)
    assert paired.high < 0
    assert paired.high - paired.low < 0.5 * sum(e.high - e.low for e in apart)


def test_identical_models_differ_by_exactly_nothing():
    errors, words = np.array([1, 0, 3]), np.array([5, 5, 5])
    assert paired_difference((errors, words), (errors, words), 100, 0) == (0.0, 0.0, 0.0)


def figures(gain=(0.9, 0.85, 0.94), rise=(0.0, -0.01, 0.01)):
    return {"test": {"term_recall": {"change": gain}}, "test_general": {"wer": {"change": rise}}}


@pytest.mark.parametrize(
    ("values", "passed"),
    [
        (figures(), [True, True]),
        (figures(gain=(0.1, -0.02, 0.2)), [False, True]),
        (figures(rise=(0.015, 0.0, 0.03)), [True, False]),
        (figures(gain=(0.0, 0.0, 0.0)), [False, True]),
    ],
)
def test_the_gate_reads_the_cautious_end_of_each_interval(values, passed):
    verdicts = judge(GateConfig(), values)
    assert [verdict.passed for verdict in verdicts] == passed
    assert "95 % interval" in verdicts[0].figure


def test_a_gate_that_reads_what_was_not_evaluated_says_so():
    with pytest.raises(UserError, match="reads split 'other', which was not evaluated; there are test, test_general"):
        judge(GateConfig(term_split="other"), figures())
    with pytest.raises(UserError, match="nothing to count"):
        judge(GateConfig(), figures(gain=None))
