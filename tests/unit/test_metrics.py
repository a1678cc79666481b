import jiwer
import numpy as np
import pytest

from pipelines.evaluation.counts import Scorer, Spoken, Told, joined_counts
from pipelines.evaluation.metrics import TITLES, calibration_bins, figures, verdict
from pipelines.evaluation.resampling import Estimate, Resampling, estimate, wilson
from pipelines.evaluation.slices import term_slices


def word(text, start, end, confidence=0.95):
    return {"text": text, "start_seconds": start, "end_seconds": end, "confidence": confidence}


SPOKEN = [
    Spoken(
        "Start losartan 50 mg.",
        ("losartan",),
        duration_seconds=2.0,
        words=[word("Start", 0.0, 0.5), word("losartan", 0.5, 1.0)],
    ),
    Spoken("No heart failure, please.", ("heart failure",), duration_seconds=2.0),
    Spoken("Good morning.", (), duration_seconds=1.0),
    Spoken("", (), duration_seconds=15.0),
]
TOLD = [
    Told(
        "Start low certain fifty milligrams.",
        [word("Start", 0.1, 0.5, 0.9), word("low", 0.5, 0.8, 0.3), word("certain", 0.8, 1.1, 0.3)],
        0.1,
    ),
    Told("no heart failure please", (), 0.1),
    Told("Good morning, losartan.", (), 0.1),
    Told("thank you", (), 0.1),
]
VOCABULARY = ["losartan", "heart failure"]


@pytest.fixture(scope="module")
def by_hand():
    """Four utterances whose figures were worked out with a pencil."""
    return {"after": Scorer(VOCABULARY, seen=["losartan"]).score(SPOKEN, TOLD)}


def values(counts, draws=200):
    found = figures(counts, Resampling(len(next(iter(counts.values())).values), draws, 0))
    return {name: figure["after"] and round(figure["after"].value, 4) for name, figure in found.items()}


def test_figures_are_those_worked_out_by_hand(by_hand):
    found = values(by_hand)
    # "start losartan 50 milligram": a substitution and an insertion in 4 words; then 0 in 4, 1 in 2, and 2 in none
    assert found["wer"] == (2 + 0 + 1 + 2) / 10
    assert found["wer_raw"] == (4 + 3 + 2 + 2) / 10
    assert found["term_recall"] == 1 / 2
    assert found["term_recall_seen"] == 0.0
    assert found["term_recall_unseen"] == 1.0
    assert found["term_precision"] == 1 / 2  # heart failure, and the losartan that nobody said
    assert found["term_f1"] == 1 / 2  # 2 · 1 / (2 said + 2 written)
    assert found["false_terms_per_hour"] == round(1 / (16 / 3600), 4)
    assert found["number_accuracy"] == 1.0
    assert found["punctuation_f1"] == round(2 * 0 / (4 + 3), 4)
    assert found["case_accuracy"] == round(2 / 3, 4)  # Start and Good, but not No
    assert found["word_time_error"] == round(0.1 / 2, 4)
    assert found["characters_per_minute"] == 8 / 0.25
    assert found["rtfx"] == 50.0
    assert found["wer_mean"] == round((2 / 4 + 0 + 1 / 2) / 3, 4)
    assert found["wer_median"] == 0.5
    assert found["calibration_error"] == round((abs(0.9 - 1) + abs(0.6 - 0)) / 3, 4)


def test_every_figure_has_a_title(by_hand):
    assert set(values(by_hand)) == set(TITLES)


def test_word_and_character_error_rates_are_jiwers():
    said = ["start losartan today", "take it please", "nothing at all"]
    heard = ["start low certain today", "take it", "nothing at all now"]
    found = values({"after": Scorer([]).score([Spoken(s) for s in said], [Told(h) for h in heard])})
    for rate, theirs in (("wer", jiwer.wer(said, heard)), ("cer", jiwer.cer(said, heard))):
        assert found[rate] == found[f"{rate}_raw"] == round(theirs, 4)


def test_a_script_without_spaces_is_scored_by_characters_and_its_english_by_words():
    scored = Scorer([]).score([Spoken("服用losartan两次", language="zh")], [Told("服用 losarten 两次")])
    assert (scored["medical.word_errors"][0], scored["medical.words"][0]) == (1, 5)
    assert (scored["medical.char_errors"][0], scored["medical.chars"][0]) == (1, 12)


def test_trimming_leaves_the_worst_of_a_hundred_out():
    said = [Spoken("one two three four")] * 100
    told = [Told("one two three four")] * 99 + [Told("a b c d e f g h")]
    found = values({"after": Scorer([]).score(said, told)})
    assert found["wer_mean"] == 0.02
    assert (found["wer_trimmed_mean"], found["wer_median"], found["wer_trimmed_median"]) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ([Spoken("")], [Told("")]),
        ([Spoken("")], [Told("something")]),
        ([Spoken("something")], [Told("")]),
        ([Spoken("same")] * 3, [Told("same")] * 3),
        ([Spoken("one utterance", ("utterance",))], [Told("one utterance")]),
    ],
)
def test_odd_sets_have_figures_or_none_and_never_divide_by_zero(said, told):
    with np.errstate(all="raise"):
        counts = Scorer(["utterance"]).score(said, told)
        found = figures({"before": counts, "after": counts}, Resampling(len(said), 100, 0))
    assert all(f["change"] is None or f["change"].value == 0 for f in found.values())
    assert (found["wer"]["after"] is None) == (not any(s.text for s in said))


def test_counts_of_parts_are_the_counts_of_the_whole(by_hand):
    scorer = Scorer(VOCABULARY, seen=["losartan"])
    parts = joined_counts([scorer.score(SPOKEN[:1], TOLD[:1]), scorer.score(SPOKEN[1:], TOLD[1:])])
    assert np.array_equal(parts.values, by_hand["after"].values)
    assert parts.sightings.equals(by_hand["after"].sightings)


def test_calibration_tells_how_many_words_of_each_confidence_were_right(by_hand):
    assert [(b["words"], round(b["right"], 2)) for b in calibration_bins(by_hand["after"])] == [(2.0, 0.0), (1.0, 1.0)]


def test_the_interval_covers_the_truth_about_95_times_in_100():
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        words = rng.integers(5, 15, 120)
        errors = rng.binomial(words, 0.2)
        above, below = Resampling(120, 400, seed).sums(np.stack([errors, words], axis=1).astype(float)).T
        found = estimate(errors.sum() / words.sum(), above / below)
        covered += found.low <= 0.2 <= found.high
    assert 0.88 <= covered / 200 <= 0.99


def test_two_recognisers_are_drawn_on_the_same_utterances():
    hard = np.random.default_rng(0).random(300) < 0.3
    text = "we saw her again on the ward this morning early"
    said = [Spoken(text)] * 300
    before = [Told("morning early") if h else Told(text.replace("early", "late")) for h in hard]
    after = [Told("this morning early") if h else Told(text) for h in hard]
    scorer = Scorer([])
    found = figures({"before": scorer.score(said, before), "after": scorer.score(said, after)}, Resampling(300, 500, 0))
    wer = found["wer"]
    assert wer["verdict"] == "better"
    assert wer["change"].high - wer["change"].low < 0.2 * (wer["after"].high - wer["after"].low)


def test_draws_do_not_depend_on_how_many_are_held_at_a_time(monkeypatch):
    columns = np.random.default_rng(0).random((50, 3))
    whole = Resampling(50, 40, 7).sums(columns)
    monkeypatch.setattr("pipelines.evaluation.resampling._CELLS", 300)
    assert np.allclose(whole, Resampling(50, 40, 7).sums(columns))


@pytest.mark.parametrize(
    ("change", "better", "word"),
    [
        (Estimate(-0.02, -0.03, -0.01), "lower", "better"),
        (Estimate(-0.02, -0.03, -0.01), "higher", "worse"),
        (Estimate(0.0, 0.0, 0.0), "lower", "no clear change"),
        (None, "lower", ""),
    ],
)
def test_a_change_is_named_by_the_side_of_zero_that_its_interval_is_on(change, better, word):
    assert verdict(change, better) == word


def test_a_few_events_keep_an_honest_interval():
    assert wilson(0, 0) is None
    assert wilson(3, 3).low == pytest.approx(0.4385, abs=1e-3)
    assert wilson(0, 10).high == pytest.approx(0.2775, abs=1e-3)


def test_terms_have_figures_of_their_category_and_of_whether_training_had_them(by_hand):
    kinds = {"losartan": "drug", "heart failure": "condition"}
    found = term_slices(by_hand, kinds, {"losartan"}, 200, 0)
    told = {
        group: [of["terms"], of["utterances"], *(metric["after"] and metric["after"].value for metric in metrics)]
        for groups in found.values()
        for group, of in groups.items()
        for metrics in [[of[name] for name in ("term_recall", "term_precision", "term_f1")]]
    }
    # losartan was said once, and written where nobody said it; heart failure was said and heard
    assert told["drug"] == told["in training"] == [1, 2, 0.0, 0.0, 0.0]
    assert told["condition"] == told["not in training"] == [1, 1, 1.0, 1.0, 1.0]
    assert list(term_slices(by_hand, kinds, None, 200, 0)) == ["category"]
    assert term_slices(by_hand, {}, None, 200, 0) == {}
