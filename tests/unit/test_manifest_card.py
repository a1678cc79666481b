from pathlib import Path

import pyarrow.compute as pc
import pytest
import yaml

from pipelines.augmentation.recording_sources import open_source
from pipelines.manifests.card import write_card
from pipelines.manifests.config import ManifestsConfig
from pipelines.manifests.figures import measure
from pipelines.manifests.rows import manifest_table
from rayapp.audio.codec import decode, encode_flac
from rayapp.errors import UserError
from rayapp.manifest import Manifest


@pytest.fixture
def location(write_manifest, utterances):
    location = write_manifest(utterances)
    write_card(location, "small", ["apache-2.0"])
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
    write_card(location, "recordings", ["cc-by-4.0"])
    front, body = card_of(location)
    assert "synthetic" not in front["tags"]
    assert "nobody was recorded" not in body


def with_recordings(utterances):
    """The first two in recorded backgrounds, the third with a recorded room; the others as they are."""
    lift, ward = ({"background": "recording", "licence": licence} for licence in ("CC-BY-4.0", "unknown"))
    steps = [("noise", lift), ("noise", ward), ("room", {"licence": "CC0-1.0"})]
    made = [u.with_step(name, 3, **params) for u, (name, params) in zip(utterances, steps, strict=False)]
    return [*made, *utterances[len(made) :]]


def test_synthetic_speech_without_recordings_says_so(location):
    _, body = card_of(location)
    assert "synthetic speech: nobody was recorded, no patient data." in body
    assert "Recordings of others" not in body


def test_recordings_that_were_used_are_named_by_their_licences(write_manifest, utterances):
    location = write_manifest(with_recordings(utterances))
    write_card(location, "ward", ["cc-by-4.0"])
    front, body = card_of(location)
    assert front["license"] == "cc-by-4.0"
    assert "2 utterances have recorded backgrounds, in which people may be heard." in body
    assert "nobody was recorded" not in body
    for row in ("| noise: CC-BY-4.0 | 1 |", "| noise: unknown | 1 |", "| room: CC0-1.0 | 1 |"):
        assert row in body
    licences = measure(Manifest(location)).as_dict()["licences_by_step"]
    assert licences == {"noise": {"CC-BY-4.0": 1, "unknown": 1}, "room": {"CC0-1.0": 1}}


def test_a_recorded_room_is_no_recorded_person(write_manifest, utterances):
    room = utterances[0].with_step("room", 3, licence="CC0-1.0")
    location = write_manifest([room, *utterances[1:]])
    write_card(location, "rooms", ["cc-by-4.0"])
    _, body = card_of(location)
    assert "nobody was recorded" in body
    assert "| room: CC0-1.0 | 1 |" in body


def test_cloned_voices_are_said(write_manifest, utterances):
    location = write_manifest(utterances)
    write_card(location, "clones", ["cc-by-nc-4.0"], cloned_voices=True)
    front, body = card_of(location)
    assert {"synthetic", "cloned-voices"} <= set(front["tags"])
    assert "Voices were cloned from recordings of people." in body
    assert "nobody was recorded" not in body


@pytest.mark.parametrize(
    ("readme", "licences"),
    [
        (None, ["unknown"]),
        ("# Speech without front matter\n\n---\nlicense: mit\n---\n", ["unknown"]),
        ("---\nlanguage: en\n---\n", ["unknown"]),
        ("---\r\nlicense: mit\r\n---\r\n# Speech", ["mit"]),
        ("---\nlicense: [mit, cc-by-4.0]\n---\n", ["mit", "cc-by-4.0"]),
        ("---\nlicense: other\nlicenses: [mit, gpl-3.0]\n---\n", ["mit", "gpl-3.0"]),
    ],
)
def test_licences_are_read_from_cards_of_other_tools_too(write_manifest, utterances, readme, licences):
    location = write_manifest(utterances)
    if readme:
        Path(location, "README.md").write_bytes(readme.encode())
    assert Manifest(location).licences == licences


def test_backgrounds_from_a_manifest_have_the_licence_of_its_card(location):
    assert {recording.licence for recording in open_source(location).recordings()} == {"apache-2.0"}


def test_a_card_that_cannot_be_read_is_named(location):
    Path(location, "README.md").write_text("---\nlicense: [mit\n---\n")
    with pytest.raises(UserError, match=r"manifest.* has a card that cannot be read; mend the YAML"):
        Manifest(location).card()


def test_a_licence_is_given_as_the_hub_names_it():
    assert ManifestsConfig().licence == "cc-by-4.0"
    assert ManifestsConfig(licence="cc-by-nc-sa-4.0").licence == "cc-by-nc-sa-4.0"
    for wrong in ("CC BY 4.0", "", "https://example.org/licence"):
        with pytest.raises(ValueError, match=r"not how Hugging Face names a licence; give one such as cc-by-4\.0"):
            ManifestsConfig(licence=wrong)


def test_a_card_is_written_before_the_manifest_is_published_and_through_a_uri(tmp_path, location):
    (tmp_path / "manifest" / "_COMPLETE").unlink()
    (tmp_path / "manifest" / "config.json").write_text("{}")
    write_card(f"file://{location}", "again", ["cc-by-4.0"])
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
