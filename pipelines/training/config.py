"""Settings of the training step."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from rayapp.config import Location, StepConfig

CHECKPOINTS = "checkpoints"
"""Folder within a training's output."""
Share = Annotated[float, Field(ge=0, le=1)]


def absolute(location: str) -> str:
    """A path from the root; a URI as it is."""
    return location if "://" in location else str(Path(location).absolute())


class SourceConfig(StepConfig):
    """A manifest to train on."""

    manifest: Location
    """Folder of the manifest."""
    split: str = "train"
    """Split to train on."""
    utterances: int | None = Field(default=None, ge=1)
    """So many of them in each epoch, drawn anew each time; without it, all of them."""
    weight: float | None = Field(default=None, gt=0)
    """How much more often than by its size it is drawn from, beside the other sources; an epoch stays as long."""
    share: float | None = Field(default=None, gt=0, lt=1)
    """Replay: this share of each epoch is drawn from it, whatever its size."""

    @model_validator(mode="after")
    def _one_measure(self) -> Self:
        given = [name for name in ("utterances", "weight", "share") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"sources: {' and '.join(given)} contradict one another; keep one of them")
        return self


class AdapterConfig(StepConfig):
    """A small set of weights that is trained beside a frozen model."""

    kind: Literal["lora", "adalora"] = "adalora"
    """AdaLoRA moves the rank to where it helps (https://arxiv.org/abs/2303.10512)."""
    rank: int = Field(default=12, ge=1)
    """Of each matrix; with AdaLoRA at the start."""
    target_rank: int = Field(default=8, ge=1)
    """AdaLoRA's average at the end."""
    alpha: int = Field(default=32, ge=1)
    """Scales what the adapter adds, by alpha / rank."""
    dropout: float = Field(default=0.05, ge=0, lt=1)
    """Of what goes into the adapter."""
    target_modules: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
    """Names of the layers that get one."""
    orthogonal_weight: float = Field(default=0.5, ge=0)
    """Of AdaLoRA's penalty on directions that are not orthogonal."""
    warmup_share: float = Field(default=0.1, ge=0, lt=1)
    """Share of the steps before AdaLoRA takes ranks away."""
    final_share: float = Field(default=0.3, ge=0, lt=1)
    """Share of the steps at the end with the ranks as they are."""
    interval: int = Field(default=10, ge=1)
    """Steps between two allocations."""

    @model_validator(mode="after")
    def _ranks_fall(self) -> Self:
        if self.kind == "adalora" and self.target_rank >= self.rank:
            raise ValueError(f"adapter: target_rank ({self.target_rank}) must be below rank ({self.rank})")
        return self


class SpecAugmentConfig(StepConfig):
    """Bands of the features that a model does not see in training (SpecAugment, https://arxiv.org/abs/1904.08779)."""

    frequency_masks: int = Field(default=2, ge=0)
    """Bands of frequency."""
    frequency_width: int = Field(default=27, ge=1)
    """Widest band, in mel bins."""
    time_masks: int = Field(default=10, ge=0)
    """Stretches of time."""
    time_width: float = Field(default=0.05, gt=0, le=1)
    """Longest stretch, as a share of the utterance."""


class ModelConfig(StepConfig):
    """What training starts from: a recipe (random weights) or an earlier model."""

    recipe: Literal["fastconformer_tdt_small", "parakeet_tdt_06b"] | None = None
    """Build a new model of this make: one that learns in minutes, or one as large as Parakeet TDT 0.6B."""
    start: Location | None = None
    """Continue from this model: a path, `NAME@ALIAS` of the registry, or a name of Hugging Face's hub or of NGC."""
    vocabulary_size: int = Field(default=128, ge=32)
    """Size of a new model's tokenizer, fitted to the training text."""
    language: str | None = None
    """Language that a multilingual Whisper is taught, such as `en`; without it, as the model's own settings say."""
    adapter: AdapterConfig | None = None
    """Train this beside the model, which stays as it is; Whisper only."""
    frozen: tuple[str, ...] = ()
    """Parameters that do not learn, by patterns of their names such as `*encoder*`."""
    unfrozen: dict[str, Share] = Field(default={})
    """Patterns of frozen parameters that learn after all, from this share of the training on."""
    spec_augment: SpecAugmentConfig | None = None
    """Without it, as the model's own settings say."""
    activation_checkpointing: bool = False
    """Compute activations anew in the backward pass: less memory for a third more work."""
    local_attention: tuple[int, int] | None = None
    """Frames to the left and right that attention reaches, for long audio; without it, as the model was made."""

    @model_validator(mode="after")
    def _one_start(self) -> Self:
        if (self.recipe is None) == (self.start is None):
            raise ValueError("model: set either recipe (a new model) or start (an earlier one)")
        if self.adapter and (self.recipe or self.frozen or self.unfrozen):
            raise ValueError("model: with an adapter all else stays as it is; leave out recipe, frozen and unfrozen")
        return self


class InputConfig(StepConfig):
    """How utterances become batches."""

    batch_seconds: float | None = Field(default=None, gt=0)
    """Most seconds of audio in a worker's batch, padding included; without it, by the model's size and the GPU's
    memory, and 40 on a CPU. `rayapp tune-batch` measures it."""
    quadratic_seconds: float | None = Field(default=None, gt=0)
    """With it, d seconds take d + d² / quadratic_seconds of `batch_seconds`: long audio needs more memory."""
    window: int = Field(default=4096, ge=1)
    """About how many utterances, over all workers, are sorted by length together; raise it with many workers."""
    max_seconds: float = Field(default=30.0, gt=0)
    """Longer utterances are set aside."""
    temperature: float = Field(default=1.0, gt=0)
    """Above 1, small sources are drawn from more often than their size says."""
    max_inexpressible_share: Share = 0.02
    """Most of the utterances whose text has characters that the model's tokenizer lacks; more are refused."""


class DeepSpeedConfig(StepConfig):
    """Settings that go to DeepSpeed."""

    zero_stage: Literal[0, 1, 2, 3] = 1
    """What is shared out over the ranks: nothing, optimizer state, that and gradients, or parameters as well."""
    offload_optimizer: Literal["none", "cpu", "nvme"] = "none"
    """Where the optimizer's state lies, besides the GPU."""
    offload_parameters: Literal["none", "cpu", "nvme"] = "none"
    """Where parameters lie that are not at work; with zero_stage 3."""
    nvme_path: Path | None = None
    """Folder on a fast disk, for what is offloaded to nvme."""
    bucket_numbers: int = Field(default=200_000_000, ge=1)
    """How many numbers travel between ranks at a time: more need memory, fewer time."""


class TrackingConfig(StepConfig):
    """Where figures are kept besides MLflow."""

    tensorboard: bool = False
    """Event files in `tensorboard/` of the output."""
    csv: bool = False
    """`metrics.csv` in the output."""
    wandb_project: str | None = None
    """Project of Weights & Biases; its key comes from `WANDB_API_KEY`."""


class LearningConfig(StepConfig):
    """How to learn, whatever is learnt."""

    epochs: int = Field(default=5, ge=1)
    """Passes over the sources."""
    max_steps: int | None = Field(default=None, ge=1)
    """Stop after so many steps, whatever the epochs."""
    input: InputConfig = InputConfig()
    """Batches."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """Muon learns faster from scratch: it takes the encoder's matrices, AdamW the rest. Not with ZeRO above 0."""
    learning_rate: float = Field(default=2e-3, gt=0)
    """AdamW's peak."""
    muon_learning_rate: float = Field(default=0.02, gt=0)
    """Muon's peak; its updates are orthogonal, so that this hardly depends on the model."""
    schedule: Literal["one_cycle", "cosine", "linear", "constant", "inverse_sqrt"] = "one_cycle"
    """What becomes of the learning rate after its rise."""
    warmup_share: float = Field(default=0.15, gt=0, lt=1)
    """Share of the training in which the learning rate rises to its peak."""
    weight_decay: float = Field(default=1e-3, ge=0)
    """Share of the learning rate by which weights shrink."""
    engine: Literal["deepspeed", "ddp"] = "deepspeed"
    """What turns losses into updates; adapters need ddp."""
    deepspeed: DeepSpeedConfig = DeepSpeedConfig()
    """For `engine: deepspeed`."""
    gradient_clipping: float = Field(default=1.0, gt=0)
    """Largest norm of the gradient."""
    gradient_accumulation_steps: int = Field(default=1, ge=1)
    """Batches per update."""
    bfloat16: bool = False
    """Compute in bfloat16 under autocast; parameters stay in float32."""
    label_noise: float = Field(default=0.1, ge=0, lt=1)
    """Share of the labels that the prediction network is shown wrongly, so that it listens instead of guessing."""
    phoneme_weight: float = Field(default=0.0, ge=0)
    """Weight of a second loss, naming the phoneme of each 20 ms; new models learn sooner so. espeak-ng tells them."""
    workers: int = Field(default=2, ge=1)
    """Ranks of the `TorchTrainer`."""
    min_workers: int | None = Field(default=None, ge=1)
    """Go on with so few where nodes are lost; without it, wait for others."""
    gpus_per_worker: float = Field(default=0, ge=0)
    """0 trains on the CPU."""
    gpu_type: str | None = None
    """Ray's name of the GPUs that it needs, such as `A100` or `L40S`; unset, any."""
    validation_interval: float = Field(default=1.0, gt=0)
    """Epochs between validations; each leaves a checkpoint."""
    patience: int | None = Field(default=None, ge=1)
    """Stop after so many validations without a better word error rate."""
    keep_checkpoints: int = Field(default=10, ge=1)
    """Those with the lowest word error rates; the latest besides."""
    max_skipped_steps: int = Field(default=20, ge=0)
    """A step whose loss is not finite is skipped on all ranks; past so many, training stops."""
    max_failures: int = Field(default=3, ge=0)
    """Go on from the last checkpoint so often, where a worker dies."""
    tracking: TrackingConfig = TrackingConfig()
    """Where figures are kept besides MLflow."""
    seed: int = 0
    """Of initial weights, order and dropout."""

    @model_validator(mode="after")
    def _muon_sees_whole_matrices(self) -> Self:
        if self.optimizer == "muon" and self.engine == "deepspeed" and self.deepspeed.zero_stage > 0:
            raise ValueError(
                f"optimizer muon needs deepspeed.zero_stage 0, not {self.deepspeed.zero_stage}: sharding cuts the "
                "matrices up; set zero_stage: 0, or optimizer: adamw"
            )
        return self


class TrainingConfig(LearningConfig):
    """From manifests to a model."""

    output: Path = Path("runs/training")
    """Folder of the model; all nodes of a cluster have to see it."""
    sources: tuple[SourceConfig, ...] = Field(min_length=1)
    """Manifests to train on, together."""
    validation: tuple[SourceConfig, ...] = ()
    """Manifests whose word error rate is measured from time to time."""
    model: ModelConfig
    """What to start from."""
    resume: Location | None = None
    """Go on from this checkpoint of another run with the same sources and batches: the run's output, or one folder of
    its `checkpoints`. Only your own: DeepSpeed's files can run code. An interrupted run needs no such word."""

    @model_validator(mode="after")
    def _adapters_need_ddp(self) -> Self:
        if self.model.adapter and self.engine != "ddp":
            raise ValueError("model.adapter needs engine: ddp, not deepspeed, which undoes what AdaLoRA takes away")
        return self

    @model_validator(mode="after")
    def _workers_can_fall(self) -> Self:
        if self.min_workers and self.min_workers > self.workers:
            raise ValueError(f"min_workers ({self.min_workers}) is above workers ({self.workers}); swap them")
        return self

    def for_workers(self) -> Self:
        """The same with absolute paths: Ray Train puts each worker into a folder of its own."""

        def located(sources: tuple[SourceConfig, ...]) -> tuple[SourceConfig, ...]:
            return tuple(s.model_copy(update={"manifest": absolute(s.manifest)}) for s in sources)

        changes = {"sources": located(self.sources), "validation": located(self.validation)}
        return self.model_copy(update=changes | {"resume": self.resume and absolute(self.resume)})
