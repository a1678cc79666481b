import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.evaluation.training_data import overlap, training_data
from rayapp.errors import UserError
from rayapp.ids import path_id
from rayapp.registry import Registry
from rayapp.storage import published_folder

COLUMNS = ("utterance_id", "text", "language", "terms", "voice", "prompt")


def row(number, text, terms=(), voice="en-us+m3", prompt="Start {term}."):
    return dict(zip(COLUMNS, (f"u{number}", text, "en", list(terms), voice, prompt), strict=True))


@pytest.fixture
def model(tmp_path):
    """A model that was trained on two sentences, from one that was trained on a third."""

    def manifest(name, rows):
        with published_folder(tmp_path / name, name) as staging:
            (staging / "data").mkdir()
            pq.write_table(pa.Table.from_pylist(rows), staging / "data" / "train-00000-of-00001.parquet")
        return str(tmp_path / name)

    def trained(name, source, start):
        with published_folder(tmp_path / name, name) as staging:
            (staging / "model.nemo").write_bytes(b"weights")
            config = {"sources": [{"manifest": source, "split": "train"}], "model": {"start": start}}
            (staging / "config.json").write_text(json.dumps(config))
        return tmp_path / name / "model.nemo"

    base = trained("base", manifest("everyday", [row(1, "Good morning.", prompt="Hello.")]), None)
    terms = manifest("medical", [row(2, "Start losartan.", ["losartan"]), row(3, "Stop Losartan.", ["Losartan"])])
    return trained("adapted", terms, str(base))


def test_lineage_tells_what_a_model_and_what_it_started_from_were_trained_on(model, tmp_path):
    data = training_data(model, tmp_path)
    assert data.told
    assert data.missing == []
    assert dict(data.terms) == {"losartan": 2}
    assert data.templates == {"Hello.", "Start {term}."}


def test_a_model_from_elsewhere_tells_nothing(tmp_path):
    (tmp_path / "model.nemo").write_bytes(b"weights")
    assert not training_data(tmp_path / "model.nemo", tmp_path).told


def test_the_registry_knows_where_a_copy_was_trained(model, tmp_path):
    registry = Registry(tmp_path)
    version = registry.publish("ward", model, path_id(model), {}, [], "key", tmp_path)
    registry.crown("ward", version, "")
    copy = registry.resolve("ward")
    assert copy != model
    assert dict(training_data(copy, tmp_path).terms) == {"losartan": 2}
    model.write_bytes(b"trained anew on something else")
    assert not training_data(copy, tmp_path).told


def test_a_manifest_that_is_gone_is_told(model, tmp_path):
    (tmp_path / "everyday" / "_COMPLETE").unlink()
    assert training_data(model, tmp_path).missing == [str(tmp_path / "everyday")]


def test_a_test_with_a_sentence_of_training_is_refused_however_it_is_written(model, tmp_path):
    with pytest.raises(UserError, match=r"set test: 1 of its 2 transcripts .* such as those of u8: judge it on others"):
        overlap("test", [row(7, "Stop warfarin."), row(8, "start LOSARTAN")], training_data(model, tmp_path))


def test_what_a_test_shares_besides_is_told(model, tmp_path):
    rows = [row(7, "Take losartan.", ["losartan"], voice="new"), row(8, "Take warfarin.", ["warfarin"], prompt="Take.")]
    found = overlap("test", rows, training_data(model, tmp_path))
    assert (found.voices, found.terms, found.templates) == (
        (["en-us+m3"], 2),
        (["losartan"], 2),
        (["Start {term}."], 2),
    )


def test_utterances_in_which_nothing_is_said_overlap_with_nothing(model, tmp_path):
    data = training_data(model, tmp_path)
    assert overlap("silence", [row(9, "")], data).terms == ([], 0)
