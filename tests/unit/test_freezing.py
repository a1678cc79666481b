import copy

import pytest
import torch

from rayapp.asr.freezing import Freezing
from rayapp.errors import UserError


class Model(torch.nn.Module):
    """A little encoder with a batch norm in each of two layers, and a decoder."""

    def __init__(self):
        super().__init__()
        self.encoder = torch.nn.ModuleDict(
            {
                "front": torch.nn.Linear(3, 4),
                "layers": torch.nn.Sequential(*(self.layer() for _ in range(2))),
            }
        )
        self.decoder = torch.nn.Linear(4, 2)

    @staticmethod
    def layer():
        return torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4))

    def forward(self, x):
        return self.decoder(self.encoder["layers"](self.encoder["front"](x))).square().sum()


def learning(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Model()


def test_what_matches_a_pattern_does_not_learn_and_the_rest_is_counted(model):
    before = copy.deepcopy(model.state_dict())
    freezing = Freezing(model, ["encoder.*"])
    assert freezing.apply(0.0) == (4 * 2 + 2, 16 + 2 * (20 + 8) + 10)
    assert set(freezing.ever_learning()) == {"decoder.weight", "decoder.bias"} == learning(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model.train()
    model(torch.randn(8, 3)).backward()
    optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"decoder.weight", "decoder.bias"}


def test_parts_learn_from_their_share_of_the_training_on(model):
    freezing = Freezing(model, ["encoder.*"], {"encoder.layers.1.*": 0.25, "encoder.layers.*": 0.5})
    assert freezing.shares() == [0.25, 0.5]
    assert learning(model) == {"decoder.weight", "decoder.bias"}
    freezing.apply(0.3)
    assert learning(model) == {"decoder.weight", "decoder.bias"} | {
        f"encoder.layers.1.{part}" for part in ("0.weight", "0.bias", "1.weight", "1.bias")
    }
    freezing.apply(1.0)
    assert learning(model) == {name for name, _ in model.named_parameters()} - {
        "encoder.front.weight",
        "encoder.front.bias",
    }
    assert set(freezing.ever_learning()) == learning(model)


def test_statistics_of_a_frozen_batch_norm_go_on_once_it_learns(model):
    freezing = Freezing(model, unfreeze={"encoder.layers.0.*": 0.5})
    first, second = (model.encoder["layers"][number][1] for number in (0, 1))
    for share, seen in ((0.0, 0), (0.5, 1), (0.9, 2)):
        freezing.apply(share)
        model.train()  # as at the start of an epoch
        model(torch.randn(8, 3))
        assert int(first.num_batches_tracked) == seen
        assert first.training == (share >= 0.5)
    assert int(second.num_batches_tracked) == 3


def test_what_no_pattern_matches_stays_as_it_is(model):
    model.encoder["front"].requires_grad_(False)  # as what an adapter stands beside
    freezing = Freezing(model, ["encoder.layers.0.*"])
    freezing.apply(0.7)
    assert learning(model) == set(freezing.ever_learning())
    assert not any("front" in name or "layers.0" in name for name in learning(model))


def test_a_pattern_that_matches_nothing_gets_those_that_are_near(model):
    with pytest.raises(UserError, match=r"'encodr\.layers\.\*' matches no parameter; near are encoder\.layers\.\*, "):
        Freezing(model, ["encodr.layers.*"])
    with pytest.raises(UserError, match=r"'decoder\.wieght' matches no parameter; near are decoder\.weight"):
        Freezing(model, unfreeze={"decoder.wieght": 0.5})


def test_training_that_would_begin_with_nothing_to_learn_is_refused(model):
    with pytest.raises(UserError, match=r"nothing learns at first: \* match all parameters"):
        Freezing(model, ["*"])
    with pytest.raises(UserError, match=r"'\*' is to learn from 1\.5 of the training on: give a share from 0 to 1"):
        Freezing(model, unfreeze={"*": 1.5})
