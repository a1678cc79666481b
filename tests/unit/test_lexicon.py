import json

import pytest

from pipelines.lexicon.config import LexiconConfig
from pipelines.lexicon.formats import FORMATS, write_terms
from pipelines.lexicon.statistics import statistics
from pipelines.lexicon.terms import open_lexicon, read_merged, read_terms
from pipelines.speech.config import SpeechConfig
from pipelines.speech.speak import check_terms
from rayapp.errors import UserError
from rayapp.records import Term

TERMS = [
    Term("losartan", "drug", "en", "/ləˈsɑːtən/", 1.5, 0.25),
    Term('heart failure, "acute"', "condition", "en-GB", None, 1.0, None),
    Term("心电图", "procedure", "zh", "shin dyen too", 2.0, 1.0),
]


@pytest.fixture
def write(tmp_path):
    """A file of this name that holds the text or bytes; its path."""

    def make(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return make


def test_the_packaged_sample_has_terms_of_each_category():
    terms = read_terms()
    assert len(terms) >= 200
    assert {term.category for term in terms} == {"drug", "anatomy", "procedure", "code"}


def test_every_packaged_term_can_be_pronounced():
    check_terms(SpeechConfig(), read_terms())


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


@pytest.mark.parametrize("suffix", sorted(set(FORMATS) - {".txt"}))
def test_what_is_written_is_read_again_unchanged(tmp_path, suffix):
    location = f"file://{tmp_path}/terms{suffix}"
    write_terms(location, TERMS)
    assert read_terms(location) == TERMS
    assert open_lexicon(LexiconConfig(path=location)).held_out == []


def test_plain_text_holds_a_term_a_line_and_nothing_else(tmp_path):
    write_terms(str(tmp_path / "terms.txt"), TERMS)
    assert (tmp_path / "terms.txt").read_text() == 'losartan\nheart failure, "acute"\n心电图\n'
    assert read_terms(tmp_path / "terms.txt") == [Term(term.text) for term in TERMS]


def test_empty_lines_and_a_byte_order_mark_do_not_count(write):
    assert [t.text for t in read_terms(write("a.txt", b"\xef\xbb\xbflosartan\r\n\r\n warfarin \r\n"))] == [
        "losartan",
        "warfarin",
    ]
    assert len(read_terms(write("a.jsonl", '{"text": "losartan"}\n\n{"text": "warfarin", "weight": 2}\n'))) == 2


def test_text_is_normalised_to_composed_letters_and_single_spaces(lexicon_file):
    (term,) = read_terms(lexicon_file("  Me\u0301nie\u0300re\u00a0  disease ,,,,\n"))
    assert term == Term("Ménière disease")


def test_weight_and_recall_of_zero_are_not_the_same_as_none(lexicon_file):
    (term,) = read_terms(lexicon_file("losartan,0\n", header="text,recall\n"))
    assert term.recall == 0.0
    with pytest.raises(UserError, match="weight of 'losartan' is 0; it must be a number above 0"):
        read_terms(lexicon_file("losartan,0\n", header="text,weight\n"))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("", "is empty; add at least one term"),
        ("losartan,drug,,,\nLosartan,drug,,,\n", r"line 3: 'Losartan' stands in line 2 already"),
        ("losartan,drug,,,\nLosartan,drug,,,\n", "`rayapp lexicon convert` merges duplicates"),
        ("\n\nlosartan,drug,,,\nM\u00e9n,,,,\nMe\u0301n,,,,\n", r"line 6: 'Mén' stands in line 5 already"),
        ("losar\x07tan,drug,,,\n", r"line 2: .*control character \(U\+0007\)"),
        ("losar\u200btan,drug,,,\n", r"control character \(U\+200B\)"),
        ("losar\x0btan,drug,,,\n", r"control character \(U\+000B\)"),
        ("losartan,dr\x07ug,,,\n", r"control character \(U\+0007\)"),
        (",drug,,,\n", "line 2: the text is empty"),
        ("losartan,drug,,,heavy\n", "weight of 'losartan' is 'heavy'; it must be a number above 0"),
        ("losartan,drug,,,-1\n", "it must be a number above 0"),
        ("losartan,drug,,,nan\n", "it must be a number above 0"),
        (f"{'x' * 10_000},drug,,,\n", "has 10000 characters"),
        ("losartan,drug,English please,,\n", "language of 'losartan' is 'English please'; it must be a code"),
        ("losartan,drug,,/lə,\n", "pronunciation of 'losartan' is '/lə'; it must be a respelling, or IPA"),
        ("losartan,drug,,//,\n", "it must be a respelling, or IPA between two slashes"),
        ("heart failure, acute,condition,,,1\n", "line 2: '1' stands beyond the last column; quote"),
    ],
)
def test_a_bad_lexicon_is_refused_with_line_and_reason(lexicon_file, rows, message):
    with pytest.raises(UserError, match=message):
        read_terms(lexicon_file(rows))


@pytest.mark.parametrize("recall", ["1.01", "-0.1", "nan", "most"])
def test_a_recall_that_is_no_share_is_refused(lexicon_file, recall):
    with pytest.raises(
        UserError, match=r"line 2: recall of 'losartan' is .*; it must be a share from 0 to 1, or empty"
    ):
        read_terms(lexicon_file(f"losartan,{recall}\n", header="text,recall\n"))


def test_every_bad_row_is_named_in_one_go(lexicon_file):
    with pytest.raises(UserError, match=r"(?s)has 3 bad line\(s\):.*line 2: .*line 4: .*line 5: 'Warfarin' stands in"):
        read_terms(lexicon_file(",,,,\nwarfarin,,,,\nlosartan,,,,x\nWarfarin,,,,\n"))


def test_after_ten_bad_rows_the_others_are_counted(write):
    with pytest.raises(UserError, match=r"has 12 bad line\(s\)(?s:.*)line 10: .*\n  … and 2 more"):
        read_terms(write("a.txt", "\x07\n" * 12))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: is not JSON"),
        ('["losartan"]', r"line 2: holds \[\"losartan\"\], not an object with a text"),
        ('{"text": 7}', "line 2: 'text' has 7 where words should stand"),
        ('{"term": "x"}', "line 2: the text is empty"),
        ('{"text": "x", "weight": [1]}', r"line 2: weight of 'x' is \[1\]"),
        ("[" * 100_000, "line 2: is not JSON"),
    ],
)
def test_a_bad_line_of_json_is_named(write, line, message):
    with pytest.raises(UserError, match=message):
        read_terms(write("a.jsonl", f"{json.dumps({'text': 'losartan'})}\n{line}\n"))


def test_a_bad_row_of_parquet_is_named(tmp_path):
    write_terms(str(tmp_path / "a.parquet"), [Term("losartan"), Term("warfarin", weight=-1.0)])
    with pytest.raises(UserError, match="row 2: weight of 'warfarin' is -1"):
        read_terms(tmp_path / "a.parquet")


def test_a_lexicon_without_the_text_column_says_which_columns_it_has(lexicon_file, tmp_path):
    with pytest.raises(UserError, match=r"needs a header with a column named text; it has \['term', 'kind'\]"):
        read_terms(lexicon_file("losartan,drug\n", header="term,kind\n"))
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"term": ["losartan"]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"needs a header with a column named text; it has \['term'\]"):
        read_terms(tmp_path / "a.parquet")


def test_a_missing_or_broken_lexicon_is_named(write, tmp_path):
    with pytest.raises(UserError, match=r"none\.csv does not exist"):
        read_terms(tmp_path / "none.csv")
    for name in ("latin.csv", "latin.txt", "latin.jsonl"):
        with pytest.raises(UserError, match=rf"{name} cannot be read as UTF-8 text: line 2 \(byte 0xE9\), line 4 "):
            read_terms(write(name, b"text\nr\xe9sum\xe9\nlosartan\n\xff\n"))
    with pytest.raises(UserError, match=r"bad\.parquet is not parquet that can be read"):
        read_terms(write("bad.parquet", b"PAR1 no"))
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(UserError, match="cannot be read"):
        read_terms(tmp_path / "folder.csv")


@pytest.mark.parametrize("name", ["terms.xlsx", "terms"])
def test_an_unknown_kind_of_file_is_told_which_are_known(tmp_path, name):
    for act in (read_terms, lambda path: write_terms(str(path), TERMS)):
        with pytest.raises(UserError, match=r"known: \.csv, \.tsv, \.txt, \.jsonl, \.parquet"):
            act(tmp_path / name)


def test_more_terms_than_there_are_cannot_be_taken(lexicon_file):
    with pytest.raises(UserError, match="ask for 7 terms; the lexicon has 1"):
        open_lexicon(LexiconConfig(path=lexicon_file("losartan,drug,,,\n"), take=5, held_out=2))


def test_merging_keeps_the_first_text_fills_gaps_and_keeps_the_largest_weight(write):
    first = write("a.txt", "Losartan\nwarfarin\n")
    second = write(
        "b.csv", "text,category,pronunciation,weight,recall\nlosartan,drug,/ləˈsɑːtən/,3,\nLOSARTAN,pill,x,2,0.5\n"
    )
    terms, duplicates = read_merged([first, second])
    assert terms == [Term("Losartan", "drug", "en", "/ləˈsɑːtən/", 3.0, 0.5), Term("warfarin")]
    assert duplicates == 2


def test_merging_refuses_bad_rows_too(write):
    with pytest.raises(UserError, match=r"b\.txt has 1 bad line"):
        read_merged([write("a.txt", "losartan\n"), write("b.txt", "\x07\n")])


def test_statistics_tell_what_a_lexicon_holds():
    assert statistics(TERMS) == {
        "terms": 3,
        "by_category": {"condition": 1, "drug": 1, "procedure": 1},
        "by_language": {"en": 1, "en-GB": 1, "zh": 1},
        "pronunciation": {"respelling": 1, "ipa": 1, "none": 1},
        "weight": {"least": 1.0, "most": 2.0, "sum": 4.5},
        "recall": {"known": 2, "mean": 0.625},
        "characters": {"shortest": 3, "longest": 22, "distinct": ' ",acefhilnorstu图心电'},
    }


@pytest.mark.parametrize("text", ["???", "!!!", "…", "药", "♥"])
def test_a_term_that_nobody_can_pronounce_is_named(text):
    with pytest.raises(UserError, match="nobody can pronounce"):
        check_terms(SpeechConfig(), [Term("losartan"), Term(text)])


def test_a_pronunciation_makes_any_term_pronounceable():
    check_terms(SpeechConfig(), [Term("药", pronunciation="yow"), Term("♥", pronunciation="/hɑːɹt/")])
