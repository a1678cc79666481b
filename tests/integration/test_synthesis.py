import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.config import SynthesisConfig
from pipelines.lexicon.config import LexiconConfig
from pipelines.manifests.config import ManifestsConfig, SizesConfig
from pipelines.manifests.write import manifest_table
from pipelines.synthesize import groups, synthesize
from rayapp.audio.codec import decode
from rayapp.audio.levels import rms
from rayapp.config import load_config
from rayapp.errors import UserError
from rayapp.execution import run_plan
from rayapp.manifest import Manifest
from rayapp.storage import key_of

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
    """Settings for two dozen utterances."""
    sizes = SizesConfig(
        train_per_term=8, validation=0, test=6, test_unseen_patterns=0, test_unseen_terms=0, test_other_synthesiser=0,
        test_general=6,
    )  # fmt: skip
    return SynthesisConfig(
        output=tmp_path / "few", lexicon=LexiconConfig(take=2), manifests=ManifestsConfig(sizes=sizes)
    )


def rows_by_slot(location):
    manifest = Manifest(location)
    table = pa.concat_tables([manifest.read(split, ["slot_id", "audio_hash"]) for split in manifest.splits])
    return dict(zip(table["slot_id"].to_pylist(), table["audio_hash"].to_pylist(), strict=True))


def test_the_same_settings_make_the_same_audio_with_one_worker_and_with_two(ray, few, tmp_path):
    synthesize(few)
    other = few.model_copy(
        update={
            "output": tmp_path / "again",
            "speech": few.speech.model_copy(update={"workers": 2}),
            "augmentation": few.augmentation.model_copy(update={"workers": 2}),
        }
    )
    synthesize(other)
    assert rows_by_slot(few.output) == rows_by_slot(other.output)


def test_an_interrupted_run_goes_on_and_makes_no_row_twice(ray, few, tmp_path):
    synthesize(few)
    plan = pq.read_table(few.output / "plan.parquet")
    blocks = tmp_path / "blocks"
    stream = run_plan(plan, groups(few), blocks, manifest_table, rows_per_block=4)
    for summary in stream:
        if summary.committed >= 8:
            break
    stream.close()
    kept = {path.name for path in blocks.glob("*.parquet")}
    *_, summary = run_plan(plan, groups(few), blocks, manifest_table, rows_per_block=4)
    assert summary.resumed >= 8
    assert kept <= {path.name for path in blocks.glob("*.parquet")}
    made = pa.concat_tables([pq.read_table(path) for path in blocks.glob("*.parquet")])
    hashes = dict(zip(made["slot_id"].to_pylist(), made["audio_hash"].to_pylist(), strict=True))
    assert made.num_rows == plan.num_rows == len(hashes)
    assert hashes == rows_by_slot(few.output)


def test_too_many_rejections_fail_the_run_and_name_the_reason(ray, few):
    hopeless = few.model_copy(update={"transcripts": few.transcripts.model_copy(update={"max_draws": 1})})
    with pytest.raises(UserError, match=r"were rejected, more than the 5% allowed; the leading reason .* transcript:"):
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
