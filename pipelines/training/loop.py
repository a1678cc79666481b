"""The training loop that every rank runs. Plain: epochs, steps, validation, one model at the end."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import Any

import jiwer
import torch
import torch.distributed as dist

from pipelines.training.batches import Corpus, plan_epoch, scoring_batches
from pipelines.training.config import TrainingConfig
from pipelines.training.engine import DeepSpeedEngine
from rayapp.asr.nemo import NemoTransducer
from rayapp.asr.recipes import recipe
from rayapp.asr.text import plain_text
from rayapp.errors import UserError


def train_on_this_rank(setup: dict[str, Any]) -> None:
    """Runs in each worker of the `TorchTrainer`.

    setup: `config` (TrainingConfig), `tokenizer` (folder, for a new model), `phoneme_symbols` (to learn),
    `staging` (folder that rank 0 writes the model to), `relay` (actor that takes metrics, see `train.py`).
    """
    import ray.train.torch

    config: TrainingConfig = setup["config"]
    context = ray.train.get_context()
    rank, ranks = context.get_world_rank(), context.get_world_size()

    device = ray.train.torch.get_device()
    os.environ["DS_ACCELERATOR"] = device.type  # or DeepSpeed takes any GPU that it sees; read when it is imported
    recogniser = _starting_model(config, setup["tokenizer"], device)
    if setup["phoneme_symbols"]:
        recogniser.learn_phonemes(len(setup["phoneme_symbols"]), config.phoneme_weight)
    torch.manual_seed(config.seed * 1000 + rank)  # from here on the ranks differ: dropout, SpecAugment
    corpus = Corpus.open(config.sources, recogniser, setup["phoneme_symbols"])
    validation = Corpus.open(config.validation, recogniser) if config.validation else None
    steps_per_epoch = math.ceil(corpus.rows_per_epoch / (config.batch_size * ranks))
    total_steps = min(config.epochs * steps_per_epoch, config.max_steps or 10**9)
    engine = DeepSpeedEngine(recogniser.module, config, total_steps)

    tell = setup["relay"].put.remote if rank == 0 else lambda metrics: None
    step, skipped, best_wer = 0, 0, math.inf
    for epoch in range(math.ceil(total_steps / steps_per_epoch)):
        recogniser.module.train()
        started, audio_seconds = time.perf_counter(), 0.0
        easy_start = epoch == 0 and config.model.recipe is not None
        plan = plan_epoch(corpus, epoch, config.batch_size, ranks, config.seed, shortest_first=easy_start)
        for rows in plan:
            if step == total_steps:
                break
            loss = engine.loss(*corpus.batch(rows[rank].tolist()).to(device))
            mean_loss = _mean_over_ranks(loss.detach())
            step += 1
            if not math.isfinite(mean_loss):  # the mean is not finite on any rank if it is not on one
                skipped += 1
                if skipped > config.max_skipped_steps:
                    raise UserError(
                        f"the loss was not finite in {skipped} steps; lower learning_rate ({config.learning_rate:g}) "
                        f"and, with optimizer muon, muon_learning_rate ({config.muon_learning_rate:g})"
                    )
                continue
            learning_rate = engine.update(loss)
            audio_seconds += float(corpus.durations[rows].sum())
            tell({"step": step, "total_steps": total_steps, "loss": mean_loss, "learning_rate": learning_rate})
        metrics: dict[str, float] = {
            "step": step,
            "total_steps": total_steps,
            "epoch": epoch + 1,
            "audio_seconds_per_second": audio_seconds / (time.perf_counter() - started),
            "skipped_steps": skipped,
        }
        if validation:
            metrics["validation_wer"] = wer = _word_error_rate(recogniser, validation, rank, ranks, device)
        if not validation or wer <= best_wer:
            best_wer = wer if validation else best_wer
            if rank == 0:
                recogniser.save(setup["staging"] / "model.nemo")
        tell(metrics)
    dist.barrier()  # no rank leaves while rank 0 still writes


def _starting_model(config: TrainingConfig, tokenizer: Path | None, device: torch.device) -> NemoTransducer:
    """The same on every rank: an earlier model, or a new one from the seed."""
    torch.manual_seed(config.seed)
    if config.model.path:
        return NemoTransducer.load(config.model.path, str(device), config.label_noise)
    assert config.model.recipe
    assert tokenizer
    return NemoTransducer.build(recipe(config.model.recipe)(tokenizer), str(device), config.label_noise)


def _mean_over_ranks(value: torch.Tensor) -> float:
    total = value.double().clone()
    dist.all_reduce(total)
    return float(total) / dist.get_world_size()


def _word_error_rate(recogniser: NemoTransducer, corpus: Corpus, rank: int, ranks: int, device: torch.device) -> float:
    """Over all ranks; each scores its share of the rows."""
    counts = torch.zeros(2, dtype=torch.float64, device=device)
    for rows in scoring_batches(corpus, rank, ranks):
        heard = recogniser.transcribe([corpus.audio(row) for row in rows])
        scored = jiwer.process_words(
            [plain_text(corpus.texts[row]) for row in rows], [plain_text(h.text) for h in heard]
        )
        counts[0] += scored.substitutions + scored.deletions + scored.insertions
        counts[1] += scored.substitutions + scored.deletions + scored.hits
    dist.all_reduce(counts)
    return float(counts[0] / counts[1])
