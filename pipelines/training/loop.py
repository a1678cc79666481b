"""The training loop that every rank runs: steps, validations, checkpoints, and the best model so far."""

from __future__ import annotations

import dataclasses
import math
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist

from pipelines.training.batch_memory import default_batch_seconds, is_memory_short
from pipelines.training.checkpoints import (
    SCORE,
    Facts,
    average_buffers,
    remove_half_written,
    report,
    resume,
    together,
)
from pipelines.training.config import TrainingConfig
from pipelines.training.engine import StepFigures
from pipelines.training.metrics import TrainingMetrics
from pipelines.training.mixture import Mixture, SetAside
from pipelines.training.planning import PlanSettings, Position
from pipelines.training.relay import unwrapped
from pipelines.training.start import make_engine, seed_all, starting_model
from pipelines.training.stream import Augment, BatchStream, InputFigures, Preparation, StreamedBatch
from pipelines.training.validation import ValidationSet
from rayapp.asr.freezing import Learning
from rayapp.asr.recogniser import Recogniser, Tokeniser
from rayapp.errors import UserError
from rayapp.records import SAMPLE_RATE_HZ

if TYPE_CHECKING:
    from ray.train import Checkpoint

ADAPTER = "adapter"
"""Folder of a trained adapter, beside the model that it was merged into."""
_FILLED = 0.93
"""Share of a batch's seconds that is taken, about."""
_NAMED = 5
"""Utterances that an error names at most."""


@dataclass(frozen=True)
class Setup:
    """What the driver gives to every rank."""

    config: TrainingConfig
    start: Path
    """The model to continue from; of a new one, the folder of its tokenizer."""
    tokeniser: Tokeniser
    start_id: str
    """What the model to start from holds, or the recipe's name."""
    input_id: str
    """Names all that decides what is heard when: a position means the same in runs with the same one."""
    phonemes: tuple[str, ...]
    """To learn; their place is their number."""
    mixture: Any
    """Reference to the `Mixture` of the sources."""
    augment: Augment | None
    """What utterances go through before they are heard."""
    resume: Checkpoint | None
    """Of another run, to go on from."""
    best: Path
    """Where the best model so far lies."""
    relay: Any
    """Actor that takes figures, see `train.py`."""


@dataclass
class Progress:
    """How far a run is. All ranks count alike."""

    position: Position = field(default_factory=Position)
    step: int = 0
    epochs_done: float = 0.0
    skipped: int = 0
    """Steps whose loss or gradient was not finite."""
    unfit: int = 0
    """Steps that needed more memory than there was."""
    best_wer: float = math.inf
    stale: int = 0
    """Validations since the best one."""

    def share(self, config: TrainingConfig) -> float:
        """Of the run that is done: of its epochs, or of its steps where these end it sooner."""
        return max(self.epochs_done / config.epochs, self.step / config.max_steps if config.max_steps else 0.0)

    def as_figures(self) -> dict[str, float]:
        told = {name: float(value) for name, value in vars(self).items() if name != "position"}
        return {name: value for name, value in told.items() if math.isfinite(value)}

    @classmethod
    def of(cls, facts: Facts) -> Progress:
        told = facts.figures
        return cls(
            position=Position.from_json(facts.position),
            step=facts.step,
            epochs_done=told["epochs_done"],
            skipped=int(told["skipped"]),
            unfit=int(told["unfit"]),
            best_wer=told.get("best_wer", math.inf),
            stale=int(told["stale"]),
        )


def train_on_this_rank(setup: dict[str, Any]) -> None:
    """Runs in each worker of the `TorchTrainer`.

    setup: `setup`, a `Setup`.

    What the user has to mend is told to the driver: Ray Train would try again, and fail again, `max_failures` times.
    """
    import ray

    relay = setup["setup"].relay
    if refusal := ray.get(relay.refusal.remote()):
        raise UserError(refusal)
    try:
        Rank(setup["setup"]).train()
    except UserError as error:
        ray.get(relay.refuse.remote(str(unwrapped(error))))
        raise


class Rank:
    """One worker's part of a training."""

    def __init__(self, setup: Setup) -> None:
        import ray.train.torch

        context = ray.train.get_context()
        self.setup, self.config = setup, setup.config
        self.rank, self.ranks = context.get_world_rank(), context.get_world_size()
        self.device = ray.train.torch.get_device()
        os.environ["DS_ACCELERATOR"] = self.device.type  # or DeepSpeed takes any GPU that it sees; read at its import
        self.recogniser: Recogniser = starting_model(self.config, setup.start, setup.phonemes, self.device)
        self.plan = self._plan_settings()
        self.engine, self.freezing = make_engine(self.recogniser, self.config, self._expected_steps())
        seed_all(self.config.seed * 1000 + self.rank)  # from here on ranks differ: dropout, SpecAugment
        self.progress, self.validated_at = self._resumed()
        """Where the run stands, and the step after which it was validated last."""
        self.validation = ValidationSet(self.config.validation, self.rank, self.ranks)
        self.learning: Learning | None = None
        """How much of the model learns now."""
        self.unfreezes: list[float] = []
        """Shares of the training at which more will learn."""
        self.not_finite: list[tuple[int, str]] = []
        """Steps whose loss or gradient was not finite, and the utterances of this rank's batch."""
        self.metrics = TrainingMetrics(self.config.output.name)

    def train(self) -> None:
        config, progress = self.config, self.progress
        self._tell({"in_force": self.engine.in_force()})
        due, settled, validated_at = self._next_validation(), True, self.validated_at
        self._learn()
        with BatchStream(self._preparation(), progress.position, self.rank, self.ranks, config.epochs) as stream:
            for streamed in stream if not self._has_ended() else ():
                settled = self._step(streamed)
                if progress.share(config) >= 1:
                    break
                if settled and progress.epochs_done >= due - 1e-9:
                    self._validate(stream.figures, checkpoint=True)
                    stream.figures, due, validated_at = InputFigures(), self._next_validation(), progress.step
                    if self._has_ended():
                        break
                    self._learn()
            if progress.step > validated_at:
                self._validate(stream.figures, checkpoint=settled)
        dist.barrier()  # no rank leaves while rank 0 still writes

    def _has_ended(self) -> bool:
        patience = self.config.patience
        return self.progress.share(self.config) >= 1 or (patience is not None and self.progress.stale >= patience)

    def _learn(self) -> None:
        """The model is to learn from here on, but for what is frozen."""
        self.recogniser.module.train()
        if self.freezing:
            share = self.progress.share(self.config)
            learning = self.freezing.apply(share)
            if learning != self.learning:
                self._tell({"learning_parameters": learning.learning, "parameters": learning.parameters})
            self.learning = learning
            self.unfreezes = [at for at in self.freezing.shares() if at > share]

    def _step(self, streamed: StreamedBatch) -> bool:
        """Returns whether no gradients wait for more to be added to them."""
        config, progress = self.config, self.progress
        if self.unfreezes and progress.share(config) >= self.unfreezes[0]:
            self._learn()
        loss = self._loss(streamed)
        here = torch.tensor(math.nan) if loss is None else loss.detach()
        mean_loss, unfit = _means_over_ranks([here.double(), float(loss is None)], self.device)
        figures: StepFigures | None = None
        if loss is not None and math.isfinite(mean_loss):  # it is not on any rank if it is not on one
            figures = self.engine.backward_and_step(loss, min(progress.share(config), 1.0))
        progress.step += 1
        progress.position, progress.epochs_done = streamed.position, streamed.epochs_done
        if unfit:
            progress.unfit += 1
            self.metrics.count("unfit")
            return config.gradient_accumulation_steps == 1
        if figures is None or figures.skipped:
            self.metrics.count("not_finite")
            self._skipped(streamed.utterance_ids if figures or not math.isfinite(here) else [])
            return config.gradient_accumulation_steps == 1
        self.metrics.count("learnt", float(streamed.batch.audio_lengths.sum()) / SAMPLE_RATE_HZ)
        told = {"loss": mean_loss, "learning_rate": figures.learning_rate}
        self._tell(told if figures.gradient_norm is None else told | {"gradient_norm": figures.gradient_norm})
        return figures.gradient_norm is not None

    def _loss(self, streamed: StreamedBatch) -> torch.Tensor | None:
        """None where the forward pass needs more memory than there is: all ranks skip the step, and it is told.

        A backward pass, and with ZeRO 3 a forward pass as well, waits for the other ranks: there it ends the try.
        """
        try:
            return self.engine.loss(*streamed.batch.to(self.device))
        except RuntimeError as error:
            if not is_memory_short(error) or self.engine.in_force()["zero_stage"] == 3:
                raise
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        seconds = float(streamed.batch.audio_lengths.max()) / SAMPLE_RATE_HZ
        batch = f"{len(streamed.utterance_ids)} utterances of up to {seconds:.1f} s"
        reason = f"its batch did not fit into memory ({batch})"
        self._tell_set_aside([SetAside(utterance_id, reason) for utterance_id in streamed.utterance_ids])
        return None

    def _skipped(self, utterance_ids: Sequence[str]) -> None:
        """utterance_ids: of this rank's batch, if it may be the one.

        Raises `UserError`, on all ranks, where it happened too often.
        """
        progress = self.progress
        progress.skipped += 1
        self.not_finite += [(progress.step, utterance_id) for utterance_id in utterance_ids]
        if progress.skipped <= self.config.max_skipped_steps:
            return
        told: list[list[tuple[int, str]]] = [[] for _ in range(self.ranks)]
        dist.all_gather_object(told, self.not_finite)
        named = [utterance_id for _, utterance_id in sorted(each for rank in told for each in rank)][-_NAMED:]
        raise UserError(
            f"the loss or its gradient was not finite in {progress.skipped} steps, more than the "
            f"{self.config.max_skipped_steps} allowed (max_skipped_steps). The last such batches had the utterances "
            f"{', '.join(named)}. Lower learning_rate ({self.config.learning_rate:g}) and, with optimizer muon, "
            f"muon_learning_rate ({self.config.muon_learning_rate:g})"
        )

    def _validate(self, input_figures: InputFigures, *, checkpoint: bool) -> None:
        """Measure, keep the model if it is the best so far, and leave a checkpoint, which cannot hold gradients that
        wait for others."""
        progress = self.progress
        skipped = {"skipped_steps": float(progress.skipped), "unfit_steps": float(progress.unfit)}
        figures = {"epoch": progress.epochs_done, **skipped}
        if input_figures.steps:
            figures |= self._over_ranks(input_figures).summary()
        with self.engine.whole():
            average_buffers(self.recogniser.module)  # each rank has running means of its own, but one model is saved
            validated = self.validation.measure(self.recogniser, self.device)
            wer = validated.figures.get("validation_wer")
            if wer is None or wer <= progress.best_wer:
                together(self._save_model, str(self.setup.best))
        if wer is not None:
            progress.stale = 0 if wer < progress.best_wer else progress.stale + 1
            progress.best_wer = min(wer, progress.best_wer)
        figures |= validated.figures
        self._tell(figures | ({"samples": validated.samples} if validated.samples else {}))
        if not checkpoint:
            return
        facts = Facts.of(
            self.engine,
            step=progress.step,
            position=dataclasses.asdict(progress.position) | {"input": self.setup.input_id},
            model=self.setup.start_id,
            figures=progress.as_figures() | {"batch_seconds": self.plan.batch_seconds} | figures,
        )
        report(self.engine, facts, {"step": progress.step} | ({} if wer is None else {SCORE: wer}))
        if self.rank == 0:
            self.metrics.show({"checkpoint_at": time.time()})

    def _over_ranks(self, mine: InputFigures) -> InputFigures:
        told: list[InputFigures] = [mine] * self.ranks
        dist.all_gather_object(told, mine)
        whole = InputFigures.of_ranks(told, mine.started)
        self._tell_set_aside(whole.set_aside if self.rank == 0 else [])
        return whole

    def _save_model(self) -> None:
        """Beside the best one so far, which it then replaces: a full disk costs neither."""
        if self.rank:
            return
        best = self.setup.best
        with tempfile.TemporaryDirectory(prefix=".best-", dir=best.parent) as folder:
            self.recogniser.save(Path(folder) / best.name)
            if self.config.model.adapter:
                self.recogniser.save_adapter(Path(folder) / ADAPTER)  # type: ignore[attr-defined]
            for saved in sorted(Path(folder).iterdir()):
                earlier = best.parent / saved.name
                if earlier.is_dir():
                    shutil.rmtree(earlier)
                saved.replace(earlier)

    def _resumed(self) -> tuple[Progress, int]:
        """Where an earlier try of this run stood, with the engine brought there; or the beginning."""
        import ray.train

        if self.rank == 0:
            remove_half_written(ray.train.get_context().get_storage())
        checkpoint = self._checkpoint()
        if not checkpoint:
            return Progress(), -1
        progress = Progress.of(resume(self.engine, checkpoint))
        if ray.train.get_checkpoint():
            return progress, progress.step
        progress.best_wer, progress.stale = math.inf, 0  # the best model of another run is not in this one's output
        return progress, -1

    def _checkpoint(self) -> Checkpoint | None:
        """This run's latest; at its first try, the one of another run that it is to go on from."""
        import ray.train

        return ray.train.get_checkpoint() or self.setup.resume

    def _next_validation(self) -> float:
        """In epochs."""
        interval = self.config.validation_interval
        return (math.floor(self.progress.epochs_done / interval + 1e-9) + 1) * interval

    def _preparation(self) -> Preparation:
        return Preparation(
            mixture=self.setup.mixture,
            plan=self.plan,
            tokeniser=self.setup.tokeniser,
            max_seconds=min(self.config.input.max_seconds, getattr(self.recogniser, "max_seconds", math.inf)),
            max_labels=getattr(self.recogniser, "max_labels", None),
            phonemes={symbol: number for number, symbol in enumerate(self.setup.phonemes)},
            augment=self.setup.augment,
        )

    def _plan_settings(self) -> PlanSettings:
        config = self.config
        return PlanSettings(
            self._batch_seconds(),
            config.input.window,
            config.seed,
            config.input.quadratic_seconds,
            shortest_first=config.model.recipe is not None,
        )

    def _batch_seconds(self) -> float:
        """As the settings say, or as a checkpoint does, since positions mean nothing in another plan; else by the least
        memory of all ranks."""
        if self.config.input.batch_seconds:
            return self.config.input.batch_seconds
        if checkpoint := self._checkpoint():
            return Facts.read(checkpoint).figures["batch_seconds"]
        parameters = sum(parameter.numel() for parameter in self.recogniser.module.parameters())
        fitting = torch.tensor(default_batch_seconds(parameters, self.device), device=self.device)
        dist.all_reduce(fitting, dist.ReduceOp.MIN)
        return float(fitting)

    def _expected_steps(self) -> int:
        """About so many updates there will be: AdaLoRA has to know."""
        import ray

        mixture: Mixture = ray.get(self.setup.mixture)
        costs = [float(self.plan.cost(mixture.seconds[rows]).mean()) for rows in mixture.rows]
        whole = float(np.dot(costs, mixture.counts)) * self.config.epochs
        steps = math.ceil(whole / (_FILLED * self.plan.batch_seconds * self.ranks))
        return min(steps, self.config.max_steps or steps) // self.config.gradient_accumulation_steps

    def _tell(self, figures: dict[str, Any]) -> None:
        if self.rank == 0:
            self.metrics.show(figures)
            done = min(self.progress.share(self.config), 1.0)
            self.setup.relay.put.remote({"step": self.progress.step, "done": done, **figures})

    def _tell_set_aside(self, utterances: Sequence[SetAside]) -> None:
        if utterances:
            told = [each._asdict() for each in utterances]
            self.setup.relay.put.remote({"step": self.progress.step, "done": 0.0, "set_aside_utterances": told})


def _means_over_ranks(values: Sequence[float | torch.Tensor], device: torch.device) -> list[float]:
    total = torch.tensor([float(value) for value in values], dtype=torch.float64, device=device)
    dist.all_reduce(total)
    means: list[float] = (total / dist.get_world_size()).tolist()
    return means
