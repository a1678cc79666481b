from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.manifests.rows import manifest_table
from rayapp.errors import UserError
from rayapp.manifest import Manifest
from rayapp.records import PHONEMES_TYPE
from rayapp.storage import published_folder


@pytest.fixture
def manifest(tmp_path):
    """A manifest of other tools: two rows, with the given columns."""

    def make(**columns):
        with published_folder(tmp_path / "foreign", "key") as folder:
            (folder / "data").mkdir()
            table = pa.table({"text": ["one", "two"]} | columns)
            pq.write_table(table, folder / "data" / "train-00000-of-00001.parquet")
        return Manifest(tmp_path / "foreign")

    return make


def test_phonemes_that_are_not_told_are_null(manifest):
    for columns in ({}, {"phonemes": pa.nulls(2)}):
        told = manifest(**columns).phonemes("train")
        assert told.type == PHONEMES_TYPE
        assert told.to_pylist() == [None, None]


def test_times_of_another_precision_are_read(manifest):
    precise = pa.list_(pa.struct([("symbol", pa.string()), ("start_seconds", pa.float64())]))
    told = manifest(phonemes=pa.array([[{"symbol": "s", "start_seconds": 0.5}], []], precise)).phonemes("train")
    assert told.to_pylist() == [[{"symbol": "s", "start_seconds": 0.5}], []]


def test_phonemes_of_another_kind_are_refused_with_their_type(manifest):
    with pytest.raises(UserError, match="phonemes of type string in split train"):
        manifest(phonemes=["w V n", "t u:"]).phonemes("train")


def test_columns_that_other_tools_do_not_have_are_null(manifest):
    foreign = manifest()
    wanted = ["text", "terms", "snr_db"]
    rows = [{"text": "one", "terms": None, "snr_db": None}, {"text": "two", "terms": None, "snr_db": None}]
    assert foreign.read("train", wanted).to_pylist() == rows
    assert next(foreign.batches("train", wanted)).to_pylist() == rows
    assert foreign.take("train", [1], wanted).to_pylist() == rows[1:]


def test_a_manifest_without_what_everything_needs_is_refused(manifest):
    with pytest.raises(UserError, match=r"has no audio and no duration_seconds in train-\S+; it has the columns text"):
        manifest().read("train", ["audio", "text", "duration_seconds"])


def test_rows_are_taken_in_the_order_that_was_asked_for(write_manifest, utterances):
    manifest = Manifest(write_manifest(manifest_table(utterances[:3])))
    texts = manifest.read("train", ["text"])["text"].to_pylist()
    taken = manifest.take("train", [2, 0, 2], ["text", "audio"])
    assert taken["text"].to_pylist() == [texts[2], texts[0], texts[2]]
    assert manifest.take("train", [], ["text"]).num_rows == 0


def test_taking_rows_reads_no_other_row_groups(write_manifest, utterances):
    location = Path(write_manifest(utterances[:3], row_group_size=1))
    shard = location / "data" / "train-00000-of-00001.parquet"
    damaged = bytearray(shard.read_bytes())
    damaged[4 : shard.stat().st_size // 4] = bytes(shard.stat().st_size // 4 - 4)  # the first of three row groups
    shard.write_bytes(damaged)
    manifest = Manifest(location)
    assert manifest.take("train", [2], ["text", "audio"])["text"].to_pylist() == ["take losartan with water"]
    with pytest.raises(OSError, match=r"(?i)deserializ"):
        manifest.take("train", [0], ["text", "audio"])
