"""Settings of the training step."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from rayapp.config import StepConfig


class SourceConfig(StepConfig):
    """A manifest to train on."""

    manifest: Path
    """Folder of the manifest."""
    split: str = "train"
    """Split to train on."""
    utterances: int | None = Field(default=None, ge=1)
    """So many of them in each epoch, drawn anew each time; without it, all of them."""


class ModelConfig(StepConfig):
    """What training starts from: a recipe (random weights) or an earlier model."""

    recipe: Literal["fastconformer_tdt_small"] | None = None
    """Build a new model of this make."""
    path: Path | None = None
    """Continue from this `.nemo` file."""
    vocabulary_size: int = Field(default=128, ge=32)
    """Size of a new model's tokenizer, fitted to the training text."""

    @model_validator(mode="after")
    def _one_start(self) -> Self:
        if (self.recipe is None) == (self.path is None):
            raise ValueError("model: set either recipe (a new model) or path (an earlier one)")
        return self


class DeepSpeedConfig(StepConfig):
    """Settings that go to DeepSpeed."""

    zero_stage: Literal[0, 1, 2] = 1
    """What is shared out over the ranks: nothing, optimizer state, or that and gradients."""
    gradient_clipping: float = Field(default=1.0, gt=0)
    """Largest norm of the gradient."""
    gradient_accumulation_steps: int = Field(default=1, ge=1)
    """Batches per optimizer step."""
    bfloat16: bool = False
    """Compute in bfloat16 under autocast; parameters stay in float32."""


class LearningConfig(StepConfig):
    """How to learn, whatever is learnt."""

    epochs: int = Field(default=5, ge=1)
    """Passes over the sources."""
    max_steps: int | None = Field(default=None, ge=1)
    """Stop after so many steps, whatever the epochs."""
    batch_size: int = Field(default=8, ge=1)
    """Utterances per worker and step."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """Muon learns faster from scratch: it takes the encoder's matrices, AdamW the rest. Not with ZeRO above 0."""
    learning_rate: float = Field(default=2e-3, gt=0)
    """Peak of AdamW's one-cycle schedule."""
    muon_learning_rate: float = Field(default=0.02, gt=0)
    """Peak of Muon's; its updates are orthogonal, so that this hardly depends on the model."""
    warmup_share: float = Field(default=0.15, gt=0, lt=1)
    """Share of the steps in which the learning rate rises to its peak."""
    weight_decay: float = Field(default=1e-3, ge=0)
    """Share of the learning rate by which weights shrink."""
    label_noise: float = Field(default=0.1, ge=0, lt=1)
    """Share of the labels that the prediction network is shown wrongly, so that it listens instead of guessing."""
    phoneme_weight: float = Field(default=0.0, ge=0)
    """Weight of a second loss, naming the phoneme of each 20 ms; new models learn sooner so. espeak-ng tells them."""
    deepspeed: DeepSpeedConfig = DeepSpeedConfig()
    """Memory and precision."""
    workers: int = Field(default=2, ge=1)
    """Ranks of the `TorchTrainer`."""
    gpus_per_worker: float = Field(default=0, ge=0)
    """0 trains on the CPU."""
    max_skipped_steps: int = Field(default=20, ge=0)
    """A step whose loss is not finite is skipped on all ranks; past so many, training stops."""
    seed: int = 0
    """Of initial weights, order and dropout."""

    @model_validator(mode="after")
    def _muon_sees_whole_matrices(self) -> Self:
        if self.optimizer == "muon" and self.deepspeed.zero_stage > 0:
            raise ValueError(
                f"optimizer muon needs deepspeed.zero_stage 0, not {self.deepspeed.zero_stage}: sharding cuts the "
                "matrices up; set zero_stage: 0, or optimizer: adamw"
            )
        return self


class TrainingConfig(LearningConfig):
    """From manifests to a model."""

    output: Path = Path("runs/training")
    """Folder of the model."""
    sources: tuple[SourceConfig, ...] = Field(min_length=1)
    """Manifests to train on, together."""
    validation: tuple[SourceConfig, ...] = ()
    """Manifests whose word error rate is measured after each epoch."""
    model: ModelConfig
    """What to start from."""

    def for_workers(self) -> Self:
        """The same with absolute paths: Ray Train puts each worker into a folder of its own."""

        def located(sources: tuple[SourceConfig, ...]) -> tuple[SourceConfig, ...]:
            return tuple(source.model_copy(update={"manifest": source.manifest.absolute()}) for source in sources)

        path = self.model.path and self.model.path.absolute()
        return self.model_copy(
            update={
                "sources": located(self.sources),
                "validation": located(self.validation),
                "model": self.model.model_copy(update={"path": path}),
            }
        )
