"""From manifests to a rank's batches, through tasks of Ray."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipelines.training.mixture import Mixture, Source
from pipelines.training.planning import PlanSettings, Position
from pipelines.training.stream import BatchStream, Preparation, find_inexpressible, prepare_window
from rayapp.audio.codec import decode, encode_flac
from rayapp.errors import UserError
from rayapp.records import MANIFEST_SCHEMA, SAMPLE_RATE_HZ
from rayapp.storage import published_folder

pytestmark = pytest.mark.slow
START = Position()
SHARD = "train-00000-of-00001.parquet"


@pytest.fixture(scope="module")
def tokeniser():
    """A token for each letter; defined here, so that it travels by value."""

    class Letters:
        def encode(self, text):
            return [ord(letter) - ord("a") + 1 for letter in text if letter.isalpha()]

        def inexpressible(self, text):
            return "".join(dict.fromkeys(letter for letter in text if not letter.isalpha()))

    return Letters()


def tone(number):
    """0.5 to 2.5 s, another for each number."""
    seconds = 0.5 + 2 * ((number * 37) % 100) / 100
    return 0.3 * np.sin(np.arange(int(seconds * SAMPLE_RATE_HZ)) * (0.1 + number / 1000)).astype(np.float32)


def word(number):
    return "".join(chr(ord("a") + int(digit)) for digit in str(number))


def rows(count):
    made = []
    for number in range(count):
        audio = tone(number)
        made.append(
            {
                "utterance_id": f"u{number}",
                "audio": {"bytes": encode_flac(audio), "path": None},
                "duration_seconds": len(audio) / SAMPLE_RATE_HZ,
                "text": word(number),
                "phonemes": [{"symbol": "m", "start_seconds": 0.1}, {"symbol": "a", "start_seconds": 0.3}],
                "split": "train",
                "status": "ok",
            }
        )
    return made


@pytest.fixture
def manifest(tmp_path):
    """Write rows as a manifest of small row groups; returns its location."""

    def make(made, name="manifest"):
        with published_folder(tmp_path / name, name) as folder:
            (folder / "data").mkdir()
            table = pa.Table.from_pylist(made, schema=MANIFEST_SCHEMA)
            pq.write_table(table, folder / "data" / SHARD, row_group_size=8)
        return tmp_path / name

    return make


@pytest.fixture
def prepared(ray, tokeniser, manifest):
    """What streams need, for a manifest of these rows."""
    import ray

    def make(made, plan=None, **fields):
        mixture = Mixture.open([Source(manifest(made))])
        settings = PlanSettings(**{"batch_seconds": 8.0, "window": 40} | (plan or {}))
        return Preparation(ray.put(mixture), settings, tokeniser, **{"max_seconds": 30.0} | fields)

    return make


def streamed(preparation, rank=0, ranks=1, position=START, epochs=1, most=None):
    with BatchStream(preparation, position, rank, ranks, epochs) as stream:
        return list(itertools.islice(stream, most))


def prepared_rows(preparation, position=START):
    """What the tasks make of the first window; it is all that there is in these tests."""
    return [row for table in prepare_window(0, 0, preparation, position, 0, 1) for row in table.to_pylist()]


def ids(batches):
    return [name for each in batches for name in each.utterance_ids]


def numbered(count):
    return sorted(f"u{number}" for number in range(count))


def test_ranks_share_an_epoch_out_and_hear_what_the_manifest_holds(prepared):
    preparation = prepared(rows(90))
    first, second = (streamed(preparation, rank, 2) for rank in range(2))
    assert len(first) == len(second)
    assert sorted(ids(first) + ids(second)) == numbered(90)
    assert [each.position for each in first] == [each.position for each in second]
    assert first[-1].position == Position(1)
    assert first[-1].epochs_done == 1
    for each in first:
        audio, audio_lengths, tokens, token_lengths, slices = each.batch
        assert audio.dtype == torch.float32
        assert audio.shape == (len(each.utterance_ids), int(audio_lengths.max()))
        assert audio.numel() <= 8 * SAMPLE_RATE_HZ
        assert slices.shape == (len(each.utterance_ids), 0)
        for line, name in enumerate(each.utterance_ids):
            number = int(name[1:])
            heard = decode(encode_flac(tone(number)))
            assert torch.equal(audio[line, : audio_lengths[line]], torch.from_numpy(heard))
            assert not audio[line, audio_lengths[line] :].any()
            told = tokens[line, : token_lengths[line]].tolist()
            assert told == [int(digit) + 1 for digit in str(number)]
            assert not tokens[line, token_lengths[line] :].any()


def test_a_run_goes_on_in_the_midst_of_a_window(prepared):
    preparation = prepared(rows(90))
    whole = streamed(preparation, epochs=2)
    assert sorted(ids(whole)) == sorted(2 * numbered(90))
    rest = streamed(preparation, position=whole[6].position, epochs=2, most=9)
    assert [each.utterance_ids for each in rest] == [each.utterance_ids for each in whole[7:16]]
    assert [each.position for each in rest] == [each.position for each in whole[7:16]]
    others = [each for rank in range(3) for each in streamed(preparation, rank, 3, whole[6].position)]
    assert sorted(ids(whole[:7]) + ids(others)) == numbered(90)


def test_windows_of_fewer_utterances_than_ranks_are_learnt_from_together(prepared):
    preparation = prepared(rows(9), {"window": 2})
    assert sorted(name for rank in range(3) for name in ids(streamed(preparation, rank, 3))) == numbered(9)


def test_a_run_at_its_end_has_no_more_batches(prepared):
    assert streamed(prepared(rows(4)), position=Position(2), epochs=2) == []


def test_what_cannot_be_used_is_set_aside_with_its_reason_and_the_rest_goes_on(prepared):
    made = rows(20)
    made[3]["audio"] = {"bytes": b"fLaC, as it were", "path": None}
    made[4]["audio"] = None
    made[5]["text"] = "123"
    made[6]["text"] = None
    made[7]["duration_seconds"] = 0.6  # as its manifest says
    made[7]["audio"] = {"bytes": encode_flac(np.zeros(4 * SAMPLE_RATE_HZ, np.float32)), "path": None}
    batches = prepared_rows(prepared(made, max_seconds=3.0))
    left = sorted(name for row in batches for name in row["utterance_ids"])
    assert left == sorted({*numbered(20)} - {"u3", "u4", "u5", "u6", "u7"})
    told = {aside["utterance_id"]: aside["reason"] for row in batches for aside in row["set_aside"]}
    assert told.pop("u3").startswith("its audio is not audio that can be read")
    assert told == {
        "u4": "it has no audio",
        "u5": "its text has no tokens",
        "u6": "its text has no tokens",
        "u7": "its audio lasts 4 s; 3 s is the most",
    }


def test_a_batch_of_which_nothing_is_left_is_another_one_again(prepared):
    made = rows(12)
    for number in (0, 5, 11):
        made[number]["text"] = ""
    preparation = prepared(made, {"batch_seconds": 0.1})  # each is a batch of its own
    batches = streamed(preparation)
    assert len(batches) == 12
    assert all(len(each.utterance_ids) == len(each.batch.audio) == 1 for each in batches)
    assert sum(bool(each.set_aside) for each in batches) == 3
    assert batches[-1].position == Position(1)


def test_utterances_of_which_none_can_be_used_end_the_run(prepared):
    made = [row | {"text": ""} for row in rows(6)]
    with pytest.raises(UserError, match=r"no utterance of this rank can be learnt from: its text has no tokens \(6\)"):
        streamed(prepared(made))


def test_a_shard_that_is_damaged_meanwhile_is_named(prepared, tmp_path):
    preparation = prepared(rows(20))
    (Path(tmp_path) / "manifest" / "data" / SHARD).write_bytes(b"PAR1, as it were")
    with pytest.raises(Exception, match=rf"shard .*{SHARD} of manifest .* cannot be read"):
        streamed(preparation)


def test_phonemes_come_as_slices(prepared):
    batches = streamed(prepared(rows(3), phonemes={"a": 0, "m": 1}))
    slices, lengths = batches[0].batch.phoneme_slices, batches[0].batch.audio_lengths
    assert slices.dtype == torch.int64
    assert slices.shape[1] == math.ceil(lengths.max() / 320)
    assert slices[0, :25].tolist() == [-1] * 5 + [1] * 10 + [0] * 10
    shortest = int(lengths.argmin())
    assert set(slices[shortest, math.ceil(lengths[shortest] / 320) :].tolist()) == {-1}


class Louder:
    identity = ""

    def __call__(self, audio, rng):
        return audio * rng.uniform(1, 3)


def test_augmentation_is_the_same_whenever_an_utterance_is_prepared(prepared):
    preparation = prepared(rows(30), augment=Louder())
    whole = prepared_rows(preparation)
    rest = prepared_rows(preparation, Position.from_json(json.loads(whole[1]["position"])))
    assert [row["audio"] for row in rest] == [row["audio"] for row in whole[2:]]
    loudest = {int(np.abs(np.frombuffer(row["audio"], np.int16)).max()) for row in whole}
    assert len(loudest) == len(whole)


def test_the_figures_tell_padding_and_imbalance(prepared):
    preparation = prepared(rows(60))
    with BatchStream(preparation, START, 0, 2, 1) as stream:
        batches = list(stream)
        figures = stream.figures
    samples = sum(int(each.batch.audio_lengths.sum()) for each in batches)
    padded = sum(each.batch.audio.numel() for each in batches)
    summary = figures.summary()
    assert figures.steps == len(batches)
    assert summary["padding_share"] == pytest.approx(1 - samples / padded)
    assert summary["rank_imbalance"] == pytest.approx(np.mean([each.imbalance for each in batches]))
    assert 0 < summary["wait_share"] <= 1
    assert summary["set_aside"] == 0


def test_the_ranks_of_a_trainer_that_takes_all_cpus_are_fed(prepared, tmp_path):
    import ray
    from ray.train import RunConfig, ScalingConfig, report
    from ray.train.torch import TorchConfig, TorchTrainer

    preparation = prepared(rows(40))

    def learn(config):
        from ray.train import get_context

        rank, ranks = get_context().get_world_rank(), get_context().get_world_size()
        with BatchStream(config["preparation"], START, rank, ranks, 2) as stream:
            heard = [name for each in stream for name in each.utterance_ids]
        (config["folder"] / f"{rank}.json").write_text(json.dumps(heard))
        report({})

    ranks = int(ray.cluster_resources()["CPU"])
    TorchTrainer(
        learn,
        train_loop_config={"preparation": preparation, "folder": tmp_path},
        torch_config=TorchConfig(backend="gloo"),
        scaling_config=ScalingConfig(num_workers=ranks, resources_per_worker={"CPU": 1}),
        run_config=RunConfig(storage_path=str(tmp_path / "ray")),
    ).fit()
    heard = [name for rank in range(ranks) for name in json.loads((tmp_path / f"{rank}.json").read_text())]
    assert sorted(heard) == sorted(2 * numbered(40))


def test_characters_without_a_token_are_counted(ray, manifest, tokeniser):
    texts = ["abc", "ä1", "1 2", None]
    made = [row | {"text": text} for row, text in zip(rows(4), texts, strict=True)]
    told = find_inexpressible(Mixture.open([Source(manifest(made))]), tokeniser)
    assert told.characters == {"1": 2, " ": 1, "2": 1}
    assert next(iter(told.characters)) == "1"
    assert told.share == 0.5
