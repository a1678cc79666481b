import pytest

from pipelines.lexicon.config import LexiconConfig
from pipelines.lexicon.terms import open_lexicon, read_terms
from pipelines.speech.speak import check_pronounceable
from rayapp.errors import UserError
from rayapp.records import Term


def test_the_packaged_sample_has_terms_of_each_category():
    terms = read_terms()
    assert len(terms) >= 200
    assert {term.category for term in terms} == {"drug", "anatomy", "procedure", "code"}


def test_every_packaged_term_can_be_pronounced():
    check_pronounceable(read_terms())


def test_taught_and_held_out_terms_share_none_and_have_all_categories():
    taught, held_out = open_lexicon(LexiconConfig(take=60, held_out=24))
    assert (len(taught), len(held_out)) == (60, 24)
    assert not {t.text for t in taught} & {t.text for t in held_out}
    assert {t.category for t in taught} == {t.category for t in held_out} == {"drug", "anatomy", "procedure", "code"}


def test_without_take_all_terms_are_taught_but_those_held_out(lexicon_file):
    path = lexicon_file("losartan,drug,,,\ntorsemide,drug,,,\nwarfarin,drug,,,2\n")
    taught, held_out = open_lexicon(LexiconConfig(path=path, held_out=1))
    assert len(taught) == 2
    assert len(held_out) == 1


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("", "is empty; add at least one term"),
        ("losartan,drug,,,\nLosartan,drug,,,\n", r"line 3: 'Losartan' stands in line 2 already"),
        ("losar\x07tan,drug,,,\n", r"line 2: .*control character \(U\+0007\)"),
        ("losar\u200btan,drug,,,\n", r"control character \(U\+200B\)"),
        ("losar\x0btan,drug,,,\n", r"control character \(U\+000B\)"),
        (",drug,,,\n", "line 2: the text is empty"),
        ("losartan,drug,,,heavy\n", "weight of 'losartan' is 'heavy'; it must be a number above 0"),
        ("losartan,drug,,,-1\n", "it must be a number above 0"),
        ("losartan,drug,,,nan\n", "it must be a number above 0"),
        (f"{'x' * 10_000},drug,,,\n", "has 10000 characters"),
    ],
)
def test_a_bad_lexicon_is_refused_with_line_and_reason(lexicon_file, rows, message):
    with pytest.raises(UserError, match=message):
        read_terms(lexicon_file(rows))


def test_a_lexicon_without_the_text_column_says_which_columns_it_has(lexicon_file):
    with pytest.raises(UserError, match=r"needs a header with a column named text; it has \['term', 'kind'\]"):
        read_terms(lexicon_file("losartan,drug\n", header="term,kind\n"))


def test_a_missing_or_binary_lexicon_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.csv does not exist"):
        read_terms(tmp_path / "none.csv")
    (tmp_path / "latin.csv").write_bytes(b"text\nr\xe9sum\xe9\n")
    with pytest.raises(UserError, match=r"latin\.csv cannot be read as UTF-8"):
        read_terms(tmp_path / "latin.csv")
    with pytest.raises(UserError, match="cannot be read"):
        read_terms(tmp_path)


def test_more_terms_than_there_are_cannot_be_taken(lexicon_file):
    with pytest.raises(UserError, match="ask for 7 terms; the lexicon has 1"):
        open_lexicon(LexiconConfig(path=lexicon_file("losartan,drug,,,\n"), take=5, held_out=2))


@pytest.mark.parametrize("text", ["???", "!!!", "…", "药", "♥"])
def test_a_term_that_nobody_can_pronounce_is_named(text):
    with pytest.raises(UserError, match="nobody can pronounce"):
        check_pronounceable([Term("losartan"), Term(text)])


def test_a_pronunciation_makes_any_term_pronounceable():
    check_pronounceable([Term("药", pronunciation="yow")])
