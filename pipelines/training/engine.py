"""What turns a loss into an update, over all ranks together: DeepSpeed, or torch's DistributedDataParallel."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from pipelines.training.checkpoints import (
    learning_shapes,
    load_rank,
    ranks_of,
    save_rank,
    universal_checkpoint,
    write_state,
)
from pipelines.training.schedule import Schedule
from rayapp.errors import UserError

Offload: TypeAlias = Literal["none", "cpu", "nvme"]

_TAG = "deepspeed"
"""Folder of DeepSpeed's files within a checkpoint."""


class StepFigures(NamedTuple):
    """What became of a batch; alike on all ranks."""

    learning_rate: float
    """Of the last group of parameters."""
    gradient_norm: float | None
    """Over all ranks, before it was clipped; None while gradients are accumulated."""
    stepped: bool
    """Whether the parameters were updated: not while gradients are accumulated."""
    skipped: bool
    """Whether they were not since a gradient was not finite on some rank."""


class Engine(Protocol):
    """One module, trained by all ranks together; every rank makes the same calls in the same order."""

    module: torch.nn.Module
    shapes: dict[str, list[int]]
    """Of the parameters that the optimizer was given, some of which may be frozen for now."""

    def loss(self, *batch: Tensor) -> Tensor:
        """Forward pass of this rank's batch, in the engine's precision."""
        ...

    def backward_and_step(self, loss: Tensor, progress: float) -> StepFigures:
        """Backward pass and, where enough gradients were accumulated, an update.

        progress: share of the run that was done before, 0 to 1.

        A loss may be left out, on all ranks: the next one takes its place in the accumulation.
        """
        ...

    def whole(self) -> AbstractContextManager[None]:
        """Within, every rank has all parameters in full, whatever is sharded: to transcribe, or to save the model."""
        ...

    def save(self, folder: Path) -> None:
        """Write what `load` needs: parameters, optimizer, random states. Ranks may give folders of their own, which
        have to be merged. Not between two batches that are accumulated."""
        ...

    def load(self, folder: Path) -> None:
        """Into a new engine of a like module; the settings are those of the new one."""
        ...

    def in_force(self) -> dict[str, Any]:
        """The settings that are really in force, read from what does the work."""
        ...

    def memory(self) -> dict[str, int]:
        """Bytes that this rank holds now, of `parameters`, the optimizer's own copy of them (`master_parameters`),
        `gradients` and `optimizer_state`."""
        ...


class DeepSpeedEngine:
    """DeepSpeed with a client optimizer (its own compile for minutes) and our schedule."""

    def __init__(
        self,
        module: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        settings: Mapping[str, Any],
    ) -> None:
        """settings: see `zero_settings`. Raises `UserError` where this machine cannot offload to nvme."""
        import deepspeed

        _require_asynchronous_io(settings["zero_optimization"])
        # DeepSpeed probes all its operations when this is first read, and on a CPU compiles for a minute a
        # collective that only inference calls. An empty table spares both.
        deepspeed.ops.__compatible_ops__ = {}
        self.module, self.shapes = module, learning_shapes(module)
        self._optimizer, self._schedule = optimizer, schedule
        self._engine, *_ = deepspeed.initialize(
            model=module,
            model_parameters=[p for p in module.parameters() if p.requires_grad],
            optimizer=optimizer,
            config=dict(settings),
            dist_init_required=False,
        )
        self._engine._copy_recovery_script = lambda _: None  # a script of its own in each checkpoint
        schedule.apply(optimizer, 0.0)
        self._hyperparameters = _hyperparameters(optimizer)

    def loss(self, *batch: Tensor) -> Tensor:
        loss: Tensor = self._engine(*batch)
        return loss

    def backward_and_step(self, loss: Tensor, progress: float) -> StepFigures:
        self._schedule.apply(self._optimizer, progress)
        rate = float(self._optimizer.param_groups[-1]["lr"])
        self._engine.backward(loss)
        if not self._engine.is_gradient_accumulation_boundary():
            self._engine.step()
            return StepFigures(rate, None, stepped=False, skipped=False)
        norm = self._unsharded_norm() if self._zero_stage == 0 else None
        if norm is not None and not math.isfinite(norm):  # without ZeRO, DeepSpeed would step
            self._engine.zero_grad()
            self._engine.micro_steps += 1
            return StepFigures(rate, norm, stepped=False, skipped=True)
        self._engine.step()
        stepped = self._engine.was_step_applied()
        if norm is None:
            norm = float(self._engine.get_global_grad_norm())
        return StepFigures(rate, norm, stepped, not stepped)

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        if self._zero_stage < 3:
            yield
            return
        import deepspeed

        shards = self._engine.optimizer.parameter_offload
        with deepspeed.zero.GatheredParameters(list(self.module.parameters())):
            shards._remove_module_hooks()  # or each layer would give its parameters back once it is through
            shards.forward_hooks, shards.backward_hooks = [], []
            try:
                yield
            finally:
                shards.setup_zero_stage3_hooks()

    def save(self, folder: Path) -> None:
        accumulation = self._engine.gradient_accumulation_steps()
        assert self._engine.micro_steps % accumulation == 0, "accumulated gradients are not in a checkpoint"
        with _failing_later(self._engine.checkpoint_engine) as failures:
            self._engine.save_checkpoint(str(folder), tag=_TAG, save_latest=False)
        if failures:
            raise failures[0]
        save_rank(folder, self.module)

    def load(self, folder: Path) -> None:
        if self._zero_stage == 0 or ranks_of(folder) == dist.get_world_size():
            self._engine.load_checkpoint(str(folder), tag=_TAG)
        else:
            with universal_checkpoint(folder / _TAG) as universal:
                self._engine._config.load_universal_checkpoint = True
                self._engine.load_checkpoint(str(universal.parent), tag=universal.name)
                self._engine._config.load_universal_checkpoint = False
            for state in self._optimizer.state.values():
                state["step"] = state["step"].clone()  # DeepSpeed gave all groups one tensor, which each would count up
        _set_hyperparameters(self._optimizer, self._hyperparameters)
        if self._zero_stage > 0:
            self._engine.optimizer.clip_grad = self._engine.gradient_clipping()  # loading put that of the checkpoint
        load_rank(folder, self.module)

    def in_force(self) -> dict[str, Any]:
        from deepspeed.runtime.torch_autocast import autocast_if_enabled

        sharding = self._engine.optimizer
        return {
            "engine": "deepspeed",
            "zero_stage": self._zero_stage,
            "offload_optimizer": _offload(
                getattr(sharding, "offload_optimizer", False) or getattr(sharding, "cpu_offload", False),
                getattr(sharding, "swap_optimizer", False),
            ),
            "offload_parameters": _offload(
                getattr(sharding, "offload_param", False), getattr(sharding, "params_in_nvme_and_cpu", False)
            ),
            "gradient_accumulation_steps": self._engine.gradient_accumulation_steps(),
            "gradient_clipping": getattr(sharding, "clip_grad", self._engine.gradient_clipping()),
            **_common_in_force(self.module, self._optimizer, self._engine.device, autocast_if_enabled(self._engine)),
        }

    def memory(self) -> dict[str, int]:
        sharding, parameters = self._engine.optimizer, list(self.module.parameters())
        masters = [
            *getattr(sharding, "single_partition_of_fp32_groups", []),
            *getattr(sharding, "fp32_partitioned_groups_flat", []),
        ]
        held: list[Any] = [
            *([p.grad, getattr(p, "grad_accum", None)] for p in parameters),
            *(master.grad for master in masters),
            *getattr(sharding, "averaged_gradients", {}).values(),
            *getattr(sharding, "all_grad_tensors", {}).values(),
            *getattr(sharding, "accumulated_grads_in_cpu", {}).values(),
            getattr(sharding, "grad_partitions_flat_buffer", None),
        ]
        return _memory([[p.data, getattr(p, "ds_tensor", None)] for p in parameters], masters, held, self._optimizer)

    @property
    def _zero_stage(self) -> int:
        """By what the optimizer does."""
        sharding = self._engine.optimizer
        if hasattr(sharding, "parameter_offload"):
            return 3
        return 1 + sharding.partition_gradients if hasattr(sharding, "partition_gradients") else 0

    def _unsharded_norm(self) -> float:
        return float(torch.nn.utils.get_total_norm([p.grad for p in self.module.parameters() if p.grad is not None]))


class DDPEngine:
    """torch's DistributedDataParallel: for adapters, whose optimizer is small and which must see their gradients."""

    def __init__(
        self,
        module: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        *,
        gradient_accumulation_steps: int = 1,
        gradient_clipping: float = 1.0,
        bfloat16: bool = False,
        after_step: Callable[[float], None] | None = None,
        extra_state: Callable[[], dict[str, Any]] | None = None,
        load_extra_state: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        """
        after_step: called with the share of the run that was done before, when the optimizer has stepped and the
            gradients are still there.
        extra_state: tensors and plain values that go into checkpoints beside what learns; `load_extra_state` gets them.
        """
        self.module, self.shapes = module, learning_shapes(module)
        self._optimizer, self._schedule = optimizer, schedule
        self._accumulation, self._clipping, self._bfloat16 = gradient_accumulation_steps, gradient_clipping, bfloat16
        self._after_step, self._extra_state, self._load_extra_state = after_step, extra_state, load_extra_state
        self._device = next(module.parameters()).device
        self._parallel, self._wrapped = self._wrap(), self._learning()
        self._accumulated = 0
        schedule.apply(optimizer, 0.0)
        self._hyperparameters = _hyperparameters(optimizer)

    def loss(self, *batch: Tensor) -> Tensor:
        if self._learning() != self._wrapped:  # DDP waits for the gradient of each parameter that learnt at first
            self._parallel, self._wrapped = self._wrap(), self._learning()
        with self._synchronised(), self._autocast():
            loss: Tensor = self._parallel(*batch)
        return loss

    def backward_and_step(self, loss: Tensor, progress: float) -> StepFigures:
        self._schedule.apply(self._optimizer, progress)
        rate = float(self._optimizer.param_groups[-1]["lr"])
        with self._synchronised():
            (loss / self._accumulation).backward()
        self._accumulated = (self._accumulated + 1) % self._accumulation
        if self._accumulated:
            return StepFigures(rate, None, stepped=False, skipped=False)
        norm = float(torch.nn.utils.clip_grad_norm_(self.module.parameters(), self._clipping))
        stepped = math.isfinite(norm)  # DDP has spread what is not over all ranks
        if stepped:
            self._optimizer.step()
            if self._after_step:
                self._after_step(progress)
        self._optimizer.zero_grad()
        return StepFigures(rate, norm, stepped, not stepped)

    def whole(self) -> AbstractContextManager[None]:
        return contextlib.nullcontext()

    def save(self, folder: Path) -> None:
        assert not self._accumulated, "accumulated gradients are not in a checkpoint"
        folder.mkdir(parents=True, exist_ok=True)
        if dist.get_rank() == 0:
            state = {
                "parameters": {name: p.detach() for name, p in self._given().items()},
                "optimizer": self._optimizer.state_dict(),
                "extra": self._extra_state() if self._extra_state else {},
            }
            write_state(state, folder / _DDP_FILE)
        save_rank(folder, self.module)

    def load(self, folder: Path) -> None:
        state = torch.load(folder / _DDP_FILE, weights_only=True, map_location=self._device)
        with torch.no_grad():
            for name, parameter in self._given().items():
                parameter.copy_(state["parameters"][name])
        self._optimizer.load_state_dict(state["optimizer"])
        _set_hyperparameters(self._optimizer, self._hyperparameters)
        if self._load_extra_state:
            self._load_extra_state(state["extra"])
        load_rank(folder, self.module)

    def in_force(self) -> dict[str, Any]:
        return {
            "engine": "ddp",
            "zero_stage": 0,
            "offload_optimizer": "none",
            "offload_parameters": "none",
            "gradient_accumulation_steps": self._accumulation,
            "gradient_clipping": self._clipping,
            **_common_in_force(self.module, self._optimizer, self._device, self._autocast()),
        }

    def memory(self) -> dict[str, int]:
        parameters = list(self.module.parameters())
        return _memory([p.data for p in parameters], [], [p.grad for p in parameters], self._optimizer)

    def _wrap(self) -> torch.nn.parallel.DistributedDataParallel:
        device_ids = [self._device] if self._device.type == "cuda" else None
        return torch.nn.parallel.DistributedDataParallel(self.module, device_ids=device_ids)

    def _learning(self) -> list[bool]:
        return [p.requires_grad for p in self.module.parameters()]

    def _given(self) -> dict[str, torch.nn.Parameter]:
        """What the optimizer was given."""
        return {name: p for name, p in self.module.named_parameters() if name in self.shapes}

    def _synchronised(self) -> AbstractContextManager[None]:
        """Gradients are averaged over the ranks only where a step follows."""
        last = self._accumulated == self._accumulation - 1
        return contextlib.nullcontext() if last else self._parallel.no_sync()

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self._device.type, torch.bfloat16, enabled=self._bfloat16)


_DDP_FILE = "ddp.pt"


def zero_settings(
    *,
    batch_size: int,
    on_gpu: bool,
    zero_stage: int = 1,
    gradient_clipping: float = 1.0,
    gradient_accumulation_steps: int = 1,
    bfloat16: bool = False,
    offload_optimizer: Offload = "none",
    offload_parameters: Offload = "none",
    nvme_path: Path | None = None,
    reduce_bucket_elements: int = 200_000_000,
    allgather_bucket_elements: int = 200_000_000,
) -> dict[str, Any]:
    """The JSON that DeepSpeed reads. Raises `UserError` for what does not go together."""
    if (offload_optimizer != "none" and zero_stage < 1) or (offload_parameters != "none" and zero_stage < 3):
        raise UserError(
            f"offload_optimizer {offload_optimizer} and offload_parameters {offload_parameters} do not go with "
            f"zero_stage {zero_stage}: the optimizer can be offloaded from stage 1 on, parameters at stage 3"
        )
    if "nvme" in (offload_optimizer, offload_parameters) and (zero_stage < 3 or nvme_path is None):
        raise UserError(f"nvme needs zero_stage 3 (it is {zero_stage}) and nvme_path (it is {nvme_path})")
    sharding: dict[str, Any] = {
        "stage": zero_stage,
        "overlap_comm": on_gpu,
        "contiguous_gradients": True,
        "reduce_bucket_size": reduce_bucket_elements,
        "allgather_bucket_size": allgather_bucket_elements,
    }
    for what, device in (("offload_optimizer", offload_optimizer), ("offload_param", offload_parameters)):
        if device != "none":
            sharding[what] = {"device": device, "pin_memory": on_gpu, "nvme_path": nvme_path and str(nvme_path)}
    return {
        "train_micro_batch_size_per_gpu": batch_size,
        "gradient_accumulation_steps": gradient_accumulation_steps,
        "gradient_clipping": gradient_clipping,
        "zero_optimization": sharding,
        "zero_force_ds_cpu_optimizer": False,  # which would have to be compiled
        # NeMo's mel features stay in float32, so the model must too: autocast, not bf16.enabled.
        "torch_autocast": {"enabled": bfloat16, "dtype": "bfloat16"},
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
    }


def _require_asynchronous_io(sharding: Mapping[str, Any]) -> None:
    from deepspeed.ops.op_builder import AsyncIOBuilder

    devices = [sharding.get(what, {}).get("device") for what in ("offload_optimizer", "offload_param")]
    if "nvme" in devices and not AsyncIOBuilder().is_compatible(verbose=False):
        raise UserError("offloading to nvme needs the library libaio with its headers; install it (Debian: libaio-dev)")


def _common_in_force(
    module: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    device: torch.device,
    autocast: AbstractContextManager[Any],
) -> dict[str, Any]:
    with autocast:
        precision = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None
    stored = next(module.parameters()).dtype
    return {
        "precision": str(precision or stored).removeprefix("torch."),
        "parameter_precision": str(stored).removeprefix("torch."),
        "recomputed_layers": _recomputed_layers(module),
        "optimizer": type(optimizer).__name__,
        "device": device.type,
        "ranks": dist.get_world_size(),
    }


def _recomputed_layers(module: torch.nn.Module) -> int:
    """How many layers compute their activations again in the backward pass: NeMo's by their `forward`, which our
    recogniser wrapped, Hugging Face's by their own flag."""
    flagged = getattr(sys.modules.get("transformers.modeling_layers"), "GradientCheckpointingLayer", ())
    forwards = (vars(layer).get("forward") for layer in module.modules())
    wrapped = sum(isinstance(forward, partial) and forward.func is checkpoint for forward in forwards)
    return wrapped + sum(isinstance(layer, flagged) and layer.gradient_checkpointing for layer in module.modules())


def _offload(away: bool, to_disk: bool) -> Offload:
    return "nvme" if to_disk else "cpu" if away else "none"


def _hyperparameters(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """Of each group."""
    return [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]


def _set_hyperparameters(optimizer: torch.optim.Optimizer, settings: list[dict[str, Any]]) -> None:
    """Loading an optimizer's state brings the settings that it was saved with, or those of another group."""
    for group, mine in zip(optimizer.param_groups, settings, strict=True):
        parameters = group["params"]
        group.clear()
        group.update(mine, params=parameters)


@contextlib.contextmanager
def _failing_later(writer: Any) -> Iterator[list[Exception]]:
    """DeepSpeed's checkpoint writer keeps its failures, so that no rank leaves others waiting at the barrier."""
    failures: list[Exception] = []

    def save(state_dict: Any, path: str) -> None:
        try:
            write_state(state_dict, Path(path))
        except (OSError, RuntimeError) as error:
            failures.append(error)

    writer.save = save
    try:
        yield failures
    finally:
        del writer.save


def _memory(
    parameters: Iterable[Any], masters: Iterable[Tensor], gradients: Iterable[Any], optimizer: torch.optim.Optimizer
) -> dict[str, int]:
    whole = _storages(parameters)
    return {
        "parameters": sum(whole.values()),
        "master_parameters": sum(size for at, size in _storages(masters).items() if at not in whole),
        "gradients": sum(_storages(gradients).values()),
        "optimizer_state": sum(_storages(state.values() for state in optimizer.state.values()).values()),
    }


def _storages(held: Any) -> dict[tuple[str, int], int]:
    """Where tensors lie and how many bytes are there, each place once; held: tensors, in whatever nesting."""
    if isinstance(held, Tensor):
        storage = held.untyped_storage()
        return {(str(held.device), storage.data_ptr()): storage.nbytes()} if storage.nbytes() else {}
    if not isinstance(held, Iterable):
        return {}
    return {at: size for one in held for at, size in _storages(one).items()}
