import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipelines.training.batches import Corpus
from pipelines.training.config import DeepSpeedConfig, LearningConfig, ModelConfig, SourceConfig, TrainingConfig
from pipelines.training.engine import deepspeed_settings
from pipelines.training.train import train
from rayapp.asr.nemo import NemoTransducer
from rayapp.audio.codec import decode
from rayapp.errors import UserError
from rayapp.manifest import Manifest
from rayapp.storage import key_of

pytestmark = pytest.mark.slow


def test_two_workers_train_a_model_that_is_saved_with_its_figures(small_model):
    metrics = json.loads((small_model / "metrics.json").read_text())
    losses = [entry["loss"] for entry in metrics["history"] if "loss" in entry]
    assert len(losses) == 6
    assert losses[-1] < losses[0]
    assert metrics["figures"]["skipped_steps"] == 0
    assert metrics["figures"]["validation_wer"] > 0
    assert {path.name for path in small_model.iterdir()} == {"model.nemo", "config.json", "metrics.json", "_COMPLETE"}


def test_training_is_tracked(small_model):
    from rayapp.tracking import open_client

    client = open_client(small_model.parent / "tracking")
    (experiment,) = [e for e in client.search_experiments() if e.name == "rayapp"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["training.deepspeed.zero_stage"] == "1"
    assert len(client.get_metric_history(run.info.run_id, "loss")) == 6


def test_the_saved_model_hears_the_same_after_loading(small_model, small_manifest):
    rows = Manifest(small_manifest).read("test", ["audio"]).to_pylist()
    audio = [decode(row["audio"]["bytes"]) for row in rows]
    recogniser = NemoTransducer.load(small_model / "model.nemo")
    together = [heard.text for heard in recogniser.transcribe(audio)]
    recogniser.save(small_model.parent / "copy.nemo")
    copy = NemoTransducer.load(small_model.parent / "copy.nemo")
    assert [heard.text for heard in copy.transcribe(audio)] == together


def test_adapting_starts_from_the_earlier_model_and_mixes_its_sources(
    ray, small_model, small_manifest, tmp_path, monkeypatch
):
    monkeypatch.chdir(small_manifest.parent)
    relative = Path(small_manifest.name)  # as in a configuration file; workers run elsewhere
    config = TrainingConfig(
        output=tmp_path / "adapted",
        sources=(
            SourceConfig(manifest=relative),
            SourceConfig(manifest=relative, split="test_general", utterances=3),
        ),
        model=ModelConfig(path=small_model / "model.nemo"),
        max_steps=2,
        batch_size=4,
        optimizer="muon",
        learning_rate=1e-5,
        muon_learning_rate=1e-4,
        deepspeed=DeepSpeedConfig(zero_stage=0),
    )
    figures = train(config, tmp_path / "tracking")
    assert figures["step"] == 2
    first = json.loads((config.output / "metrics.json").read_text())["history"][0]["loss"]
    fresh = json.loads((small_model / "metrics.json").read_text())["history"][0]["loss"]
    assert first < fresh
    again = train(config, tmp_path / "tracking")
    assert again == figures


@pytest.fixture
def untold(small_manifest, tmp_path):
    """The manifest as another tool would have made it: nothing tells the phonemes of its training speech."""
    folder = tmp_path / "untold"
    shutil.copytree(small_manifest, folder)
    for shard in (folder / "data").glob("train-*"):
        pq.write_table(pq.read_table(shard).drop_columns(["phonemes"]), shard)
    return folder


def test_phonemes_are_learnt_beside_the_words_and_are_not_in_the_model(
    ray, small_model, small_manifest, untold, tmp_path
):
    config = TrainingConfig(
        output=tmp_path / "model",
        sources=(SourceConfig(manifest=small_manifest), SourceConfig(manifest=untold, utterances=8)),
        model=ModelConfig(path=small_model / "model.nemo"),
        max_steps=16,
        epochs=20,
        batch_size=4,
        learning_rate=2e-3,
        phoneme_weight=10.0,
        deepspeed=DeepSpeedConfig(zero_stage=0),
    )
    train(config, tmp_path / "tracking")
    losses = [e["loss"] for e in json.loads((config.output / "metrics.json").read_text())["history"] if "loss" in e]
    assert losses[0] > 30  # 10 times some log(70), beside which the transducer's loss is small
    assert losses[-1] < 0.9 * losses[0]
    names = NemoTransducer.load(config.output / "model.nemo").model.state_dict().keys()
    assert names == NemoTransducer.load(small_model / "model.nemo").model.state_dict().keys()


def test_speech_that_does_not_tell_its_phonemes_is_refused(ray, small_model, untold, tmp_path):
    config = TrainingConfig(
        output=tmp_path / "model",
        sources=(SourceConfig(manifest=untold),),
        model=ModelConfig(path=small_model / "model.nemo"),
        phoneme_weight=0.5,
    )
    with pytest.raises(
        UserError, match=r"phoneme_weight is 0\.5, but no source tells its phonemes \(.*untold\); set it to 0"
    ):
        train(config, tmp_path / "tracking")


def test_a_missing_model_or_split_is_said_before_workers_start(small_manifest, tmp_path):
    def config(**fields):
        defaults = {
            "output": tmp_path / "out",
            "sources": (SourceConfig(manifest=small_manifest),),
            "model": ModelConfig(recipe="fastconformer_tdt_small"),
        }
        return TrainingConfig(**(defaults | fields))

    with pytest.raises(UserError, match=r"none\.nemo does not exist"):
        train(config(model=ModelConfig(path=tmp_path / "none.nemo")), tmp_path)
    with pytest.raises(UserError, match="has no split 'tset'; it has test, "):
        train(config(sources=(SourceConfig(manifest=small_manifest, split="tset"),)), tmp_path)
    with pytest.raises(UserError, match=r"manifest .*nowhere does not exist"):
        train(config(sources=(SourceConfig(manifest=tmp_path / "nowhere"),)), tmp_path)
    assert key_of(tmp_path / "out") is None


def test_kept_features_are_what_the_model_makes_of_the_audio(small_model, small_manifest):
    import torch

    recogniser = NemoTransducer.load(small_model / "model.nemo")
    corpus = Corpus.open([SourceConfig(manifest=small_manifest, split="test")], recogniser)
    batch = corpus.batch([0, 3])
    for row, features, length in zip([0, 3], batch.features, batch.feature_lengths, strict=True):
        audio = torch.from_numpy(corpus.audio(row))[None]
        encoded, frames = recogniser.model(input_signal=audio, input_signal_length=torch.tensor([audio.shape[1]]))
        kept = features[:length].T.float()[None]
        again, _ = recogniser.model(processed_signal=kept, processed_signal_length=length[None])
        count = int(frames[0])  # padding of up to a frame differs
        torch.testing.assert_close(again[..., :count], encoded[..., :count], rtol=0.01, atol=0.01)


def test_more_workers_than_the_machine_has_room_for_are_refused(ray, small_manifest, tmp_path):
    config = TrainingConfig(
        output=tmp_path / "out",
        sources=(SourceConfig(manifest=small_manifest),),
        model=ModelConfig(recipe="fastconformer_tdt_small"),
        workers=500,
    )
    with pytest.raises(
        UserError, match=r"500 CPUs are wanted; this machine has \d+ to give: lower the workers \(500\) of the training"
    ):
        train(config, tmp_path)
    with pytest.raises(UserError, match=r"2 GPUs are wanted"):
        train(config.model_copy(update={"workers": 2, "gpus_per_worker": 1.0}), tmp_path)


def test_a_file_that_is_no_model_is_named(tmp_path):
    (tmp_path / "bad.nemo").write_text("not a model")
    with pytest.raises(UserError, match=r"bad\.nemo is not a NeMo model"):
        NemoTransducer.load(tmp_path / "bad.nemo")


@pytest.mark.parametrize("fields", [{}, {"recipe": "fastconformer_tdt_small", "path": "x.nemo"}])
def test_a_model_starts_from_one_thing(fields):
    with pytest.raises(ValueError, match=r"set either recipe .* or path"):
        ModelConfig(**fields)


def test_settings_reach_deepspeed():
    config = TrainingConfig(
        **LearningConfig(batch_size=3).model_dump(),
        sources=(SourceConfig(manifest="m"),),
        model=ModelConfig(path="x.nemo"),
    )
    settings = deepspeed_settings(config)
    assert settings["train_micro_batch_size_per_gpu"] == 3
    assert settings["zero_optimization"]["stage"] == config.deepspeed.zero_stage


def test_the_prediction_network_is_shown_wrong_labels_in_training_only(small_model):
    import torch

    module = NemoTransducer.load(small_model / "model.nemo", label_noise=0.3).module
    tokens = torch.full((50, 40), 7)
    module.train()
    assert (module._shown(tokens) != tokens).float().mean().item() == pytest.approx(0.3, abs=0.05)
    module.eval()
    assert torch.equal(module._shown(tokens), tokens)
