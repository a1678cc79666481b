import pyarrow as pa
import pyarrow.parquet as pq
import pytest

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
