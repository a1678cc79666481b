import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.config import SynthesisConfig
from pipelines.lexicon.config import LexiconConfig
from pipelines.manifests.config import ManifestsConfig, SizesConfig
from pipelines.manifests.rows import manifest_table
from pipelines.synthesize import groups, synthesize
from rayapp.audio.codec import decode
from rayapp.audio.levels import rms
from rayapp.config import load_config
from rayapp.errors import UserError
from rayapp.execution import Group, run_plan
from rayapp.manifest import Manifest
from rayapp.plan import count_slots
from rayapp.stage import Resources
from rayapp.storage import key_of, list_files

pytestmark = pytest.mark.slow


def test_a_manifest_has_every_split_with_audio_that_says_its_text(small_manifest):
    manifest = Manifest(small_manifest)
    assert manifest.splits == sorted(
        ["train", "validation", "test", "test_unseen_patterns", "test_unseen_terms", "test_other_synthesiser",
         "test_general"]
    )  # fmt: skip
    for split in manifest.splits:
        for row in manifest.read(split).to_pylist():
            audio = decode(row["audio"]["bytes"])
            assert len(audio) / 16_000 == pytest.approx(row["duration_seconds"], abs=1e-3)
            assert 0.001 < rms(audio) < 0.5
            assert row["status"] == "ok"
            assert {step["name"] for step in json.loads(row["steps"])} >= {"speech", "noise", "microphone"}
            assert all(term.casefold() in row["text"].casefold() for term in row["terms"])
            assert bool(row["terms"]) == (row["style"] == "clinical_en")


def test_other_tools_read_the_manifest_as_it_is(small_manifest):
    import datasets

    loaded = datasets.load_dataset("parquet", data_files={"test": str(small_manifest / "data" / "test-*.parquet")})
    row = loaded["test"][0]
    assert row["audio"]["bytes"][:4] == b"fLaC"


def test_the_card_counts_what_is_there(small_manifest):
    card = (small_manifest / "README.md").read_text()
    assert "| test | 6 |" in card
    assert "data/test_general-*.parquet" in card


def test_a_second_run_does_nothing(small_manifest, ray):
    before = {path: path.stat().st_mtime_ns for path in small_manifest.rglob("*.parquet")}
    config = load_config(SynthesisConfig, small_manifest / "config.json", [], {})
    assert synthesize(config) is None
    assert {path: path.stat().st_mtime_ns for path in small_manifest.rglob("*.parquet")} == before


@pytest.fixture
def few(tmp_path):
    """Settings for some dozens of utterances."""
    sizes = SizesConfig(
        train_per_term=8, validation=0, test=6, test_unseen_patterns=0, test_unseen_terms=0, test_other_synthesiser=0,
        test_general=6, train_everyday=60,
    )  # fmt: skip
    return SynthesisConfig(
        output=str(tmp_path / "few"), lexicon=LexiconConfig(take=2), manifests=ManifestsConfig(sizes=sizes)
    )


def rows_by_slot(location):
    manifest = Manifest(location)
    table = pa.concat_tables([manifest.read(split, ["slot_id", "audio_hash"]) for split in manifest.splits])
    return dict(zip(table["slot_id"].to_pylist(), table["audio_hash"].to_pylist(), strict=True))


def test_the_same_settings_make_the_same_rows_with_one_worker_and_with_four(ray, few, tmp_path, monkeypatch):
    monkeypatch.setattr(Group, "resources", Resources(cpus=0.4))  # four have to find room on two cores
    synthesize(few.model_copy(update={"workers": 1}))
    synthesize(few.model_copy(update={"output": str(tmp_path / "again"), "workers": 4}))
    assert rows_by_slot(few.output) == rows_by_slot(tmp_path / "again")


def test_an_interrupted_run_goes_on_and_makes_no_row_twice(ray, few, tmp_path):
    synthesize(few)
    plan, blocks = f"{few.output}/plan/round-00", str(tmp_path / "blocks")
    stream = run_plan(plan, groups(few), blocks, manifest_table)
    for summary in stream:
        if summary.committed:
            break
    stream.close()
    kept = set(list_files(blocks, ".parquet"))
    *_, summary = run_plan(plan, groups(few), blocks, manifest_table)
    assert summary.resumed > 0
    assert kept <= set(list_files(blocks, ".parquet"))
    made = pa.concat_tables([pq.read_table(path) for path in (tmp_path / "blocks").glob("*.parquet")])
    hashes = dict(zip(made["slot_id"].to_pylist(), made["audio_hash"].to_pylist(), strict=True))
    assert made.num_rows == count_slots(plan) == len(hashes)
    finished = rows_by_slot(few.output)
    assert {slot: hash_ for slot, hash_ in hashes.items() if hash_ and slot in finished}.items() <= finished.items()


def test_mandarin_with_english_terms_goes_the_whole_way_to_a_manifest(ray, tmp_path):
    file = Path(__file__).parents[2] / "configs" / "synthesize-mandarin.yaml"
    sizes = ["train_per_term=3", "train_everyday=4", *(f"{name}=4" for name in ("validation", "test", "test_general"))]
    overrides = [f"output={tmp_path / 'mandarin'}", "lexicon.take=6", *(f"manifests.sizes.{size}" for size in sizes)]
    config = load_config(SynthesisConfig, file, overrides, {})
    synthesize(config)
    manifest = Manifest(config.output)
    rows = [row for split in manifest.splits for row in manifest.read(split).to_pylist()]
    mixed = [row for row in rows if row["style"] == "clinical_zh"]
    assert len(mixed) > 20
    for row in mixed:
        assert row["terms"][0] in row["text"]
        assert re.search("[\u4e00-\u9fff]", row["text"])
        assert {turn["language"] for turn in row["turns"]} == {"zh", "en"}
        speakers = {turn["voice"].partition("+")[2] for turn in row["turns"]}
        accents = {turn["language"]: turn["voice"].partition("+")[0] for turn in row["turns"]}
        assert len(speakers) == 1
        assert accents["zh"] == "cmn"
        assert accents["en"].startswith("en")
        assert row["phone_distance"] <= 0.25
    assert {row["language"] for row in rows} == {"zh"}


@pytest.fixture
def small_disk(tmp_path):
    """A disk of so many megabytes, and a way to change that."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def resize(megabytes, *more):
        command = ["mount", "-t", "tmpfs", "-o", ",".join([*more, f"size={megabytes}m"]), "tmpfs", str(disk)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    if not resize(4):  # room for one shard or two
        pytest.skip("mounting a small disk needs root")
    yield disk, lambda megabytes: resize(megabytes, "remount")
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_ends_the_run_with_what_to_do_and_keeps_what_was_made(ray, few, small_disk):
    disk, resize = small_disk
    few = few.model_copy(update={"output": str(disk / "speech")})
    with pytest.raises(UserError, match=r"the disk is full while writing .*speech; free some room and run this again"):
        synthesize(few)
    assert key_of(few.output) is None
    assert resize(64)
    result = synthesize(few)
    assert result.kept > result.resumed > 0
    assert [path.name for path in disk.iterdir()] == ["speech"]


def test_too_many_rejections_fail_the_run_and_name_the_reason(ray, few):
    hopeless = few.model_copy(update={"transcripts": few.transcripts.model_copy(update={"max_draws": 1})})
    with pytest.raises(UserError, match=r"more than the 5% allowed .* reason \(\d+ times\): transcript: no sent"):
        synthesize(hopeless)
    assert key_of(few.output) is None


def test_voices_sound_different(small_manifest):
    """Spectral centroids of different voices are spread out: they are not one voice under many names."""
    rows = Manifest(small_manifest).read("train", ["audio", "voice"]).to_pylist()
    centroids = []
    for row in rows:
        spectrum = np.abs(np.fft.rfft(decode(row["audio"]["bytes"])))
        centroids.append(float((np.arange(len(spectrum)) * spectrum).sum() / spectrum.sum() / len(spectrum)))
    assert len({row["voice"] for row in rows}) > 10
    assert np.std(centroids) / np.mean(centroids) > 0.1
