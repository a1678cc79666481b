"""The optimizers: AdamW, and Muon for models that have only minutes to learn.

`torch.optim.Muon` computes in bfloat16, which CPUs without such units emulate at half the speed of the
whole step, and every rank does all of the work. Here it is float32, and the ranks share it out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pipelines.training.config import LearningConfig

_MOMENTUM = 0.95
_SMALLEST = 1e-20
"""Keeps a matrix of zeros from becoming one of NaNs."""
_QUINTICS = ((7.711, -22.1138, 16.2488), (3.2153, -2.4112, 0.5013), (2.2183, -1.594, 0.4107))
"""a, b, c of a·x + b·x³ + c·x⁵, one after the other: each is the one that brings singular values nearest to 1, at
worst, from where its forerunner left them; the first expects 0.02 to 1. (Amsel et al., https://arxiv.org/abs/2505.16932.)"""


def make_optimizer(
    module: torch.nn.Module, config: LearningConfig, starts: Mapping[str, float] = {}
) -> torch.optim.Optimizer:
    """Over the parameters of `module` that learn, in groups whose `lr` is the peak of the schedule.

    starts: names of parameters that learn later, and the share of the run from which on they do; groups tell it as
        `starts_at`. The last group is AdamW's that starts first.
    """
    muon = config.optimizer == "muon"
    groups: dict[tuple[bool, float], list[Tensor]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            kind = muon and _is_hidden_matrix(name, parameter), starts.get(name, 0.0)
            groups.setdefault(kind, []).append(parameter)
    made: list[dict[str, Any]] = [
        {
            "params": groups[orthogonal, starts_at],
            "lr": config.muon_learning_rate if orthogonal else config.learning_rate,
            "starts_at": starts_at,
            "orthogonal": orthogonal,
        }
        for orthogonal, starts_at in sorted(groups, reverse=True)
    ]
    kind_of = Muon if muon else torch.optim.AdamW
    return kind_of(made, weight_decay=config.weight_decay, betas=(0.9, 0.98), fused=True)


def _is_hidden_matrix(name: str, parameter: Tensor) -> bool:
    """Weights between two hidden layers of the encoder, pointwise convolutions included.

    Depthwise convolutions, biases, the tokens' embedding and the last layers are no such maps.
    """
    return (
        "encoder.layers" in name
        and "pos_bias" not in name
        and parameter.ndim >= 2
        and min(parameter.shape[:2]) >= 16
        and parameter[0, 0].numel() == 1
    )


class Muon(torch.optim.AdamW):
    """Muon for the groups marked `orthogonal`, AdamW for the others.

    The momentum of a matrix is replaced by the nearest orthogonal one, so that every direction learns
    at the same pace: fewer, dearer steps. Source: Jordan et al., https://kellerjordan.github.io/posts/muon/.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        assert closure is None
        for group in self.param_groups:
            if group["orthogonal"]:
                by_shape: dict[torch.Size, list[Tensor]] = {}
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        by_shape.setdefault(parameter.shape, []).append(parameter)
                for parameters in by_shape.values():
                    self._step_matrices(parameters, group["lr"], group["weight_decay"])
        super().step()  # passes over what has no gradient: the matrices were dealt with

    def _step_matrices(self, parameters: list[Tensor], lr: float, weight_decay: float) -> None:
        """parameters: of one shape."""
        momenta = []
        for parameter in parameters:
            assert parameter.grad is not None
            state = self.state[parameter]
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(parameter)
            momentum = state["momentum"]
            momentum.lerp_(parameter.grad, 1 - _MOMENTUM)
            momenta.append(parameter.grad.lerp(momentum, _MOMENTUM).flatten(1))
            parameter.grad = None
        updates = _shared_out(torch.stack(momenta))
        rows, columns = updates.shape[1:]
        for parameter, update in zip(parameters, updates, strict=True):
            parameter.mul_(1 - lr * weight_decay)
            parameter.add_(update.view_as(parameter), alpha=-lr * max(1.0, rows / columns) ** 0.5)


def _shared_out(matrices: Tensor) -> Tensor:
    """`orthogonalised`, each rank its share of the matrices; alike on all ranks."""
    ranks = dist.get_world_size() if dist.is_initialized() else 1
    if ranks == 1:
        return orthogonalised(matrices)
    count = len(matrices)
    padded = torch.cat([matrices, matrices[: -count % ranks]]) if count >= ranks else matrices.repeat(ranks, 1, 1)
    mine = orthogonalised(padded.chunk(ranks)[dist.get_rank()]).contiguous()  # as NCCL wants it
    gathered = [torch.empty_like(mine) for _ in range(ranks)]
    dist.all_gather(gathered, mine)
    return torch.cat(gathered)[:count]


def orthogonalised(matrices: Tensor) -> Tensor:
    """Each matrix of (count, rows, columns) with its singular values brought to 0.9 to 1.1.

    Small ones stay smaller: those below 0.02 of the fourth root of the sum of all values' fourth powers. A
    Newton-Schulz iteration with three polynomials in place of Muon's five.

    >>> values = torch.linalg.svdvals(orthogonalised(torch.randn(1, 32, 64)))
    >>> bool((values > 0.85).all() and (values < 1.15).all())
    True
    """
    wide = matrices.shape[1] <= matrices.shape[2]
    x = matrices if wide else matrices.mT
    square = x @ x.mT
    # The norm of the square is a closer bound of the largest singular value's square than that of the matrix.
    scale = square.norm(dim=(1, 2), keepdim=True) + _SMALLEST
    x, square = x * scale.rsqrt(), square / scale
    for number, (a, b, c) in enumerate(_QUINTICS):
        if number:
            square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x if wide else x.mT
