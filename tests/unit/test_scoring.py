import jiwer
import pytest

from rayapp.asr.scoring import contains_term, count_errors, normalise


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
