import json
import math
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.training.config import (
    AdapterConfig,
    InputConfig,
    ModelConfig,
    SourceConfig,
    TrainingConfig,
)
from pipelines.training.export import card_of, export
from pipelines.training.train import train
from rayapp.asr.nemo import NemoRecogniser
from rayapp.audio.codec import decode, encode_flac
from rayapp.errors import UserError
from rayapp.manifest import Manifest
from rayapp.storage import key_of

pytestmark = [pytest.mark.slow, pytest.mark.alone]


def losses_of(output):
    history = json.loads((output / "metrics.json").read_text())["history"]
    return {entry["step"]: entry["loss"] for entry in history if "loss" in entry}


def test_two_workers_train_a_model_that_is_saved_with_its_figures(small_model):
    metrics = json.loads((small_model / "metrics.json").read_text())
    losses = list(losses_of(small_model).values())
    assert len(losses) == 6
    assert losses[-1] < losses[0]
    assert metrics["figures"]["skipped_steps"] == 0
    assert metrics["figures"]["validation_wer"] > 0
    assert metrics["figures"]["in_force"]["zero_stage"] == 1
    assert 0 <= metrics["figures"]["padding_share"] < 0.3
    assert {path.name for path in small_model.iterdir()} == {
        *("model.nemo", "config.json", "metrics.json", "_COMPLETE", "checkpoints")
    }


def test_training_is_tracked(small_model, small_manifest):
    from rayapp.tracking import open_client

    client = open_client(small_model.parent / "tracking")
    (experiment,) = [e for e in client.search_experiments() if e.name == "rayapp"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["training.deepspeed.zero_stage"] == "1"
    assert len(client.get_metric_history(run.info.run_id, "loss")) == 6
    (manifest,) = run.inputs.dataset_inputs
    assert (manifest.dataset.name, manifest.dataset.digest) == ("small", key_of(small_manifest))
    assert [tag.value for tag in manifest.tags] == ["training, validation"]


def test_mlflow_keeps_the_model_with_a_signature_and_hears_with_it(small_model, small_manifest):
    import mlflow

    from rayapp.tracking import open_client

    client = open_client(small_model.parent / "tracking")
    (run,) = client.search_runs([client.get_experiment_by_name("rayapp").experiment_id])
    model = mlflow.pyfunc.load_model(f"{run.info.artifact_uri}/model")
    row = Manifest(small_manifest).read("test", ["audio"]).to_pylist()[0]
    audio = decode(row["audio"]["bytes"])
    assert model.metadata.signature.inputs.inputs[0].shape == (-1, -1)
    assert list(model.predict(audio[None])) == [
        NemoRecogniser.load(small_model / "model.nemo").transcribe([audio])[0].text
    ]


def test_the_saved_model_hears_the_same_after_loading(small_model, small_manifest):
    rows = Manifest(small_manifest).read("test", ["audio"]).to_pylist()
    audio = [decode(row["audio"]["bytes"]) for row in rows]
    recogniser = NemoRecogniser.load(small_model / "model.nemo")
    together = [heard.text for heard in recogniser.transcribe(audio)]
    recogniser.save(small_model.parent / "copy.nemo")
    copy = NemoRecogniser.load(small_model.parent / "copy.nemo")
    assert [heard.text for heard in copy.transcribe(audio)] == together


@pytest.fixture(scope="module")
def small(ray, small_model, small_manifest, tmp_path_factory):
    """Settings of a training of some steps, with three checkpoints."""
    return TrainingConfig(
        output=tmp_path_factory.mktemp("undisturbed") / "model",
        sources=(
            SourceConfig(manifest=small_manifest),
            SourceConfig(manifest=small_manifest, split="test_general", utterances=3),
        ),
        validation=(SourceConfig(manifest=small_manifest, split="validation"),),
        model=ModelConfig(start=small_model / "model.nemo"),
        input=InputConfig(batch_seconds=12),
        epochs=1,
        validation_interval=0.34,
        keep_checkpoints=1,
        learning_rate=1e-3,
    )


@pytest.fixture(scope="module")
def undisturbed(small, small_manifest):
    """What came of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(small_manifest.parent)
        relative = small_manifest.name  # as in a configuration file; workers run elsewhere
        sources = tuple(source.model_copy(update={"manifest": relative}) for source in small.sources)
        return train(small.model_copy(update={"sources": sources}), small.output.parent / "tracking")


def test_adapting_starts_from_the_earlier_model_and_mixes_its_sources(small, undisturbed, small_model, small_manifest):
    assert losses_of(small.output)[1] < losses_of(small_model)[1]
    seconds = Manifest(small_manifest).read("train", ["duration_seconds"])["duration_seconds"].to_pylist()
    assert undisturbed["train_hours"] * 3600 > sum(seconds) + 3
    again = train(small, small.output.parent / "tracking")
    assert again == undisturbed


def test_the_best_checkpoint_and_the_latest_are_kept(small, undisturbed):
    history = json.loads((small.output / "metrics.json").read_text())["history"]
    validations = {entry["step"]: entry["validation_wer"] for entry in history if "validation_wer" in entry}
    facts = [json.loads(path.read_text()) for path in small.output.glob("checkpoints/*/checkpoint.json")]
    assert len(validations) == 3
    assert {fact["step"] for fact in facts} <= {min(validations, key=validations.get), max(validations)}
    assert max(validations) in {fact["step"] for fact in facts}


@pytest.fixture
def untold(small_manifest, tmp_path):
    """The manifest as another tool would have made it: nothing tells the phonemes of its training speech."""
    folder = tmp_path / "untold"
    shutil.copytree(small_manifest, folder)
    for shard in (folder / "data").glob("train-*"):
        pq.write_table(pq.read_table(shard).drop_columns(["phonemes"]), shard)
    return folder


def test_speech_that_does_not_tell_its_phonemes_is_refused(ray, small_model, untold, tmp_path):
    config = TrainingConfig(
        output=tmp_path / "model",
        sources=(SourceConfig(manifest=untold),),
        model=ModelConfig(start=small_model / "model.nemo"),
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
        train(config(model=ModelConfig(start=tmp_path / "none.nemo")), tmp_path)
    with pytest.raises(UserError, match="has no split 'tset'; it has test, "):
        train(config(sources=(SourceConfig(manifest=small_manifest, split="tset"),)), tmp_path)
    with pytest.raises(UserError, match=r"manifest .*nowhere does not exist"):
        train(config(sources=(SourceConfig(manifest=tmp_path / "nowhere"),)), tmp_path)
    assert key_of(tmp_path / "out") is None


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
        NemoRecogniser.load(tmp_path / "bad.nemo")


@pytest.mark.parametrize("fields", [{}, {"recipe": "fastconformer_tdt_small", "start": "x.nemo"}])
def test_a_model_starts_from_one_thing(fields):
    with pytest.raises(ValueError, match=r"set either recipe .* or start"):
        ModelConfig(**fields)


def test_the_prediction_network_is_shown_wrong_labels_in_training_only(small_model):
    import torch

    module = NemoRecogniser.load(small_model / "model.nemo", label_noise=0.3).module
    tokens = torch.full((50, 40), 7)
    module.train()
    assert (module._shown(tokens) != tokens).float().mean().item() == pytest.approx(0.3, abs=0.05)
    module.eval()
    assert torch.equal(module._shown(tokens), tokens)


def test_an_export_tells_what_the_model_was_trained_on(small, undisturbed, small_manifest, tmp_path, monkeypatch):
    monkeypatch.chdir(small_manifest.parent)  # the sources were told relative to it
    export(small.output, tmp_path / "ward", "nemo", card_of(small.output, "ward", "cc-by-4.0"))
    card = (tmp_path / "ward" / "README.md").read_text()
    assert f"manifest `{small_manifest.name}`, split `train`: cc-by-4.0 ({key_of(small_manifest)})" in card
    assert "license: cc-by-4.0" in card
    assert f"| validation_wer | {undisturbed['validation_wer']:g} |" in card


def test_one_worker_goes_on_from_the_checkpoint_of_two(small, undisturbed, tmp_path):
    resume = {"output": tmp_path / "model", "resume": str(small.output), "workers": 1, "epochs": 2}
    figures = train(small.model_copy(update=resume), tmp_path / "tracking")
    losses, earlier = losses_of(tmp_path / "model"), losses_of(small.output)
    assert min(losses) == undisturbed["step"] + 1
    assert figures["epoch"] == 2
    assert np.mean(list(losses.values())) < np.mean(list(earlier.values()))
    assert (tmp_path / "model" / "model.nemo").exists()


def test_a_checkpoint_of_other_batches_is_refused(small, undisturbed, tmp_path):
    other = {"output": tmp_path / "model", "resume": str(small.output), "seed": 1}
    with pytest.raises(UserError, match=r"is of a run with other sources, input or seed; give the same as there"):
        train(small.model_copy(update=other), tmp_path / "tracking")


def test_a_training_whose_worker_is_killed_ends_as_if_nothing_had_happened(small, undisturbed, tmp_path):
    alone = losses_of(small.output)
    killed = []

    def kill_one(done, total):
        """Once a checkpoint is there."""
        staging = next(tmp_path.glob(".again.*.partial"), None)
        if staging and not killed and list(staging.glob("checkpoints/*/checkpoint.json")) and done < total:
            workers = [
                p for p in psutil.process_iter(["cmdline"]) if "RayTrainWorker" in " ".join(p.info["cmdline"] or [])
            ]
            killed.append(workers[0].pid)
            workers[0].kill()

    again = small.model_copy(update={"output": tmp_path / "again"})
    train(again, tmp_path / "tracking", kill_one)
    assert killed
    for step, loss in losses_of(again.output).items():
        assert loss == pytest.approx(alone[step], rel=1e-4)
    assert losses_of(again.output).keys() == alone.keys()


def test_a_training_goes_on_with_fewer_workers_where_a_node_is_lost(small, cluster, tmp_path):
    changes = {"output": tmp_path / "model", "epochs": 4, "min_workers": 1, "validation": (), "validation_interval": 1}
    elastic = small.model_copy(update=changes)
    file = tmp_path / "config.json"
    file.write_text(elastic.model_dump_json())
    run = subprocess.Popen(
        [sys.executable, "-m", "rayapp.cli", "train", str(file), "--home", str(tmp_path / "tracking"), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"RAY_ADDRESS": cluster.address, "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "10"},
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob(".model.*.partial/checkpoints/*/checkpoint.json")):
        assert run.poll() is None
        assert time.monotonic() < deadline, "waited too long for a checkpoint"
        time.sleep(0.05)
    cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
    told, _ = run.communicate(timeout=240)
    assert run.returncode == 0, told
    history = json.loads((elastic.output / "metrics.json").read_text())["history"]
    assert [entry["in_force"]["ranks"] for entry in history if "in_force" in entry] == [2, 1]
    assert json.loads(told)["epoch"] == 4
    assert math.isfinite(list(losses_of(elastic.output).values())[-1])


@pytest.fixture
def little_memory(ray):
    """Processes that Ray starts from here on may have 12 GB of addresses, of which libraries take 8."""
    (raylet,) = [p for p in psutil.Process().children(recursive=True) if p.name() == "raylet"]
    before = raylet.rlimit(psutil.RLIMIT_AS)
    raylet.rlimit(psutil.RLIMIT_AS, (12 << 30, before[1]))
    yield
    raylet.rlimit(psutil.RLIMIT_AS, before)


def test_an_utterance_that_needs_more_memory_than_there_is_is_set_aside(little_memory, small, small_manifest, tmp_path):
    with_long = tmp_path / "with_long"
    shutil.copytree(small_manifest, with_long)
    (shard,) = (with_long / "data").glob("train-*")
    table = pq.read_table(shard)
    seconds = 720.0  # full attention over it wants some 30 GB
    silence = encode_flac(np.zeros(int(seconds * 16_000), np.float32))
    long = table.slice(0, 1).to_pylist()[0] | {
        "utterance_id": "consultation",
        "duration_seconds": seconds,
        "audio": {"bytes": silence, "path": None},
    }
    pq.write_table(pa.concat_tables([table, pa.Table.from_pylist([long], schema=table.schema)]), shard)
    config = small.model_copy(
        update={
            "output": tmp_path / "model",
            "sources": (SourceConfig(manifest=with_long),),
            "input": InputConfig(batch_seconds=12, max_seconds=1000),
            "workers": 1,
            "validation": (),
        }
    )
    figures = train(config, tmp_path / "tracking")
    assert (figures["unfit_steps"], figures["skipped_steps"]) == (1, 0)
    assert figures["set_aside"] == 1
    (row,) = [json.loads(line) for line in (config.output / "set_aside.jsonl").read_text().splitlines()]
    assert row["utterance_id"] == "consultation"
    assert "did not fit into memory (1 utterances of up to 720.0 s)" in row["reason"]


def test_a_loss_that_is_not_finite_is_skipped_and_then_named(small, tmp_path):
    changes = {"learning_rate": 1e30, "max_skipped_steps": 1, "max_failures": 0, "workers": 1}
    hot = small.model_copy(update=changes | {"output": tmp_path / "model"})
    with pytest.raises(
        UserError, match=r"not finite in 2 steps, more than the 1 allowed.*had the utterances [0-9a-f]{16}"
    ):
        train(hot, tmp_path / "tracking")


def test_text_that_the_model_cannot_write_is_refused_with_its_characters(small, small_manifest, tmp_path):
    foreign = tmp_path / "foreign"
    shutil.copytree(small_manifest, foreign)
    for shard in (foreign / "data").glob("train-*"):
        table = pq.read_table(shard)
        texts = pa.array([f"{text} 氯沙坦" for text in table["text"].to_pylist()])
        pq.write_table(table.set_column(table.schema.get_field_index("text"), "text", texts), shard)
    with pytest.raises(UserError, match=r"lacks characters of 100\.0% of the texts.*'氯' \(\d+\)"):
        train(
            small.model_copy(update={"output": tmp_path / "model", "sources": (SourceConfig(manifest=foreign),)}),
            tmp_path / "tracking",
        )


def test_whisper_learns_with_adalora_to_its_target_rank(ray, small_manifest, tmp_path):
    from safetensors.torch import load_file

    from rayapp.asr.tiny_whisper import tiny_whisper
    from rayapp.asr.whisper import WhisperRecogniser

    tiny_whisper(tmp_path / "whisper", Manifest(small_manifest).read("train", ["text"])["text"].to_pylist())
    config = TrainingConfig(
        output=tmp_path / "model",
        sources=(
            SourceConfig(manifest=small_manifest, utterances=16),
        ),  # Whisper hears 30 s of each, whatever it lasts
        validation=(SourceConfig(manifest=small_manifest, split="validation"),),
        validation_interval=2,
        model=ModelConfig(start=tmp_path / "whisper", adapter=AdapterConfig(rank=4, target_rank=2, interval=1)),
        engine="ddp",
        input=InputConfig(batch_seconds=16),
        workers=1,
        epochs=2,
        learning_rate=1e-3,
    )
    figures = train(config, tmp_path / "tracking")
    assert figures["in_force"]["engine"] == "ddp"
    losses = list(losses_of(config.output).values())
    assert min(losses[-3:]) < losses[0]
    adapter = load_file(config.output / "adapter" / "adapter_model.safetensors")
    ranks = [len(matrix) for name, matrix in adapter.items() if "lora_A" in name]
    named = WhisperRecogniser.load(tmp_path / "whisper").model.named_modules()
    adapted = [name for name, _ in named if name.rpartition(".")[2] in AdapterConfig().target_modules]
    assert sum(ranks) == 2 * len(adapted)
    audio = [decode(row["bytes"]) for row in Manifest(small_manifest).read("test", ["audio"])["audio"].to_pylist()[:2]]
    merged, beside = (WhisperRecogniser.load(config.output / name) for name in ("model", "adapter"))
    assert merged.transcribe(audio) == beside.transcribe(audio)
