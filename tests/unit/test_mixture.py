from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.training.mixture import Mixture, SetAside, Source, read_texts
from rayapp.errors import UserError
from rayapp.manifest import Manifest
from rayapp.records import MANIFEST_SCHEMA
from rayapp.storage import join, open_filesystem, published_location


def rows(count, name="u", **fields):
    """Utterances of 1, 2, 3, 1, 2, 3 … seconds, without audio: nothing here listens to it."""
    made = [
        {"utterance_id": f"{name}{number}", "text": f"text {number}", "duration_seconds": 1.0 + number % 3} | fields
        for number in range(count)
    ]
    return pa.Table.from_pylist([{"split": "train", "status": "ok"} | row for row in made], schema=MANIFEST_SCHEMA)


@pytest.fixture
def sources(write_manifest):
    """Manifests of so many utterances, and what is asked of each."""

    def make(*counts_and_fields):
        return [
            Source(write_manifest(rows(count, name), name), **fields)
            for name, (count, fields) in zip("abc", counts_and_fields, strict=False)
        ]

    return make


def taken(mixture, epoch=0, seed=0):
    """IDs by source."""
    ids = mixture.utterance_ids(mixture.epoch_rows(epoch, seed))
    return [[name for name in ids if name[0] == source] for source in "abc"[: len(mixture.rows)]]


def test_an_epoch_takes_every_utterance_of_every_source_once(sources):
    mixture = Mixture.open(sources((7, {}), (4, {})))
    assert sorted(mixture.epoch_rows(0, seed=0)) == list(range(11))
    assert [len(ids) for ids in taken(mixture)] == [7, 4]
    assert mixture.hours_per_epoch == pytest.approx((1 + 2 + 3 + 1 + 2 + 3 + 1 + 1 + 2 + 3 + 1) / 3600)


def test_some_of_a_source_are_drawn_anew_in_each_epoch_and_none_twice(sources):
    mixture = Mixture.open(sources((30, {"utterances": 10})))
    first, again, second = (taken(mixture, epoch)[0] for epoch in (0, 0, 1))
    assert first == again
    assert set(first) != set(second)
    assert len(set(first)) == len(set(second)) == 10
    assert taken(mixture, seed=1) != taken(mixture, seed=0)


def test_temperature_takes_small_sources_more_often_and_leaves_the_total(sources):
    evened = Mixture.open(sources((90, {}), (10, {})), temperature=2.0)
    assert evened.counts == (75, 25)  # √90 to √10
    _, small = taken(evened)
    assert {small.count(name) for name in set(small)} == {2, 3}
    assert len(set(small)) == 10
    assert Mixture.open(sources((90, {}), (10, {})), temperature=1e6).counts == (50, 50)


def test_weights_count_beside_sizes(sources):
    assert Mixture.open(sources((30, {"weight": 2.0}), (30, {}))).counts == (40, 20)
    assert sum(Mixture.open(sources((10, {"weight": 0.3}), (11, {}), (12, {"weight": 0.7}))).counts) == 33


def test_a_share_comes_on_top_of_the_other_sources(sources):
    assert Mixture.open(sources((90, {}), (500, {"share": 0.1}))).counts == (90, 10)
    assert Mixture.open(sources((60, {}), (500, {"share": 0.1}), (3, {"share": 0.3}))).counts == (60, 10, 30)


def test_shares_that_leave_no_room_are_refused(sources):
    with pytest.raises(UserError, match=r"shares of 0.5, 0.5 of an epoch; they must leave room"):
        Mixture.open(sources((5, {"share": 0.5}), (5, {"share": 0.5}), (5, {})))
    with pytest.raises(UserError, match=r"shares of 0.1 of an epoch"):
        Mixture.open(sources((5, {"share": 0.1})))
    with pytest.raises(UserError, match=r"has share 0.1 beside utterances or weight"):
        sources((5, {"share": 0.1, "utterances": 3}))


def test_utterances_that_are_too_long_or_of_no_known_length_are_set_aside_by_name(write_manifest):
    table = rows(4)
    lengths = pa.array([1.0, 31.26, None, 30.0], pa.float64())
    table = table.set_column(table.schema.get_field_index("duration_seconds"), "duration_seconds", lengths)
    mixture = Mixture.open([Source(write_manifest(table))], max_seconds=30)
    assert sorted(taken_ids(mixture)) == ["u0", "u3"]
    assert mixture.set_aside == (
        SetAside("u1", "it lasts 31.3 s; 30 s is the most"),
        SetAside("u2", "its manifest tells no duration"),
    )


def taken_ids(mixture):
    return mixture.utterance_ids(mixture.epoch_rows(0, 0))


def test_sources_without_utterances_are_refused(write_manifest):
    location = write_manifest(rows(3))
    with pytest.raises(UserError, match=r"has no split 'dev'; it has train"):
        Mixture.open([Source(location, "dev")])
    with pytest.raises(UserError, match=r"has no utterances of at most 0.5 s in split 'train'"):
        Mixture.open([Source(location)], max_seconds=0.5)
    with pytest.raises(UserError, match=r"has no utterances in split 'train'"):
        Mixture.open([Source(empty_manifest(write_manifest))])


def empty_manifest(write_manifest):
    location = write_manifest(rows(1), "empty")
    pq.write_table(rows(0), shard_of(location))
    return location


def shard_of(location):
    return Path(location) / "data" / "train-00000-of-00001.parquet"


def test_a_shard_that_cannot_be_read_is_named(write_manifest):
    location = write_manifest(rows(3))
    shard_of(location).write_bytes(b"PAR1, as it were")
    with pytest.raises(UserError, match=r"shard .*train-00000-of-00001.parquet of manifest .* cannot be read"):
        Mixture.open([Source(location)])


def test_a_manifest_without_what_training_needs_is_refused(write_manifest):
    location = write_manifest(rows(3))
    pq.write_table(rows(3).drop_columns(["text", "duration_seconds"]), shard_of(location))
    with pytest.raises(UserError, match=r"has no duration_seconds and no text in .*; it has the columns utterance_id"):
        Mixture.open([Source(location)])


def test_rows_are_read_from_their_row_groups_alone(write_manifest):
    location = write_manifest(rows(12), row_group_size=4)
    mixture = Mixture.open([Source(location)])
    shard = shard_of(location)
    groups = pq.ParquetFile(shard).metadata
    start = groups.row_group(1).column(0).dictionary_page_offset
    stop = groups.row_group(2).column(0).dictionary_page_offset
    damaged = bytearray(shard.read_bytes())
    damaged[start:stop] = bytes(stop - start)
    shard.write_bytes(damaged)
    read = [
        pair
        for numbers, table in mixture.read(np.array([9, 2, 0]), ["text"])
        for pair in zip(numbers.tolist(), table["text"].to_pylist(), strict=True)
    ]
    assert read == [(0, "text 0"), (2, "text 2"), (9, "text 9")]
    with pytest.raises(UserError, match="cannot be read"):
        list(mixture.read(np.array([5]), ["text"]))


def test_the_numbers_of_several_shards_lead_to_their_rows(write_manifest):
    location = write_manifest(rows(5), row_group_size=2)
    shard_of(location).rename(shard_of(location).with_name("train-00000-of-00002.parquet"))
    pq.write_table(rows(4, "v"), shard_of(location).with_name("train-00001-of-00002.parquet"), row_group_size=3)
    mixture = Mixture.open([Source(location), Source(write_manifest(rows(2, "w"), "other"))])
    assert mixture.utterance_ids(np.array([10, 0, 4, 8, 5])) == ["w1", "u0", "u4", "v3", "v0"]
    assert mixture.groups_of(np.arange(11)).tolist() == [0, 0, 1, 1, 2, 3, 3, 3, 4, 5, 5]
    assert mixture.place(8) == "train-00001-of-00002.parquet:3"
    assert read_texts(mixture.shards[1]) == ["text 0", "text 1", "text 2", "text 3"]


def test_utterances_of_other_tools_are_named_by_their_place(write_manifest):
    location = write_manifest(rows(3))
    pq.write_table(rows(3).select(["audio", "text", "duration_seconds"]), shard_of(location))
    mixture = Mixture.open([Source(location)])
    assert mixture.utterance_ids(np.array([2])) == ["train-00000-of-00001.parquet:2"]


def test_manifests_may_lie_on_an_object_store(s3):
    location = s3("mixture/manifest")
    with published_location(location, "key") as staging:
        filesystem, path = open_filesystem(join(staging, "data", "train-00000-of-00001.parquet"))
        pq.write_table(rows(5), path, filesystem=filesystem, row_group_size=2)
    assert Manifest(location).splits == ["train"]
    mixture = Mixture.open([Source(location)])
    assert sorted(taken_ids(mixture)) == ["u0", "u1", "u2", "u3", "u4"]
