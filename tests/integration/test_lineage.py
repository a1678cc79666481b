import pytest

from rayapp.lineage import Lineage
from rayapp.manifest import Manifest

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
    assert any(trained["slot_id"] in line for line in trace.came_from)
    assert "lexicon packaged with rayapp" in trace.came_from
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


def test_what_nobody_knows_has_no_trace(lineage):
    assert lineage.trace("unheard-of") == []
