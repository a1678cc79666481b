import pytest

from pipelines.evaluation.alignment import Alignment
from pipelines.evaluation.terms import Vocabulary

VOCABULARY = Vocabulary(["losartan", "metoprolol", "heart failure", "failure", "biopsy", "E11.9", "C++ (new)"])


def sighting(term, said, heard):
    (found,) = [s for s in VOCABULARY.sightings([term], said.split(), heard.split()) if s.term == term]
    return found


@pytest.mark.parametrize(
    ("term", "said", "heard", "counts"),
    [
        ("losartan", "start losartan today", "start losartan today", (1, 1, 1, 0)),
        ("losartan", "start losartan today", "start lasartan today", (1, 0, 1, 0)),
        ("losartan", "start losartan today", "start low certain today", (1, 0, 0, 0)),
        ("losartan", "losartan not losartan", "losartan not valsartan", (2, 1, 1, 0)),
        ("losartan", "start losartan", "start losartan losartan", (1, 1, 1, 1)),
        ("losartan", "start losartan", "", (1, 0, 0, 0)),
        ("biopsy", "two biopsies done", "two biopsies done", (1, 1, 1, 0)),
        ("biopsy", "two biopsies done", "two biopsy done", (1, 0, 0, 1)),
        ("heart failure", "no heart failure now", "no heard failure now", (1, 0, 1, 0)),
        ("E11.9", "code e11.9 now", "code e11.9 now", (1, 1, 1, 0)),
    ],
)
def test_a_term_is_said_heard_close_or_too_often(term, said, heard, counts):
    found = sighting(term, said, heard)
    assert (found.said, found.heard, found.close, found.inserted) == counts


def test_what_was_heard_instead_is_told():
    assert sighting("losartan", "start losartan today", "start low certain today").confusions == ["low certain"]
    assert sighting("losartan", "start losartan today", "start today").confusions == [""]
    assert sighting("heart failure", "no heart failure now", "no art failure now").confusions == ["art failure"]


def test_a_term_that_nobody_said_is_an_insertion():
    found = VOCABULARY.sightings([], ["take", "it", "now"], ["take", "metoprolol", "now"])
    assert [(s.term, s.said, s.inserted) for s in found] == [("metoprolol", 0, 1)]


def test_a_term_within_another_is_not_inserted_when_that_was_said():
    found = VOCABULARY.sightings(["heart failure"], ["in", "heart", "failure"], ["in", "heart", "failure"])
    assert [(s.term, s.inserted) for s in found] == [("heart failure", 0)]


def test_terms_with_characters_of_regular_expressions_are_plain_text():
    words = "use c++ new today".replace("++", "").split()
    assert sighting("C++ (new)", " ".join(words), " ".join(words)).heard == 1


def test_the_stretch_of_words_right_on_both_sides_leaves_insertions_beside_it_out():
    found = Alignment(["start", "losartan", "today"], ["start", "um", "losartan", "today"])
    assert found.stretch(1, 2) == range(2, 3)
