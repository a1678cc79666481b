import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import soundfile

from pipelines.manifests.export import Source
from pipelines.manifests.nemo import export_nemo, export_nemo_tar
from pipelines.manifests.rows import manifest_table
from pipelines.manifests.shar import export_shar
from rayapp.audio.codec import decode
from rayapp.errors import UserError
from rayapp.manifest import Manifest
from rayapp.storage import key_of


@pytest.fixture
def manifest(write_manifest, utterances):
    return Manifest(write_manifest(utterances))


def lines_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_json_lines_name_files_with_the_audio_of_the_rows(tmp_path, manifest, utterances):
    done = []
    export_nemo(Source(manifest, progress=lambda *told: done.append(told)), tmp_path / "nemo")
    assert sorted(path.name for path in (tmp_path / "nemo").glob("*.json")) == [
        "test.json",
        "test_general.json",
        "train.json",
        "validation.json",
    ]
    first = lines_of(tmp_path / "nemo" / "train.json")[0]
    audio = decode(tmp_path / "nemo" / first["audio_filepath"])
    np.testing.assert_allclose(audio, utterances[0].audio, atol=1e-4)
    assert first["duration"] == len(audio) / 16_000
    assert (first["text"], first["terms"]) == ("please start losartan today", ["losartan"])
    assert (first["slot_id"], first["utterance_id"]) == ("a1", utterances[0].utterance_id)
    assert done[-1] == (6, 6)


def test_one_split_is_exported_and_an_unknown_one_is_refused(tmp_path, manifest):
    export_nemo(Source(manifest, ["test"]), tmp_path / "nemo")
    assert [path.name for path in (tmp_path / "nemo").glob("*.json")] == ["test.json"]
    with pytest.raises(UserError, match="has no split 'dev'; it has test, test_general, train, validation"):
        Source(manifest, ["dev"])


def test_tarred_shards_are_of_equal_length_and_told_by_both_kinds_of_lists(tmp_path, manifest, monkeypatch):
    monkeypatch.setattr("pipelines.manifests.nemo.ROWS_PER_SHARD", 2)
    export_nemo_tar(Source(manifest, ["train"]), tmp_path / "tarred")
    folder = tmp_path / "tarred" / "train"
    told = lines_of(folder / "tarred_audio_manifest.json")
    assert [entry["shard_id"] for entry in told] == [0, 1, 1]
    for shard in (0, 1):
        entries = [entry for entry in told if entry["shard_id"] == shard]
        assert lines_of(folder / "sharded_manifests" / f"manifest_{shard}.json") == entries
        with tarfile.open(folder / f"audio_{shard}.tar") as tar:
            assert tar.getnames() == [entry["audio_filepath"] for entry in entries]


def test_the_same_rows_make_the_same_tar_files(tmp_path, manifest):
    for name in ("one", "two"):
        export_nemo_tar(Source(manifest, ["train"]), tmp_path / name)
    one, two = ((tmp_path / name / "train" / "audio_0.tar").read_bytes() for name in ("one", "two"))
    assert one == two


@pytest.mark.slow
def test_nemo_reads_both_of_its_formats(tmp_path, manifest, utterances):
    from nemo.collections.common.data.lhotse.nemo_adapters import LazyNeMoIterator, LazyNeMoTarredIterator

    export_nemo(Source(manifest), tmp_path / "nemo")
    export_nemo_tar(Source(manifest), tmp_path / "tarred")
    tarred = tmp_path / "tarred" / "train"
    for cuts in (
        LazyNeMoIterator(str(tmp_path / "nemo" / "train.json")),
        LazyNeMoTarredIterator(str(tarred / "tarred_audio_manifest.json"), str(tarred / "audio_0.tar")),
    ):
        read = list(cuts)
        assert [cut.supervisions[0].text for cut in read] == [u.transcript.text for u in utterances[:3]]
        assert [cut.supervisions[0].language for cut in read] == ["en"] * 3
        assert read[0].custom["terms"] == ["losartan"]
        np.testing.assert_allclose(read[0].load_audio()[0], utterances[0].audio, atol=1e-4)


@pytest.mark.slow
def test_nemos_own_dataset_reads_the_json_lines(tmp_path, manifest, utterances):
    from nemo.collections.common.parts.preprocessing.collections import ASRAudioText

    export_nemo(Source(manifest), tmp_path / "nemo")
    entries = ASRAudioText([str(tmp_path / "nemo" / "train.json")], parser=list)
    assert ["".join(entry.text_tokens) for entry in entries] == [u.transcript.text for u in utterances[:3]]
    assert [entry.duration for entry in entries] == [u.duration_seconds for u in utterances[:3]]
    assert all(Path(entry.audio_file).is_file() for entry in entries)


@pytest.mark.slow
def test_lhotse_reads_the_shar_with_the_times_of_the_words(tmp_path, manifest, utterances):
    from lhotse import CutSet

    export_shar(Source(manifest), tmp_path / "shar")
    cuts = list(CutSet.from_shar(in_dir=tmp_path / "shar" / "train"))
    assert [cut.id for cut in cuts] == [u.utterance_id for u in utterances[:3]]
    supervision = cuts[0].supervisions[0]
    assert (supervision.text, supervision.speaker) == ("please start losartan today", "en-us+m3")
    assert supervision.custom["terms"] == ["losartan"]
    words = supervision.alignment["word"]
    assert [(w.symbol, w.start) for w in words] == [
        (w.text, pytest.approx(w.start_seconds, abs=1e-3)) for w in utterances[0].words
    ]
    np.testing.assert_allclose(cuts[0].load_audio()[0], utterances[0].audio, atol=1e-4)


def test_an_id_that_looks_like_a_path_leaves_the_folder_nowhere(tmp_path, write_manifest, utterances):
    rows = manifest_table(utterances[:2]).to_pylist()
    rows[0]["utterance_id"], rows[1]["utterance_id"] = "../../escaped", "talk-sub1"
    manifest = Manifest(write_manifest(pa.Table.from_pylist(rows, manifest_table([]).schema)))
    export_nemo(Source(manifest), tmp_path / "nemo")
    told = lines_of(tmp_path / "nemo" / "train.json")
    assert all((tmp_path / "nemo" / entry["audio_filepath"]).parent == tmp_path / "nemo" / "audio" for entry in told)
    assert not any("sub" in entry["audio_filepath"] for entry in told)
    assert told[0]["utterance_id"] == "../../escaped"


def test_rows_of_other_tools_become_flac_and_get_names(tmp_path, write_manifest, utterances):
    buffer = io.BytesIO()
    soundfile.write(buffer, utterances[0].audio, 16_000, format="WAV")
    rows = [{"audio": {"bytes": buffer.getvalue(), "path": "a.wav"}, "text": "hello", "duration_seconds": 1.0}]
    table = pa.Table.from_pylist([row | {"split": "train", "status": "ok"} for row in rows])
    export_nemo(Source(Manifest(write_manifest(table))), tmp_path / "nemo")
    (line,) = lines_of(tmp_path / "nemo" / "train.json")
    assert line["audio_filepath"] == "audio/train_0000000.flac"
    assert (tmp_path / "nemo" / line["audio_filepath"]).read_bytes()[:4] == b"fLaC"
    assert line["duration"] == utterances[0].duration_seconds


def test_audio_that_cannot_be_read_names_its_row_and_leaves_nothing(tmp_path, write_manifest, utterances):
    rows = manifest_table(utterances[:2]).to_pylist()
    rows[1]["audio"]["bytes"] = b"fLaC of no use"
    manifest = Manifest(write_manifest(pa.Table.from_pylist(rows, manifest_table([]).schema)))
    with pytest.raises(UserError, match=r"train row 1: .*validate"):
        export_nemo(Source(manifest), tmp_path / "nemo")
    assert [path.name for path in tmp_path.iterdir()] == ["manifest"]


def test_an_export_replaces_an_earlier_one_and_never_a_manifest(tmp_path, manifest):
    export_nemo(Source(manifest, ["test"]), tmp_path / "out")
    export_nemo_tar(Source(manifest, ["test"]), tmp_path / "out")
    assert (tmp_path / "out" / "test" / "audio_0.tar").is_file()
    assert not (tmp_path / "out" / "test.json").exists()
    before = key_of(manifest.location)
    with pytest.raises(UserError, match="exists and is no export"):
        export_nemo(Source(manifest), tmp_path / "manifest")
    assert key_of(manifest.location) == before
