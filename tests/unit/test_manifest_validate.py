import io

import numpy as np
import pyarrow as pa
import pytest
import soundfile

from pipelines.manifests.checks import audio_hash, check_text
from pipelines.manifests.rows import manifest_table
from pipelines.manifests.validate import validate
from rayapp.audio.codec import encode_flac
from rayapp.manifest import Manifest


@pytest.fixture
def findings_with(write_manifest, utterances):
    """What is found in a manifest in whose first row these columns were changed."""

    def find(sample=None, **changed):
        rows = manifest_table(utterances).to_pylist()
        rows[0] |= changed
        return validate(Manifest(write_manifest(pa.Table.from_pylist(rows, manifest_table([]).schema))), sample)

    return find


def test_nothing_is_wrong_with_what_we_write(findings_with):
    findings = findings_with()
    assert not findings.counts
    assert findings.decoded == 6
    assert findings.missing_columns == []


def flac_of(samples):
    data = encode_flac(samples)
    return {"audio": {"bytes": data, "path": "x.flac"}, "audio_hash": audio_hash(data)}


@pytest.mark.parametrize(
    ("changed", "kind", "said"),
    [
        ({"text": " …"}, "text", "no words: ' …'"),
        ({"terms": ["losartan", "sartan"]}, "terms", "'sartan' is not in 'please start losartan today'"),
        ({"duration_seconds": 30.0}, "duration", "the row says 30.0 s; the audio lasts"),
        ({"audio_hash": "0" * 16}, "audio_hash", "the row says 0000000000000000; its bytes have"),
        ({"audio": None}, "audio", "no bytes"),
        ({"audio": {"bytes": b"fLaC and no more", "path": ""}, "audio_hash": None}, "audio", "cannot be decoded"),
        (flac_of(np.zeros(16_000)) | {"duration_seconds": 1.0}, "audio", "nothing but silence"),
        ({"text": "She has Losartan at night."}, "leak", "train and validation: 'She has Losartan at night.'"),
    ],
)
def test_each_kind_of_problem_is_counted_and_shown(findings_with, changed, kind, said):
    findings = findings_with(**changed)
    assert findings.counts == {kind: 1}
    assert said in findings.examples[kind][0]


def test_audio_that_models_do_not_get_is_told(findings_with):
    buffer = io.BytesIO()
    soundfile.write(buffer, np.full((8_000, 2), 0.1), 8_000, format="WAV")
    findings = findings_with(audio={"bytes": buffer.getvalue(), "path": ""}, audio_hash=None, duration_seconds=1.0)
    assert "8000 Hz, 2 channel(s)" in findings.examples["audio"][0]


def test_rows_in_the_shards_of_another_split_are_told(tmp_path, write_manifest, utterances):
    write_manifest(utterances)
    data = tmp_path / "manifest" / "data"
    (data / "test-00000-of-00001.parquet").rename(data / "test_noisy-00000-of-00001.parquet")
    findings = validate(Manifest(tmp_path / "manifest"))
    assert findings.counts == {"split": 1}
    assert findings.examples["split"][0].endswith("the row says 'test'")


def test_a_shard_that_is_not_there_is_missed(tmp_path, write_manifest, utterances):
    write_manifest(utterances)
    data = tmp_path / "manifest" / "data"
    (data / "train-00000-of-00001.parquet").rename(data / "train-00000-of-00003.parquet")
    findings = validate(Manifest(tmp_path / "manifest"))
    assert findings.counts == {"shards": 1}


def test_an_id_that_is_there_twice_is_told_though_in_another_split(write_manifest, utterances):
    rows = manifest_table(utterances).to_pylist()
    rows[4]["utterance_id"] = rows[0]["utterance_id"]
    findings = validate(Manifest(write_manifest(pa.Table.from_pylist(rows, manifest_table([]).schema))))
    assert findings.counts == {"utterance_id": 1}
    assert findings.examples["utterance_id"] == [f"{rows[0]['utterance_id']}: in 2 rows"]


def test_tests_may_share_a_sentence_among_themselves(write_manifest, spoken):
    both = [spoken(split="test"), spoken(split="test_noisy", slot_id="2", seed=8)]
    assert not validate(Manifest(write_manifest(both))).counts


def test_a_sample_decodes_so_many_and_the_same_each_time(findings_with):
    assert findings_with(sample=0).decoded == 0
    assert findings_with(sample=3).decoded == 3
    assert findings_with(sample=99).decoded == 6
    heard = [findings_with(sample=n, audio=None).counts["audio"] for n in range(7)]
    assert heard == sorted(heard)
    assert heard[-1] == 1
    assert heard == [findings_with(sample=n, audio=None).counts["audio"] for n in range(7)]


def test_columns_of_another_kind_end_the_search(write_manifest, utterances):
    table = manifest_table(utterances)
    column = table.schema.get_field_index("terms")
    findings = validate(Manifest(write_manifest(table.set_column(column, "terms", pa.array(["losartan"] * 7)))))
    assert set(findings.counts) == {"schema"}
    assert "terms is string; list<" in findings.examples["schema"][0]


def test_a_manifest_of_other_tools_is_checked_as_far_as_it_tells(write_manifest, utterances):
    table = manifest_table(utterances).select(["audio", "text", "duration_seconds", "split", "status"])
    findings = validate(Manifest(write_manifest(table)))
    assert not findings.counts
    assert findings.decoded == 6
    assert {"utterance_id", "terms", "audio_hash"} < set(findings.missing_columns)


def test_terms_of_scripts_without_spaces_are_found():
    row = {"text": "病人有糖尿病史", "terms": ["糖尿病"], "split": None, "status": None}
    assert list(check_text(row, "train")) == []
    assert [kind for kind, _ in check_text(row | {"terms": ["肺炎"]}, "train")] == ["terms"]
