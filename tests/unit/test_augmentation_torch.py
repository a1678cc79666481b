"""Transforms of many utterances at once give what the stages give."""

import numpy as np
import pytest
import soundfile
import torch

from pipelines.augmentation.batch import active_levels, padded
from pipelines.augmentation.chain import chain
from pipelines.augmentation.config import AugmentationConfig, ClippingConfig, NoiseConfig, RoomConfig
from pipelines.augmentation.room import PlayInRoom
from pipelines.augmentation.torch_augment import BATCHED, TorchAugment
from rayapp.audio.levels import active_level
from rayapp.errors import UserError
from rayapp.stage import run_stages

TEXTS = ["hello", "please start losartan today", "the patient takes apixaban twice a day and reports no bleeding"]
BATCHED_CHAIN = ("room", "noise", "clipping", "microphone")


@pytest.fixture
def utterances(spoken):
    """Of different lengths, levels and splits; one is silent."""
    made = [
        spoken(
            TEXTS[seed % 3], seed=seed, pause_seconds=seed % 2, split="train" if seed % 4 else "test", snr_db=10 + seed
        )
        for seed in range(8)
    ]
    return [*(u.with_audio(u.audio * 10 ** (-u.slot.seed / 10)) for u in made), made[0].with_audio(0 * made[0].audio)]


def assert_alike(batched, single):
    for one, other in zip(batched, single, strict=True):
        assert one.audio.shape == other.audio.shape
        assert np.abs(one.audio - other.audio).max() < 1e-4
        assert [(s.name, s.version) for s in one.steps] == [(s.name, s.version) for s in other.steps]
        for step, expected in zip(one.steps, other.steps, strict=True):
            assert step.params == pytest.approx(expected.params, abs=0.011)


@pytest.mark.parametrize("names", [("room",), ("noise",), ("clipping",), ("microphone",), BATCHED_CHAIN])
def test_a_batch_sounds_as_the_stages_do(utterances, names):
    config = AugmentationConfig(chain=names, clipping=ClippingConfig(probability=0.5))
    batched = run_stages([TorchAugment(config, names)], utterances)
    assert_alike(batched, run_stages([make() for make in chain(config)], utterances))


def test_what_an_utterance_becomes_does_not_depend_on_its_batch(utterances):
    stage = TorchAugment(AugmentationConfig(), ("room", "noise", "microphone"))
    together = stage.on_batch(utterances[:5])
    alone = [stage.on_batch([utterance])[0] for utterance in utterances[:5]]
    assert_alike(together, alone)


def test_reverberation_beyond_the_end_is_not_heard_in_longer_batches(spoken):
    """A bang at the very end is loudest after the end, where a shorter utterance of a batch has padding."""
    audio = 0.1 * spoken("hello").audio
    audio[-1] = 0.9
    utterances = [spoken("hello", seed=4).with_audio(audio), spoken(TEXTS[2], seed=4)]
    config = AugmentationConfig(room=RoomConfig(probability=1))
    batched = run_stages([TorchAugment(config, ("room",))], utterances)
    assert_alike(batched, run_stages([PlayInRoom(config.room)], utterances))


def test_levels_of_a_batch_are_those_of_its_utterances(utterances):
    rows = [utterance.audio for utterance in utterances]
    levels = active_levels(padded(rows, "cpu"), torch.tensor([len(row) for row in rows])).flatten().tolist()
    assert levels == pytest.approx([active_level(row) for row in rows], rel=1e-5)


def test_a_bad_recording_costs_one_utterance_not_its_batch(utterances, tmp_path):
    for number in range(12):
        sound = 0.1 * np.random.default_rng(number).standard_normal(64_000)
        soundfile.write(tmp_path / f"{number}.wav", sound, 16_000)
    stage = TorchAugment(AugmentationConfig(noise=NoiseConfig(backgrounds=str(tmp_path))), ("room", "noise"))
    bad = stage.on_batch(utterances)[1].steps[-1].params["recording"]
    (tmp_path / bad).write_bytes(b"")
    made = run_stages([stage], utterances)
    rejected = [utterance.status == "rejected" for utterance in made]
    assert rejected[1]
    assert not all(rejected)
    assert f"recording {bad} cannot be read" in made[1].reason


def test_neighbours_that_can_take_a_batch_become_one_stage_on_a_gpu():
    config = AugmentationConfig(chain=("speed", "room", "noise", "codec", "microphone"), device="cuda")
    speed, first, codec, second = chain(config)
    assert [part.func.name for part in (speed, codec)] == ["speed", "codec"]
    assert first.stages[0].args[1] == ("room", "noise")
    assert second.stages[0].args[1] == ("microphone",)
    assert first.resources.gpus == 0.25
    assert set(BATCHED_CHAIN) == set(BATCHED)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_device_is_refused_with_what_to_do():
    with pytest.raises(UserError, match="set it to cpu"):
        TorchAugment(AugmentationConfig(device="cuda"), ("room",))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_what_the_cpu_gives(utterances):
    config = AugmentationConfig(chain=BATCHED_CHAIN, device="cuda")
    on_cpu = chain(config.model_copy(update={"device": "cpu"}))
    on_gpu = run_stages([TorchAugment(config, BATCHED_CHAIN)], utterances)
    assert_alike(on_gpu, run_stages([make() for make in on_cpu], utterances))
