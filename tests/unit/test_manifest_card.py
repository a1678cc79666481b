from pathlib import Path

import pyarrow.compute as pc
import pytest
import yaml

from pipelines.manifests.card import write_card
from pipelines.manifests.figures import measure
from pipelines.manifests.rows import manifest_table
from rayapp.audio.codec import decode, encode_flac
from rayapp.manifest import Manifest


@pytest.fixture
def location(write_manifest, utterances):
    location = write_manifest(utterances)
    write_card(location, "small", licence="apache-2.0")
    return location


def card_of(location):
    _, front, body = Path(location, "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(front), body


def test_the_front_matter_is_what_the_hub_asks_for(location):
    front, _ = card_of(location)
    assert front["license"] == "apache-2.0"
    assert front["language"] == ["en"]
    assert front["size_categories"] == ["n<1K"]
    assert front["task_categories"] == ["automatic-speech-recognition"]
    assert "synthetic" in front["tags"]
    splits = [entry["split"] for entry in front["configs"][0]["data_files"]]
    assert splits == ["test", "test_general", "train", "validation"]


def test_the_body_counts_what_is_there(location):
    _, body = card_of(location)
    hours = Manifest(location).hours("train")
    assert f"| train | 3 | {hours:.2f} |" in body
    assert "| 10 to 15 dB | 2 |" in body
    assert "| 20 to 25 dB | 1 |" in body
    assert "| en-gb-scotland | 1 |" in body
    assert "| drug | 5 |" in body
    assert "noise v2 (6)" in body
    assert "| verify: WER # is above # | 1 |" in body


def test_speech_of_people_is_not_called_synthetic(write_manifest, utterances):
    table = manifest_table(utterances)
    nulls = pc.if_else(False, table["engine"], None)
    location = write_manifest(table.set_column(table.schema.get_field_index("engine"), "engine", nulls))
    write_card(location, "recordings")
    front, body = card_of(location)
    assert "synthetic" not in front["tags"]
    assert "no human voice" not in body


def test_a_card_is_written_before_the_manifest_is_published_and_through_a_uri(tmp_path, location):
    (tmp_path / "manifest" / "_COMPLETE").unlink()
    (tmp_path / "manifest" / "config.json").write_text("{}")
    write_card(f"file://{location}", "again")
    _, body = card_of(location)
    assert "# again" in body
    assert "`config.json`: the settings in force" in body
    assert "plan" not in body


def test_figures_of_quality_are_means_over_the_rows_that_have_them(write_manifest, utterances):
    rated = [utterances[0].with_quality(wer=0.5), utterances[1].with_quality(wer=0.0), utterances[2]]
    figures = measure(Manifest(write_manifest(rated)))
    assert figures.quality["wer"].mean == 0.25
    assert figures.quality["wer"].utterances == 2
    assert "cer" not in figures.quality


def test_a_manifest_of_other_tools_is_counted_by_what_it_tells(write_manifest, utterances):
    table = manifest_table(utterances).select(["audio", "text", "duration_seconds", "split", "status"])
    figures = measure(Manifest(write_manifest(table)))
    assert figures.utterances == 6
    assert figures.seconds == pytest.approx(sum(u.duration_seconds for u in utterances))
    assert list(figures.tallies["accent"]) == ["none"]


def test_the_datasets_library_finds_the_splits_by_the_card(tmp_path, location):
    import datasets

    found = datasets.load_dataset(location, cache_dir=str(tmp_path / "cache"))
    assert {split: rows.num_rows for split, rows in found.items()} == {
        "train": 3,
        "validation": 1,
        "test": 1,
        "test_general": 1,
    }
    speech = found["train"].cast_column("audio", datasets.Audio(sampling_rate=16_000, decode=False))
    assert len(decode(speech[0]["audio"]["bytes"])) == round(16_000 * speech[0]["duration_seconds"])


def test_the_datasets_library_decodes_our_audio(tmp_path, location, utterances):
    torchcodec = pytest.importorskip("torchcodec.decoders", exc_type=(ImportError, OSError, RuntimeError))
    try:
        torchcodec.AudioDecoder(encode_flac(utterances[4].audio))
    except RuntimeError as error:
        if "Could not load libtorchcodec" not in str(error):
            raise
        pytest.skip("torchcodec, which datasets decodes with, finds no FFmpeg libraries here")
    import datasets
    import numpy as np

    files = {"test": f"{location}/data/test-*.parquet"}
    found = datasets.load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "cache"))["test"]
    speech = found.cast_column("audio", datasets.Audio(sampling_rate=16_000))
    np.testing.assert_allclose(speech[0]["audio"]["array"], utterances[4].audio, atol=1e-4)
