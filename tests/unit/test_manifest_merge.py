import json

import pyarrow as pa
import pytest

from pipelines.manifests import merge as merging
from pipelines.manifests.card import write_card
from pipelines.manifests.diff import diff
from pipelines.manifests.merge import merge
from pipelines.manifests.rows import manifest_table
from pipelines.manifests.validate import validate
from rayapp.errors import UserError
from rayapp.manifest import Manifest
from rayapp.storage import key_of

SCHEMA = manifest_table([]).schema


def changed(utterances, number, **columns):
    rows = manifest_table(utterances).to_pylist()
    rows[number] |= columns
    return pa.Table.from_pylist(rows, SCHEMA)


def ids_of(manifest, split):
    return manifest.read(split, ["utterance_id"])["utterance_id"].to_pylist()


def test_each_utterance_is_there_once(tmp_path, write_manifest, utterances):
    one, two = write_manifest(utterances[:5], "one"), write_manifest(utterances[2:], "two")
    merged = merge([one, f"file://{two}"], f"file://{tmp_path}/both")
    assert (merged.rows, merged.repeated) == (7, 3)
    manifest = Manifest(tmp_path / "both")
    assert ids_of(manifest, "train") == [u.utterance_id for u in utterances[:3]]
    assert {split: manifest.count(split) for split in manifest.shard_splits} == {
        "rejected": 1,
        "test": 1,
        "test_general": 1,
        "train": 3,
        "validation": 1,
    }
    assert not validate(manifest).counts


def test_a_merged_manifest_says_where_it_comes_from(tmp_path, write_manifest, utterances):
    one, two = write_manifest(utterances[:2], "one"), write_manifest(utterances[2:], "two")
    merge([one, two], str(tmp_path / "both"))
    sources = json.loads((tmp_path / "both" / "sources.json").read_text())
    assert sources == [{"manifest": m, "key": key_of(m), "licences": ["unknown"]} for m in (one, two)]
    assert "merged from" in (tmp_path / "both" / "README.md").read_text()


def test_the_licence_of_all_sources_is_that_of_the_merged_manifest(tmp_path, write_manifest, utterances):
    one, two = write_manifest(utterances[:2], "one"), write_manifest(utterances[2:], "two")
    for location in (one, two):
        write_card(location, "source", ["cc-by-nc-4.0"])
    merge([one, two], str(tmp_path / "both"))
    card = Manifest(tmp_path / "both").card()
    assert (card["license"], "licenses" in card) == ("cc-by-nc-4.0", False)
    assert "cloned-voices" not in card["tags"]


def test_licences_that_differ_are_all_kept_however_often_one_merges(tmp_path, write_manifest, utterances):
    parts = [write_manifest(utterances[n : n + 2], f"part{n}") for n in (0, 2, 4)]
    for location, licence in zip(parts[:2], ("cc-by-4.0", "mit"), strict=True):
        write_card(location, "source", [licence], cloned_voices=licence == "mit")
    merge(parts[:2], str(tmp_path / "two"))
    merge([str(tmp_path / "two"), parts[2]], str(tmp_path / "three"))
    merged = Manifest(tmp_path / "three")
    assert merged.card()["license"] == "other"
    assert merged.licences == ["cc-by-4.0", "mit", "unknown"]
    assert "cloned-voices" in merged.card()["tags"]
    readme = (tmp_path / "three" / "README.md").read_text()
    assert "manifests of different licences: `cc-by-4.0`, `mit`, `unknown`" in readme
    sources = json.loads((tmp_path / "three" / "sources.json").read_text())
    assert [source["licences"] for source in sources] == [["cc-by-4.0", "mit"], ["unknown"]]


def test_the_datasets_library_reads_the_card_of_several_licences(tmp_path, write_manifest, utterances):
    import datasets

    one, two = write_manifest(utterances[:2], "one"), write_manifest(utterances[2:], "two")
    write_card(one, "source", ["mit"])
    merge([one, two], str(tmp_path / "both"))
    found = datasets.load_dataset(str(tmp_path / "both"), cache_dir=str(tmp_path / "cache"))
    assert found["train"].num_rows == 3


def test_rows_of_one_id_that_differ_are_named(tmp_path, write_manifest, utterances):
    one = write_manifest(utterances, "one")
    two = write_manifest(changed(utterances, 1, audio_hash="0" * 16), "two")
    with pytest.raises(UserError, match=rf"1 utterance_ids .*: {utterances[1].utterance_id};"):
        merge([one, two], str(tmp_path / "both"))
    assert not (tmp_path / "both").exists()


def test_what_was_made_after_all_is_not_rejected(tmp_path, write_manifest, utterances):
    rejected = utterances[0].rejected("speech: said nothing")
    one, two = write_manifest([rejected, utterances[6]], "one"), write_manifest(utterances[:2], "two")
    merged = merge([one, two], str(tmp_path / "both"))
    assert (merged.rows, merged.repeated) == (3, 1)
    assert ids_of(Manifest(tmp_path / "both"), "rejected") == [utterances[6].utterance_id]


def test_manifests_of_other_columns_are_refused_by_name(tmp_path, write_manifest, utterances):
    table = manifest_table(utterances)
    fewer = write_manifest(table.drop_columns(["turns", "heard"]), "fewer")
    with pytest.raises(UserError, match="differ in the columns heard, turns"):
        merge([write_manifest(utterances, "one"), fewer], str(tmp_path / "both"))


def test_shards_are_cut_where_they_are_full(tmp_path, write_manifest, utterances, monkeypatch):
    one, two = write_manifest(utterances[:2], "one"), write_manifest(utterances[2:3], "two")
    size = sum(path.stat().st_size for path in tmp_path.glob("*/data/train-*"))
    monkeypatch.setattr(merging, "_SHARD_BYTES", size / 1.5)
    merge([one, two], str(tmp_path / "both"))
    assert sorted(path.name for path in (tmp_path / "both" / "data").iterdir()) == [
        "train-00000-of-00002.parquet",
        "train-00001-of-00002.parquet",
    ]
    assert ids_of(Manifest(tmp_path / "both"), "train") == [u.utterance_id for u in utterances[:3]]


def test_a_merge_never_replaces_a_manifest_that_was_made_otherwise(tmp_path, write_manifest, utterances):
    one, two = write_manifest(utterances[:2], "one"), write_manifest(utterances[2:], "two")
    with pytest.raises(UserError, match="was not made by a merge"):
        merge([one, two], two)
    for _ in range(2):
        merge([one, two], str(tmp_path / "both"))
    assert ids_of(Manifest(two), "train") == [utterances[2].utterance_id]


def test_a_difference_tells_rows_apart_by_what_is_not_the_same(write_manifest, utterances):
    one = Manifest(write_manifest(utterances[:4], "one"))
    rows = changed(utterances[1:5], 0, audio_hash="0" * 16).to_pylist()
    rows[1]["utterance_id"] = "f" * 16
    two = Manifest(write_manifest(pa.Table.from_pylist(rows, SCHEMA), "two"))
    difference = diff(one, two)
    assert vars(difference) == {
        "only_in_first": ["a1"],
        "only_in_second": ["c1"],
        "filled_otherwise": ["a3"],
        "sounding_otherwise": ["a2"],
        "alike": 1,
    }


def test_a_manifest_does_not_differ_from_itself_and_rejected_rows_do_not_count(write_manifest, utterances):
    one, two = write_manifest(utterances, "one"), write_manifest(utterances[:6], "two")
    difference = diff(Manifest(one), Manifest(two))
    assert difference.alike == 6
    assert difference.only_in_first == difference.only_in_second == []


def test_rows_without_slots_are_compared_by_their_ids(write_manifest, utterances):
    table = manifest_table(utterances[:3]).drop_columns(["slot_id", "audio_hash"])
    difference = diff(Manifest(write_manifest(table, "one")), Manifest(write_manifest(table.slice(1), "two")))
    assert difference.only_in_first == [utterances[0].utterance_id]
    assert difference.alike == 2
