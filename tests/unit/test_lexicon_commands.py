"""`rayapp lexicon`, and what it finds in texts and evaluations."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.lexicon.corpus import Corpus, phrases_apart
from pipelines.lexicon.mine import mine
from pipelines.lexicon.terms import read_terms
from pipelines.lexicon.weak import weak_terms
from rayapp.errors import UserError
from rayapp.records import Term
from rayapp.storage import published_folder

NOTES = [
    "Patient started on losartan today for hypertension.",
    "Losartan was well tolerated; the patient went home.",
    "We stopped losartan, and the ejection fraction has been stable.",
    "The ejection fraction was low, so we ordered another echo.",
    "Her ejection fraction improved with losartan.",
    "Follow-up for E11.9 in the morning, and please call the patient.",
    "The code is E11.9, and E11.9 it stays.",
]


@pytest.fixture
def notes(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("\n".join(NOTES), encoding="utf-8")
    return str(path)


@pytest.fixture
def evaluation(tmp_path):
    """A folder as `rayapp evaluate` publishes it: losartan is heard once in two, warfarin always, Celexa never."""
    rows = [
        ("test", "losartan", "drug", 1, 0),
        ("test", "E11.9", "code", 1, 1),
        ("test", "Celexa", "drug", 2, 0),
        ("unseen", "losartan", "drug", 1, 1),
        ("unseen", "warfarin", "drug", 1, 1),
        ("unseen", "aspirin", "drug", 0, 0),  # written once, and said by nobody
    ]
    names = ("set", "term", "category", "said", "after_heard")
    with published_folder(tmp_path / "evaluation", "key") as staging:
        columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
        pq.write_table(pa.table(columns), staging / "terms.parquet")
    return str(tmp_path / "evaluation")


def run(*arguments, cwd):
    """Calls the command as a person does; its exit code, JSON and messages."""
    answer = subprocess.run(
        [sys.executable, "-m", "rayapp.cli", "lexicon", *arguments, "--json"],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    return answer.returncode, json.loads(answer.stdout), answer.stderr


def test_mining_finds_words_and_phrases_that_stand_out_with_their_usual_spelling(notes):
    found = {candidate.text: candidate for candidate in mine(Corpus([notes]), "en", min_count=3, limit=10)}
    assert list(found) == ["losartan", "E11.9", "ejection fraction"]
    assert [entry.occurrences for entry in found.values()] == [4, 3, 3]
    assert found["losartan"].contexts[0] == "Patient started on losartan today for hypertension."


def test_a_capital_at_the_start_of_a_sentence_does_not_decide_the_spelling(tmp_path):
    (tmp_path / "a.txt").write_text("Torsemide, yes.\n" * 5 + "Hold torsemide.\nHold Celexa.\n" + "Celexa, yes.\n" * 5)
    found = mine(Corpus([str(tmp_path / "a.txt")]), "en", min_count=3, limit=10)
    assert {candidate.text for candidate in found} == {"torsemide", "Celexa"}


def test_a_common_word_is_no_candidate_however_often_it_is_said(tmp_path):
    (tmp_path / "a.txt").write_text("the patient and the house in the morning\n" * 50)
    with pytest.raises(UserError, match="nothing stands out of 400 words 3 times or more; lower --min-count"):
        mine(Corpus([str(tmp_path / "a.txt")]), "en", min_count=3, limit=10)


def test_a_term_is_told_from_its_chance_neighbours(tmp_path):
    rng = np.random.default_rng(0)
    verbs, times = ("start", "stop", "hold", "give"), ("today", "tomorrow", "tonight", "again")
    lines = [f"{rng.choice(verbs)} torsemide {rng.choice(times)}" for _ in range(60)]
    (tmp_path / "a.txt").write_text("\n".join(lines))
    assert [c.text for c in mine(Corpus([str(tmp_path / "a.txt")]), "en", min_count=3, limit=10)] == ["torsemide"]


def test_most_terms_of_the_lexicon_come_out_of_sentences_that_were_written_around_them(tmp_path):
    terms = [term for term in read_terms() if term.category == "drug"]
    frames = ("please start {} today", "she has been on {} for years", "increase the {} a little", "no more {} for him")
    sentences = [frame.format(term.text) for term in terms for frame in frames]
    (tmp_path / "a.txt").write_text("\n".join(sentences))
    found = {c.text.casefold() for c in mine(Corpus([str(tmp_path / "a.txt")]), "en", min_count=3, limit=200)}
    known = {term.text.casefold() for term in terms}
    assert len(found & known) >= 0.95 * len(known)
    assert len(found - known) <= 0.05 * len(found)


def test_several_files_count_as_one_text(notes, tmp_path):
    (tmp_path / "more.txt").write_text("Losartan again.\n")
    found = mine(Corpus([notes, f"file://{tmp_path}/more.txt"]), "en", min_count=3, limit=1)
    assert [(c.text, c.occurrences) for c in found] == [("losartan", 5)]


def test_words_of_scripts_with_vowel_signs_stay_whole():
    assert [word.text for stretch in phrases_apart("उच्च रक्तचाप") for word in stretch] == ["उच्च", "रक्तचाप"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "there are no words in"),
        (b"losartan\n\xff\xfe\n", r"cannot be read as UTF-8: line 2 \(byte 0xFF\)"),
        (None, "does not exist"),
    ],
)
def test_text_that_cannot_be_mined_is_named(tmp_path, content, message):
    if content is not None:
        (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(UserError, match=message):
        mine(Corpus([str(tmp_path / "a.txt")]), "en", min_count=3, limit=10)


@pytest.mark.parametrize("language", ["zh", "tlh"])
def test_a_language_whose_words_are_not_known_is_told_which_are(notes, language):
    with pytest.raises(UserError, match=f"how often words are said in '{language}' is not known; known: ar, .*en"):
        mine(Corpus([notes]), language, min_count=3, limit=10)


def test_weak_terms_come_worst_first_with_raised_weights_and_what_the_lexicon_knows(evaluation):
    lexicon = [Term("celexa", "drug", "en", "suh-lexa", 2.0), Term("aspirin")]
    found = weak_terms(evaluation, lexicon, below=0.9)
    assert [(entry.heard, entry.said) for entry in found] == [(0, 2), (1, 2)]
    assert [entry.term for entry in found] == [
        Term("celexa", "drug", "en", "suh-lexa", weight=4.0, recall=0.0),
        Term("losartan", "drug", weight=1.5, recall=0.5),
    ]


def test_a_folder_that_is_no_evaluation_is_named(tmp_path, evaluation):
    with pytest.raises(UserError, match=r"evaluation .*none does not exist"):
        weak_terms(str(tmp_path / "none"), [], below=0.9)
    with published_folder(tmp_path / "other", "key"):
        pass
    with pytest.raises(UserError, match=r"is no evaluation: its terms\.parquet cannot be read"):
        weak_terms(str(tmp_path / "other"), [], below=0.9)


def test_convert_merges_lists_and_says_how_many_were_duplicates(tmp_path):
    (tmp_path / "a.txt").write_text("losartan\nwarfarin\n")
    (tmp_path / "b.tsv").write_text("text\tcategory\nLosartan\tdrug\n")
    code, values, _ = run("convert", "a.txt", "b.tsv", "--output", "all.jsonl", cwd=tmp_path)
    assert (code, values) == (0, {"lexicon": "all.jsonl", "terms": 2, "duplicates_merged": 1})
    assert read_terms(tmp_path / "all.jsonl") == [Term("losartan", "drug"), Term("warfarin")]


def test_bad_input_exits_with_2_and_writes_nothing(tmp_path, notes):
    (tmp_path / "bad.txt").write_text("\x07\n")
    code, values, _ = run("convert", "bad.txt", "--output", "out.csv", cwd=tmp_path)
    assert (code, values["exit_code"]) == (2, 2)
    assert "line 1" in values["error"]
    code, values, _ = run("mine", notes, "--output", "out.xlsx", cwd=tmp_path)
    assert code == 2
    assert "known: .csv" in values["error"]
    assert not list(tmp_path.glob("out*"))


def test_mined_and_weak_terms_are_lexicons_that_can_be_read(tmp_path, notes, evaluation):
    code, values, _ = run("mine", notes, "--output", "found.csv", "--limit", "2", cwd=tmp_path)
    assert code == 0
    assert [entry["text"] for entry in values["candidates"]] == ["losartan", "E11.9"]
    assert read_terms(tmp_path / "found.csv") == [Term("losartan"), Term("E11.9")]
    code, values, _ = run("weak", evaluation, "--output", "weak.parquet", "--lexicon", "found.csv", cwd=tmp_path)
    assert code == 0
    assert [(entry["text"], entry["said"], entry["heard"]) for entry in values["weak"]] == [
        ("Celexa", 2, 0),
        ("losartan", 2, 1),
    ]
    assert [term.weight for term in read_terms(tmp_path / "weak.parquet")] == [2.0, 1.5]


def test_what_looks_like_markup_is_shown_as_it_stands(tmp_path):
    (tmp_path / "a.txt").write_text("[/red] torsemide [bold]\n" * 3)
    command = [sys.executable, "-m", "rayapp.cli", "lexicon", "mine", str(tmp_path / "a.txt")]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "[/red] torsemide [bold]" in answer.stdout


def test_when_no_term_is_weak_nothing_is_written(tmp_path, evaluation):
    code, values, _ = run("weak", evaluation, "--below", "0", "--output", "weak.csv", cwd=tmp_path)
    assert (code, values) == (0, {"weak": [], "lexicon": None})
    assert not (tmp_path / "weak.csv").exists()


@pytest.mark.parametrize("command", ["convert", "stats", "mine", "weak"])
def test_each_command_explains_itself_with_an_example(command):
    program = f"import sys; sys.argv = ['rayapp', '{command}', '--help']; from rayapp.cli.lexicon import app; app()"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert f"rayapp lexicon {command}" in answer.stdout
    assert "--json" in answer.stdout
