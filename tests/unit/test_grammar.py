import re

import numpy as np
import pytest

from pipelines.lexicon.terms import read_terms
from pipelines.transcripts.grammar import load_grammar
from pipelines.transcripts.spans import split_by_language
from rayapp.errors import RejectedError
from rayapp.ids import content_id
from rayapp.records import Term
from rayapp.text.scripts import script_of

LOSARTAN = Term("losartan", "drug", pronunciation="low-sartan")


def written(name, draws=1, max_patterns=None, max_alternatives=None, seed=0):
    """(pattern, transcript) of every pattern, with a term of its category and as many companions as it takes."""
    grammar, rng = load_grammar(name, max_patterns, max_alternatives), np.random.default_rng(seed)
    for _ in range(draws):
        for pattern in grammar.patterns.values():
            term = Term("losartan", pattern.category, pronunciation="low-sartan") if pattern.category else None
            companions = [Term("CT scan"), Term("x", pronunciation="ex")][: pattern.companions]
            yield pattern, grammar.write(pattern.pattern_id, term, rng, companions)


@pytest.mark.parametrize(
    ("name", "part", "expected"),
    [
        ("clinical_en", (None, None), "8bc7304d27b657db"),
        ("clinical_en", (24, 3), "0160f20cc6030c78"),
        ("everyday_en", (None, None), "a9e4cde801bc16ef"),
        ("everyday_en", (24, 3), "a6683a23d774ba5b"),
    ],
)
def test_the_english_grammars_write_what_they_always_wrote(name, part, expected):
    """Models were trained on these sentences: the same draws must go on to give them."""
    rows = [(t.text, t.spoken, t.terms, t.language, t.spans) for _, t in written(name, 10, *part, seed=11)]
    assert content_id(rows) == expected


@pytest.mark.parametrize(
    ("name", "fewest", "categories"),
    [
        ("dialogue_en", 25, {"drug", "anatomy", "procedure", "code"}),
        ("clinical_zh", 30, {"drug", "anatomy", "procedure", "code", "condition"}),
        ("everyday_zh", 20, {None}),
    ],
)
def test_each_further_grammar_has_many_patterns_of_every_category_and_no_idle_slots(name, fewest, categories):
    grammar = load_grammar(name)
    assert len(grammar.patterns) >= fewest
    assert {pattern.category for pattern in grammar.patterns.values()} == categories
    used, rest = set(), [pattern.text for pattern in grammar.patterns.values()]
    while rest:
        new = set(re.findall(r"\{(\w+)\}", rest.pop())) & set(grammar.slots) - used
        used |= new
        rest += [alternative for slot in new for alternative in grammar.slots[slot]]
    assert used == set(grammar.slots)


@pytest.mark.parametrize("name", ["dialogue_en", "clinical_zh", "everyday_zh"])
def test_whatever_is_drawn_is_a_sentence_with_its_terms_and_nothing_left_to_fill_in(name):
    for pattern, transcript in written(name, draws=5):
        assert not re.search(r"[{}\d]|  ", transcript.text + transcript.spoken)
        assert transcript.language == load_grammar(name).language
        assert all(term.casefold() in transcript.text.casefold() for term in transcript.terms)
        assert len(transcript.terms) == bool(pattern.category) + pattern.companions


def test_a_dialogue_has_a_span_for_each_turn_and_its_text_is_the_turns_in_a_row():
    grammar = load_grammar("dialogue_en")
    assert grammar.roles == ("clinician", "patient")
    for pattern, transcript in written("dialogue_en", draws=3):
        spans = transcript.spans
        assert 2 <= len(spans) <= 6
        assert [span.role for span in spans] == [role for role, _ in pattern.turns]
        assert set(grammar.roles) == {span.role for span in spans}
        assert all(span.language == "en" and span.text[-1] in ".?!" and not span.text[0].islower() for span in spans)
        assert transcript.text == " ".join(span.text for span in spans)
        assert transcript.spoken == " ".join(span.spoken for span in spans)
        assert "low-sartan" in transcript.spoken


def test_mandarin_dictation_is_split_where_the_language_changes():
    for pattern, transcript in written("clinical_zh", draws=3):
        assert {span.language for span in transcript.spans} == {"zh", "en"}, pattern
        english = [span for span in transcript.spans if span.language == "en"]
        assert any(span.text.startswith("losartan") and span.spoken.startswith("low-sartan") for span in english)
        for span in transcript.spans:
            script = {"zh": "CJK", "en": "LATIN"}[span.language]
            assert {script_of(c) for c in span.text} - {""} == {script}


def test_chinese_and_latin_writing_stand_apart():
    for _, transcript in written("clinical_zh", draws=3):
        assert not re.search(
            r"[\u4e00-\u9fff][A-Za-z]|[A-Za-z][\u4e00-\u9fff]|[\u4e00-\u9fff] [\u4e00-\u9fff]", transcript.text
        )


def test_everyday_mandarin_needs_one_voice():
    assert all(transcript.spans == () for _, transcript in written("everyday_zh"))


def test_the_terms_of_the_packaged_lexicon_fit_into_the_other_styles():
    rng = np.random.default_rng(3)
    for name in ("dialogue_en", "clinical_zh"):
        grammar = load_grammar(name)
        for term in read_terms():
            patterns = [p for p in grammar.patterns.values() if p.category == term.category and not p.companions]
            transcript = grammar.write(patterns[int(rng.integers(len(patterns)))].pattern_id, term, rng)
            assert term.text.casefold() in transcript.text.casefold()


def test_held_out_patterns_of_a_dialogue_are_of_every_category():
    trained, held_out = load_grammar("dialogue_en").split_patterns(0.2)
    assert {p.category for p in held_out} == {p.category for p in trained} == {"drug", "anatomy", "procedure", "code"}
    assert not {p.pattern_id for p in trained} & {p.pattern_id for p in held_out}


def stretches(text, language="zh", terms=(), spoken=None):
    spans = split_by_language(text, spoken or text, language, terms)
    return [(span.text, span.language) for span in spans]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("行 CT 检查。", [("行", "zh"), ("CT", "en"), ("检查。", "zh")]),
        ("服用metformin 500 mg bid。", [("服用", "zh"), ("metformin", "en"), ("500 mg bid。", "zh")]),
        ("诊断 type 2 diabetes，加药。", [("诊断", "zh"), ("type 2 diabetes，", "en"), ("加药。", "zh")]),
        ("体温38.5°C，用 losartan", [("体温38.5°C，用", "zh"), ("losartan", "en")]),
        ("给予“losartan”治疗", [("给予", "zh"), ("“losartan”", "en"), ("治疗", "zh")]),
        ("血压 140/90 mmHg。", [("血压 140/90 mmHg。", "zh")]),
        ("今天天气好。", [("今天天气好。", "zh")]),
    ],
)
def test_foreign_words_in_mandarin_are_told_by_their_letters(text, expected):
    assert stretches(text) == expected


def test_a_term_of_a_language_with_the_same_letters_is_told_by_the_lexicon():
    terms = [Term("Weltschmerz", language="de"), Term("losartan")]
    assert stretches("She felt Weltschmerz, took losartan.", "en", terms) == [
        ("She felt", "en"),
        ("Weltschmerz,", "de"),
        ("took losartan.", "en"),
    ]
    assert stretches("She felt 忐忑 today.", "en") == [("She felt", "en"), ("忐忑", "zh"), ("today.", "en")]


def test_greek_letters_are_signs_and_no_other_language():
    assert stretches("a β-blocker", "en") == [("a β-blocker", "en")]


def test_the_spoken_form_is_split_like_the_written_one_and_keeps_its_role():
    terms = [Term("E11.9", pronunciation="E eleven point nine"), Term("losartan", pronunciation="/ləˈsɑːtən/")]
    spans = split_by_language(
        "编码 E11.9，用 losartan。", "编码 E eleven point nine，用 /ləˈsɑːtən/。", "zh", terms, "clinician"
    )
    assert [span.spoken for span in spans] == ["编码", "E eleven point nine，", "用", "/ləˈsɑːtən/。"]
    assert {span.role for span in spans} == {"clinician"}


def test_a_spoken_form_in_other_languages_than_the_written_one_is_rejected():
    with pytest.raises(RejectedError, match="languages of what is written"):
        split_by_language("用 losartan。", "用药。", "zh", [LOSARTAN])
