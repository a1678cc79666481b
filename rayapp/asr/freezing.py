"""Parts of a model that do not learn, or only later."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from rayapp.errors import UserError


class Learning(NamedTuple):
    """How many numbers of a model learn, of how many."""

    learning: int
    parameters: int


class Freezing:
    """Which parameters of a module learn at which share of the training.

    Patterns are `fnmatch`'s, on the parameters' names; `*` also stands for dots: `*encoder.layers.0.*`.

    A batch norm whose scale is frozen keeps its running mean and variance too, whatever mode the module is in.
    """

    def __init__(self, module: torch.nn.Module, frozen: Sequence[str] = (), unfreeze: Mapping[str, float] = {}) -> None:
        """frozen: what never learns. unfreeze: what learns only from a share of the training on, 0 to 1; it counts
        more than `frozen`, and of several shares the earliest counts.

        Raises `UserError` for a pattern that matches no parameter, a share that is none, and where nothing would
        learn at first.
        """
        for pattern, share in unfreeze.items():
            if not 0 <= share <= 1:
                raise UserError(f"{pattern!r} is to learn from {share:g} of the training on: give a share from 0 to 1")
        names = [name for name, _ in module.named_parameters()]
        for pattern in (*frozen, *unfreeze):
            _require_match(pattern, names)
        self._module = module
        self._starts = {name: start for name in names if (start := _start(name, frozen, unfreeze)) is not None}
        self._norms = [
            part
            for name, part in module.named_modules()
            if isinstance(part, _BatchNorm) and f"{name}.weight" in self._starts
        ]
        for norm in self._norms:
            norm.register_forward_pre_hook(_keep_frozen)
        if not self.apply(0.0).learning:
            raise UserError(f"nothing learns at first: {', '.join((*frozen, *unfreeze))} match all parameters")

    def apply(self, share: float) -> Learning:
        """Let learn what does at this share of the training; parameters that no pattern matches stay as they are.

        It may be called at each step: the same share again changes nothing.
        """
        learning = total = 0
        for name, parameter in self._module.named_parameters():
            if name in self._starts:
                parameter.requires_grad_(share >= self._starts[name])
            # DeepSpeed leaves an empty tensor where it has shared out a parameter.
            count = int(getattr(parameter, "ds_numel", parameter.numel()))
            learning += count * parameter.requires_grad
            total += count
        for norm in self._norms:
            norm.train(self._module.training)
        return Learning(learning, total)

    def ever_learning(self) -> list[str]:
        """Names of the parameters that learn sooner or later: those that an optimizer needs."""
        return [
            name
            for name, parameter in self._module.named_parameters()
            if (self._starts[name] < 1 if name in self._starts else parameter.requires_grad)
        ]

    def starts(self) -> dict[str, float]:
        """From which share of the training on parameters learn that do not at first, but that an optimizer needs."""
        return {name: start for name, start in self._starts.items() if 0 < start < 1}

    def shares(self) -> list[float]:
        """Where `apply` changes something, rising, without 0."""
        return sorted({start for start in self._starts.values() if 0 < start < 1})


_NEVER = 2.0
"""A share that is not reached."""


def _start(name: str, frozen: Sequence[str], unfreeze: Mapping[str, float]) -> float | None:
    """The share from which on a parameter learns; None where no pattern matches it."""
    later = [share for pattern, share in unfreeze.items() if fnmatchcase(name, pattern)]
    if later:
        return min(later)
    return _NEVER if any(fnmatchcase(name, pattern) for pattern in frozen) else None


def _require_match(pattern: str, names: Sequence[str]) -> None:
    if any(fnmatchcase(name, pattern) for name in names):
        return
    parts = {name: name for name in names}
    for name in names:
        while "." in name:
            name = name.rpartition(".")[0]
            parts[name] = f"{name}.*"
    near = difflib.get_close_matches(pattern.strip("*."), parts, n=3, cutoff=0.4) or list(parts)[:3]
    raise UserError(f"{pattern!r} matches no parameter; near are {', '.join(parts[name] for name in near)}")


def _keep_frozen(norm: Any, _inputs: tuple[Any, ...]) -> None:
    """Runs before each forward pass, since `train()` on the whole model would let the statistics go on."""
    if not norm.weight.requires_grad:
        norm.eval()
