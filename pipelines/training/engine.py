"""What turns a loss into an update, over all ranks: DeepSpeed."""

from __future__ import annotations

from typing import Any, Protocol

import torch

from pipelines.training.config import TrainingConfig
from pipelines.training.optimizer import make_optimizer


class Engine(Protocol):
    """One module, trained by all ranks together; every rank makes the same calls."""

    def loss(self, *batch: torch.Tensor) -> torch.Tensor:
        """Forward pass of this rank's batch."""
        ...

    def update(self, loss: torch.Tensor) -> float:
        """Backward pass and optimizer step; returns the learning rate of the step."""
        ...


class DeepSpeedEngine:
    """DeepSpeed with a client optimizer (its own compile for minutes) and a one-cycle schedule."""

    def __init__(self, module: torch.nn.Module, config: TrainingConfig, total_steps: int) -> None:
        import deepspeed

        # DeepSpeed probes all its operations when this is first read, and on a CPU compiles for a minute a
        # collective that only inference calls. An empty table spares both.
        deepspeed.ops.__compatible_ops__ = {}
        optimizer = make_optimizer(module, config)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=[group["lr"] for group in optimizer.param_groups],
            cycle_momentum=False,
            total_steps=max(total_steps // config.deepspeed.gradient_accumulation_steps, 2) + 1,
            pct_start=config.warmup_share,
            div_factor=20,
            final_div_factor=50,
        )
        self._engine, *_ = deepspeed.initialize(
            model=module,
            model_parameters=[p for p in module.parameters() if p.requires_grad],
            optimizer=optimizer,
            lr_scheduler=schedule,
            config=deepspeed_settings(config),
            dist_init_required=False,
        )

    def loss(self, *batch: torch.Tensor) -> torch.Tensor:
        loss: torch.Tensor = self._engine(*batch)
        return loss

    def update(self, loss: torch.Tensor) -> float:
        self._engine.backward(loss)
        self._engine.step()
        return float(self._engine.get_lr()[-1])  # AdamW's, the last group


def deepspeed_settings(config: TrainingConfig) -> dict[str, Any]:
    """The JSON that DeepSpeed reads."""
    ours = config.deepspeed
    return {
        "train_micro_batch_size_per_gpu": config.batch_size,
        "gradient_accumulation_steps": ours.gradient_accumulation_steps,
        "gradient_clipping": ours.gradient_clipping,
        "zero_optimization": {"stage": ours.zero_stage, "overlap_comm": config.gpus_per_worker > 0},
        # NeMo's mel features stay in float32, so the model must too: autocast, not bf16.enabled.
        "torch_autocast": {"enabled": ours.bfloat16, "dtype": "bfloat16"},
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
    }
