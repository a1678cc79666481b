import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from pipelines.training.config import DeepSpeedConfig, LearningConfig
from pipelines.training.optimizer import make_optimizer, orthogonalised


class Encoder(torch.nn.Module):
    """Two hidden layers where a FastConformer has its own, and what lies around them."""

    def __init__(self):
        super().__init__()
        self.encoder = torch.nn.Module()
        self.encoder.layers = torch.nn.ModuleList([torch.nn.Linear(16, 32), torch.nn.Linear(32, 16)])
        self.encoder.layers.append(torch.nn.Conv1d(16, 16, 31, groups=16))
        self.embedding = torch.nn.Embedding(20, 16)


MUON = LearningConfig(optimizer="muon", deepspeed=DeepSpeedConfig(zero_stage=0))


def step(module, config, seed=0):
    """One update, with gradients drawn at random."""
    torch.manual_seed(seed)
    optimizer = make_optimizer(module, config)
    for parameter in module.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    return module


def test_only_the_matrices_between_hidden_layers_are_muons():
    groups = make_optimizer(Encoder(), MUON).param_groups
    shapes = {group["orthogonal"]: sorted(tuple(p.shape) for p in group["params"]) for group in groups}
    assert shapes[True] == [(16, 32), (32, 16)]
    assert (20, 16) in shapes[False]
    assert (16, 1, 31) in shapes[False]


@pytest.mark.parametrize("shape", [(3, 24, 24), (2, 16, 64), (2, 64, 16)])
def test_singular_values_end_near_one_whatever_the_scale(shape):
    torch.manual_seed(0)
    for scale in (1e-4, 1.0, 1e4):
        values = torch.linalg.svdvals(orthogonalised(torch.randn(shape) * scale))
        assert values.max() < 1.15
        assert values.median() > 0.9


def test_a_matrix_of_zeros_stays_one():
    assert not orthogonalised(torch.zeros(1, 16, 16)).any()


def test_the_other_parameters_move_as_adamw_moves_them():
    module = Encoder()
    by_adamw = step(copy.deepcopy(module), MUON.model_copy(update={"optimizer": "adamw"}))
    by_muon = step(module, MUON)
    torch.testing.assert_close(by_muon.embedding.weight, by_adamw.embedding.weight)
    assert not torch.allclose(by_muon.encoder.layers[0].weight, by_adamw.encoder.layers[0].weight)


def test_a_matrix_moves_by_as_much_as_the_learning_rate_says():
    module = Encoder()
    before = module.encoder.layers[1].weight.detach().clone()
    update = (step(module, MUON).encoder.layers[1].weight - before) / MUON.muon_learning_rate
    assert torch.linalg.svdvals(update).median().item() == pytest.approx(1.0, abs=0.35)


@pytest.mark.parametrize("config", [MUON, MUON.model_copy(update={"optimizer": "adamw"})])
def test_what_learns_later_has_a_group_of_its_own_and_the_last_group_starts_first(config):
    module = Encoder()
    module.embedding.requires_grad_(False)
    starts = {"encoder.layers.0.weight": 0.3, "encoder.layers.0.bias": 0.3}
    groups = make_optimizer(module, config, starts).param_groups
    later = {id(p) for group in groups if group["starts_at"] == 0.3 for p in group["params"]}
    assert later == {id(module.encoder.layers[0].weight), id(module.encoder.layers[0].bias)}
    assert (groups[-1]["starts_at"], groups[-1]["lr"]) == (0.0, config.learning_rate)
    assert sum(len(group["params"]) for group in groups) == 6  # without the embedding


def test_ranks_that_share_the_work_out_make_the_step_of_one(tmp_path):
    from serve.run import free_port

    port = str(free_port())
    ranks = [subprocess.Popen([sys.executable, __file__, str(rank), port, str(tmp_path)]) for rank in range(2)]
    assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    torch.manual_seed(1)
    alone = step(Encoder(), MUON).state_dict()
    for rank in range(2):
        together = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name, value in alone.items():
            torch.testing.assert_close(together[name], value)


if __name__ == "__main__":  # one of the ranks
    rank, port, folder = sys.argv[1:]
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=int(rank), world_size=2)
    torch.manual_seed(1)
    torch.save(step(Encoder(), MUON).state_dict(), Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()
