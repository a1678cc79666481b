"""The largest batches that fit a worker, found before a training."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipelines.training.batch_memory import Bucket, Limits, buckets_of, tune_on_this_rank
from pipelines.training.config import TrainingConfig
from pipelines.training.relay import fit, start_relay
from pipelines.training.train import fit_tokenizer, open_mixture, phonemes_to_learn, tokeniser_of
from rayapp.asr.resolve import resolve_recogniser
from rayapp.errors import UserError
from rayapp.ray_session import require_room


@dataclass(frozen=True)
class Tuned:
    """What was found."""

    buckets: Sequence[Bucket]
    limits: Limits
    device: str
    memory_bytes: float
    in_force: dict[str, Any]
    """The settings of the engine that was tried."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def tune_batch(config: TrainingConfig, home: Path, memory_gb: float | None = None) -> Tuned:
    """Try steps of the training on a running Ray, in one worker: with ZeRO over several, each has more room.

    memory_gb: that a worker may take; without it, all of its GPU, or its share of this machine's memory.

    Raises `UserError` for manifests or models that will not do, and where not even one utterance fits.
    """
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    require_room(1, config.gpus_per_worker, f"lower gpus_per_worker ({config.gpus_per_worker:g})")
    start = resolve_recogniser(config.model.start, home) if config.model.start else None
    mixture = open_mixture(config)
    with tempfile.TemporaryDirectory() as folder:
        start = (start or fit_tokenizer(config, Path(folder))).absolute()
        relay = start_relay()
        trainer = TorchTrainer(
            tune_on_this_rank,
            train_loop_config={
                "config": config.for_workers(),
                "start": start,
                "phonemes": tuple(phonemes_to_learn(config)),
                "buckets": buckets_of(mixture, tokeniser_of(config, start), config.input.max_seconds),
                "memory_bytes": memory_gb * 1e9 if memory_gb else _share_of_memory(config),
                "relay": relay,
            },
            torch_config=TorchConfig(backend="nccl" if config.gpus_per_worker else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=1,
                use_gpu=config.gpus_per_worker > 0,
                resources_per_worker={"CPU": 1} | ({"GPU": config.gpus_per_worker} if config.gpus_per_worker else {}),
                accelerator_type=config.gpu_type if config.gpus_per_worker else None,
            ),
            run_config=RunConfig(storage_path=folder),
        )
        ((told,),) = [entries for entries in fit(trainer, relay) if entries]
    if empty := [bucket.seconds for bucket in told["buckets"] if not bucket.utterances]:
        raise UserError(
            f"not even one utterance of {min(empty):g} s fits into {told['memory_bytes'] / 1e9:.1f} GB: lower "
            "input.max_seconds, set model.activation_checkpointing, or shard and offload (deepspeed.zero_stage)"
        )
    return Tuned(limits=Limits.of(told["buckets"]), **told)


def _share_of_memory(config: TrainingConfig) -> float | None:
    """None for all of a GPU."""
    if config.gpus_per_worker:
        return None
    import psutil

    return float(psutil.virtual_memory().available) / config.workers
