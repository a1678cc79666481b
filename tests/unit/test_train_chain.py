"""What utterances go through while a model is trained on them."""

import copy

import numpy as np
import pytest
from pydantic import ValidationError

from pipelines.augmentation.config import AugmentationConfig
from pipelines.config import TrainConfig
from pipelines.train import Augmenter

SETTINGS = {"sources": [{"manifest": "m"}], "model": {"recipe": "fastconformer_tdt_small"}}


def test_each_draw_sounds_different_and_lasts_as_long(spoken):
    clean = spoken().audio
    augment = Augmenter(AugmentationConfig(chain=("room", "noise", "microphone", "response", "telephone", "codec")))
    first, again, other = (augment(clean, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert len(first) == len(other) == len(clean)
    assert np.abs(first - other).max() > 0.01
    assert np.abs(first - clean).max() > 0.01


def test_it_can_be_copied_before_and_after_its_use(spoken):
    augment = Augmenter(AugmentationConfig())
    clean = spoken().audio
    there = copy.deepcopy(augment)(clean, np.random.default_rng(3))
    assert np.array_equal(there, augment(clean, np.random.default_rng(3)))
    assert np.array_equal(there, copy.deepcopy(augment)(clean, np.random.default_rng(3)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"chain": ["room", "speed"]}, "chain has speed; batches are planned by the lengths"),
        ({"device": "cuda"}, r"augmentation\.device must be cpu here"),
        ({"noise": {"weights": {"babble": 1}}}, r"weights\.babble must be 0 here"),
    ],
)
def test_what_cannot_be_done_beside_a_training_is_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        TrainConfig(**SETTINGS, augmentation=settings)
