import pytest

from rayapp.lineage import Lineage
from rayapp.manifest import Manifest
from rayapp.storage import key_of

pytestmark = pytest.mark.slow


@pytest.fixture
def lineage(small_manifest, small_model):
    return Lineage([small_manifest.parent, small_model.parent])


def test_an_utterance_is_followed_to_its_slot_its_lexicon_and_the_model_that_learnt_from_it(
    lineage, small_manifest, small_model
):
    trained = Manifest(small_manifest).read("train", ["utterance_id", "slot_id"]).to_pylist()[0]
    (trace,) = lineage.trace(trained["utterance_id"])
    assert trace.facts["slot_id"] == trained["slot_id"]
    assert trace.came_from == [
        f"slot {trained['slot_id']} of {small_manifest}/plan",
        f"manifest {small_manifest}",
        "lexicon packaged with rayapp",
    ]
    assert trace.went_into == [f"model {small_model}"]


def test_an_utterance_of_a_test_did_not_go_into_the_model(lineage, small_manifest):
    tested = Manifest(small_manifest).read("test", ["utterance_id"])["utterance_id"][0].as_py()
    (trace,) = lineage.trace(tested)
    assert trace.went_into == []


def test_a_term_is_counted_where_it_is_said(lineage, small_manifest):
    terms = Manifest(small_manifest).read("train", ["terms"])["terms"].to_pylist()
    term = next(row[0] for row in terms if row)
    (trace,) = lineage.trace(term.upper())
    assert trace.facts["by_split"]["train"] == sum(term in row for row in terms)


def test_a_model_is_followed_to_what_it_learnt_from(lineage, small_manifest, small_model):
    (trace,) = lineage.trace(str(small_model))
    assert trace.came_from == [f"manifest {small_manifest}", "lexicon packaged with rayapp"]


def test_a_transcript_is_followed_to_all_that_speak_it(lineage, small_manifest, small_model):
    rows = Manifest(small_manifest).read("train", ["transcript_id", "utterance_id"]).to_pylist()
    transcript_id = rows[0]["transcript_id"]
    (trace,) = lineage.trace(transcript_id)
    speak = [row["utterance_id"] for row in rows if row["transcript_id"] == transcript_id]
    assert trace.facts["utterances"] == len(speak)
    assert all(f"utterance {each} in train of {small_manifest}" in trace.went_into for each in speak)
    assert f"model {small_model}" in trace.went_into


def test_a_run_goes_by_its_key(lineage, small_manifest, small_model):
    (trace,) = lineage.trace(key_of(small_manifest))
    assert trace.what == f"manifest {small_manifest}"
    assert trace.went_into == [f"model {small_model}"]


def test_what_nobody_knows_has_no_trace(lineage):
    assert lineage.trace("unheard-of") == []
