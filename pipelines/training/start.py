"""The model that a rank starts from, as its settings want it, and the engine that trains it."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from pipelines.training.config import TrainingConfig
from pipelines.training.engine import DDPEngine, DeepSpeedEngine, Engine, zero_settings
from pipelines.training.optimizer import make_optimizer
from pipelines.training.schedule import Schedule
from rayapp.asr.freezing import Freezing
from rayapp.asr.nemo import NemoRecogniser
from rayapp.asr.open import open_recogniser
from rayapp.asr.recipes import recipe
from rayapp.asr.recogniser import Recogniser
from rayapp.errors import UserError


def seed_all(seed: int) -> None:
    """Whatever a model or its library draws from: transformers masks features by NumPy's."""
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


def starting_model(config: TrainingConfig, start: Path, phonemes: tuple[str, ...], device: torch.device) -> Recogniser:
    """The same on every rank: an earlier model, or a new one from the seed.

    start: the earlier model, or the folder of a new one's tokenizer.

    Raises `UserError` for settings that this kind of model does not have.
    """
    seed_all(config.seed)
    model = config.model
    recogniser: Any
    if start.is_absolute() and not start.exists():
        raise UserError(
            f"{start} is not on this node, only where the training was started: put it on storage that all nodes see "
            "(models of the hub: set HF_HOME to a folder there)"
        )
    if model.recipe:
        recogniser = NemoRecogniser.build(recipe(model.recipe)(start), str(device), config.label_noise)
    elif start.suffix == ".nemo":
        recogniser = NemoRecogniser.load(start, str(device), config.label_noise)
    else:
        recogniser = open_recogniser(start, str(device))
    _suited(recogniser, config)
    if phonemes:
        recogniser.learn_phonemes(len(phonemes), config.phoneme_weight)
    if model.activation_checkpointing:
        recogniser.checkpoint_activations()
    return cast(Recogniser, recogniser)


def _suited(recogniser: Any, config: TrainingConfig) -> None:
    model = config.model
    for setting, method in (("spec_augment", "spec_augment"), ("local_attention", "long_audio")):
        if getattr(model, setting) is not None and not hasattr(recogniser, method):
            raise UserError(f"model.{setting} is for NeMo's models; leave it out for {model.start}")
    if model.language:
        if not hasattr(recogniser, "language"):
            raise UserError(f"model.language is for Whisper; leave it out for {model.start or model.recipe}")
        recogniser.language = model.language
    if model.spec_augment:
        masks = model.spec_augment
        recogniser.spec_augment(masks.frequency_masks, masks.time_masks, masks.frequency_width, masks.time_width)
    if model.local_attention:
        recogniser.long_audio(model.local_attention)


def make_engine(recogniser: Recogniser, config: TrainingConfig, expected_steps: int) -> tuple[Engine, Freezing | None]:
    """And what freezes parts of the model; None where an adapter learns alone.

    expected_steps: about so many updates there will be.
    """
    _add_adapter(recogniser, config, expected_steps)
    model = config.model
    freezing = None if model.adapter else Freezing(recogniser.module, model.frozen, model.unfrozen)
    if freezing:
        learning = set(freezing.ever_learning())
        for name, parameter in recogniser.module.named_parameters():
            parameter.requires_grad_(name in learning)  # what is unfrozen later, too, is the optimizer's from the start
    optimizer = make_optimizer(recogniser.module, config, freezing.starts() if freezing else {})
    schedule = Schedule(config.schedule, config.warmup_share)
    if config.engine == "ddp":
        engine: Engine = DDPEngine(
            recogniser.module,
            optimizer,
            schedule,
            gradient_accumulation_steps=config.gradient_accumulation_steps,
            gradient_clipping=config.gradient_clipping,
            bfloat16=config.bfloat16,
            after_step=_after_step(recogniser, expected_steps),
            extra_state=getattr(recogniser, "extra_state", None),
            load_extra_state=getattr(recogniser, "load_extra_state", None),
        )
        return engine, freezing
    ours = config.deepspeed
    settings = zero_settings(
        batch_size=1,  # batches have as many utterances as fit; DeepSpeed wants a number
        on_gpu=config.gpus_per_worker > 0,
        zero_stage=ours.zero_stage,
        gradient_clipping=config.gradient_clipping,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        bfloat16=config.bfloat16,
        offload_optimizer=ours.offload_optimizer,
        offload_parameters=ours.offload_parameters,
        nvme_path=ours.nvme_path,
        reduce_bucket_elements=ours.bucket_numbers,
        allgather_bucket_elements=ours.bucket_numbers,
    )
    return DeepSpeedEngine(recogniser.module, optimizer, schedule, settings), freezing


def _after_step(recogniser: Any, expected_steps: int) -> Callable[[float], None] | None:
    """AdaLoRA's pruning, by the share of the run that is done: how many steps there are depends on the ranks, whose
    number may change, and on the batches, which are only estimated."""
    if not hasattr(recogniser, "after_step"):
        return None
    return lambda progress: recogniser.after_step(round(progress * expected_steps) + 1)


def _add_adapter(recogniser: Any, config: TrainingConfig, expected_steps: int) -> None:
    adapter = config.model.adapter
    if adapter is None:
        return
    if not hasattr(recogniser, "add_adapter"):
        raise UserError(f"model.adapter is for Whisper; leave it out for {config.model.start or config.model.recipe}")
    recogniser.add_adapter(total_steps=expected_steps, **adapter.model_dump())
