"""The optimizers: AdamW, and Muon for models that have only minutes to learn.

`torch.optim.Muon` computes in bfloat16, which CPUs without such units emulate at half the speed of the
whole step, and every rank does all of the work. Here it is float32, and the ranks share it out.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pipelines.training.config import LearningConfig

_MOMENTUM = 0.95
_QUINTIC = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5


def make_optimizer(module: torch.nn.Module, config: LearningConfig) -> torch.optim.Optimizer:
    """Over the parameters of `module` that learn, in groups whose `lr` is the peak of the schedule."""
    learning = {name: p for name, p in module.named_parameters() if p.requires_grad}
    adamw: dict[str, Any] = {"weight_decay": config.weight_decay, "betas": (0.9, 0.98), "fused": True}
    if config.optimizer == "adamw":
        return torch.optim.AdamW(learning.values(), lr=config.learning_rate, **adamw)
    matrices = {name: p for name, p in learning.items() if _is_hidden_matrix(name, p)}
    others = [p for name, p in learning.items() if name not in matrices]
    return Muon(
        [
            {"params": list(matrices.values()), "lr": config.muon_learning_rate, "orthogonal": True},
            {"params": others, "lr": config.learning_rate, "orthogonal": False},
        ],
        **adamw,
    )


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
    """Each matrix of (count, rows, columns) with its singular values brought to about 1 (0.7 to 1.2).

    Newton-Schulz iteration with a quintic polynomial, see the source above.

    >>> values = torch.linalg.svdvals(orthogonalised(torch.randn(1, 32, 64)))
    >>> bool((values > 0.5).all() and (values < 1.5).all())
    True
    """
    a, b, c = _QUINTIC
    wide = matrices.shape[1] <= matrices.shape[2]
    x = matrices if wide else matrices.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(_ITERATIONS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x if wide else x.mT
