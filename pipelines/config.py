"""Settings of the chains: what a YAML file for `rayapp synthesize`, `train`, `adapt`, `ablate` or `quickstart` holds.

Light: neither torch nor Ray is imported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from pipelines.augmentation.config import AugmentationConfig
from pipelines.evaluation.config import EvaluationConfig, TestSetConfig
from pipelines.lexicon.config import LexiconConfig
from pipelines.manifests.config import ManifestsConfig, SizesConfig
from pipelines.release.config import GateConfig
from pipelines.speech.config import SpeechConfig
from pipelines.training.config import (
    DeepSpeedConfig,
    InputConfig,
    LearningConfig,
    ModelConfig,
    SourceConfig,
    TrainingConfig,
)
from pipelines.transcripts.config import TranscriptsConfig
from pipelines.verification.config import VerificationConfig
from rayapp.config import Location, StepConfig


class PricesConfig(StepConfig):
    """What machines cost, for `rayapp plan`; in any currency."""

    cpu_hour: float = Field(ge=0)
    """An hour of one CPU."""
    gpu_hour: float = Field(ge=0)
    """An hour of one GPU."""


class SynthesisConfig(StepConfig):
    """From a lexicon to a manifest."""

    output: Location = "runs/synthesis"
    """Folder of the manifest, here or on an object store."""
    seed: int = 0
    """Another seed draws other sentences, voices, rooms and noise."""
    lexicon: LexiconConfig = LexiconConfig()
    """Which terms."""
    transcripts: TranscriptsConfig = TranscriptsConfig()
    """What is said around them."""
    speech: SpeechConfig = SpeechConfig()
    """Who says it."""
    augmentation: AugmentationConfig = AugmentationConfig()
    """Where it is said."""
    verification: VerificationConfig = VerificationConfig()
    """What is checked before it is kept."""
    manifests: ManifestsConfig = ManifestsConfig()
    """How much of it, and how it is written."""
    workers: int | None = Field(default=None, ge=1)
    """Processes for all that runs on a CPU; without it, as many as there are CPUs."""
    prices: PricesConfig | None = None
    """What machines cost; without it, `rayapp plan` tells no price."""

    def idle_sections(self) -> tuple[str, ...]:
        return () if self.verification.enabled and self.verification.recogniser else ("verification",)


class TrainConfig(TrainingConfig):
    """From manifests to a model, with speech that sounds different whenever it is heard."""

    augmentation: AugmentationConfig | None = None
    """What each utterance goes through, drawn anew in each epoch; without it, it is heard as the manifest has it."""

    @model_validator(mode="after")
    def _lengths_stay(self) -> Self:
        augmentation = self.augmentation
        if augmentation is None:
            return self
        if changing := [name for name in augmentation.chain if name in ("speed", "padding")]:
            raise ValueError(
                f"augmentation.chain has {' and '.join(changing)}; batches are planned by the lengths that the "
                "manifest tells: leave what changes them to the synthesis"
            )
        if augmentation.device != "cpu":
            raise ValueError("augmentation.device must be cpu here: it is the trainer's turn on the GPU")
        if "noise" in augmentation.chain and augmentation.noise.weights.babble:
            raise ValueError(
                "augmentation.noise.weights.babble must be 0 here: babble is made of the voices of a synthesis"
            )
        return self


class ServedModelConfig(StepConfig):
    """What the quickstart serves at its end."""

    model_name: str = Field(default="medical-asr", pattern=r"^[\w-]+$")
    """Name in the registry and in the API."""
    port: int | None = Field(default=None, ge=1, le=65535)
    """Port to listen on; without it, one that is free."""


_SMALL_MODEL = LearningConfig(
    epochs=3,
    optimizer="muon",
    input=InputConfig(batch_seconds=25),
    learning_rate=4e-3,
    muon_learning_rate=0.03,
    label_noise=0.03,
    phoneme_weight=0.5,
    keep_checkpoints=1,
    deepspeed=DeepSpeedConfig(zero_stage=0),  # Muon's; and a small model has little to share out over the ranks
)
"""How a small model learns in minutes."""


class _ExperimentConfig(StepConfig):
    """Speech that is made, what learns from it, and what it is judged on: settings that chains of trainings share."""

    workdir: Path
    """Where everything goes."""
    seed: int = 0
    """Another seed draws other data and another order."""
    start: Location
    """The recogniser to adapt: a path, a name in the registry, or one of a hub. Each training starts from it."""
    lexicon: LexiconConfig = LexiconConfig(held_out=24)
    """Which terms are taught, and which are held out."""
    transcripts: TranscriptsConfig = TranscriptsConfig()
    """What is said around them."""
    speech: SpeechConfig = SpeechConfig()
    """Who says it."""
    augmentation: AugmentationConfig = AugmentationConfig()
    """Where it is said."""
    verification: VerificationConfig = VerificationConfig()
    """What is checked before it is kept."""
    sizes: SizesConfig = SizesConfig(
        test=0, test_unseen_patterns=0, test_unseen_terms=0, test_other_synthesiser=0, test_general=0
    )
    """How much speech each training gets."""
    tests: SizesConfig = SizesConfig(train_per_term=0, validation=480, test_other_synthesiser=0)
    """How much speech is made to judge all of them on, where `sets` names none."""
    sets: dict[str, TestSetConfig] = Field(default={})
    """Speech of your own to judge all of them on, each under a name."""
    training: LearningConfig = LearningConfig()
    """How to learn."""
    replay: tuple[SourceConfig, ...] = ()
    """General speech that is trained on besides, against forgetting."""

    @model_validator(mode="after")
    def _something_to_learn(self) -> Self:
        if not self.sizes.train_per_term:
            raise ValueError("sizes.train_per_term is 0; there is nothing to learn from: give it 1 or more")
        return self

    def synthesis(self, output: Path, sizes: SizesConfig, lexicon: LexiconConfig, seed: int) -> SynthesisConfig:
        return SynthesisConfig(
            output=str(output),
            seed=seed,
            lexicon=lexicon,
            transcripts=self.transcripts,
            speech=self.speech,
            augmentation=self.augmentation,
            verification=self.verification,
            manifests=ManifestsConfig(sizes=sizes),
        )

    def model(self, output: Path, start: str, speech: Sequence[Path]) -> TrainingConfig:
        """Trained on manifests and on what is replayed; the first manifest decides which checkpoint is kept."""
        return TrainingConfig(
            **self.training.model_dump(),
            output=output,
            sources=(*(SourceConfig(manifest=str(made)) for made in speech), *self.replay),
            validation=(SourceConfig(manifest=str(speech[0]), split="validation"),),
            model=ModelConfig(start=start),
        )

    def evaluation(
        self, output: Path, sets: Mapping[str, TestSetConfig], before: str | None, after: str
    ) -> EvaluationConfig:
        """What was heard in one evaluation is not heard again in the next."""
        return EvaluationConfig(
            output=output,
            sets=dict(sets),
            before=before,
            after=after,
            heard=str(self.workdir / "heard"),
            workers=self.training.workers,
            gpus_per_worker=self.training.gpus_per_worker,
            gpu_type=self.training.gpu_type,
            seed=self.seed,
        )


class AdaptConfig(_ExperimentConfig):
    """Rounds of evaluation, synthesis and training, each planned by the errors of the one before."""

    workdir: Path = Path("runs/adapt")
    """Where everything goes; one folder for each round."""
    rounds: int = Field(default=2, ge=1)
    """At most so many."""
    target_term_recall: float | None = Field(default=None, gt=0, le=1)
    """Stop as soon as the lower end of the interval of `gate.term_set` is there."""
    weight_floor: float = Field(default=0.25, gt=0, le=1)
    """A term that is heard keeps this share of its sentences, and an accent of its speakers, at least."""
    steering: str = "steering"
    """The set whose errors plan the next round; without `sets`, what `tests.validation` makes. What is reported on the
    others is not what was aimed at."""
    gate: GateConfig = GateConfig()
    """What a round must show to be released."""
    model_name: str = Field(default="medical-asr", pattern=r"^[\w-]+$")
    """Name in the registry."""

    @model_validator(mode="after")
    def _errors_can_steer(self) -> Self:
        if self.sets and self.steering not in self.sets:
            raise ValueError(f"steering is {self.steering!r}, which is none of the sets: {', '.join(self.sets)}")
        if not self.sets and not self.tests.validation:
            raise ValueError("tests.validation is 0; the rounds have no errors to be planned by: give it some")
        return self


class AblateConfig(_ExperimentConfig):
    """The same training on more and less speech, filtered more and less, with and without each augmentation."""

    workdir: Path = Path("runs/ablation")
    """Where everything goes; one folder for each point."""
    train_per_term: tuple[int, ...] = (5, 15, 45)
    """Sizes to compare; none leaves this out."""
    max_rest_wer: tuple[float, ...] = ()
    """Thresholds of the filter to compare; they need `verification.enabled` and a recogniser."""
    augmentations: bool = False
    """Compare the whole chain with none, and with the chain without each of its transforms."""
    term_set: str = "test"
    """The set that shows the terms."""
    parallel: int = Field(default=1, ge=1)
    """Trainings at a time; each takes `training.workers` CPUs or GPUs."""

    @model_validator(mode="after")
    def _something_to_compare(self) -> Self:
        if not (self.train_per_term or self.max_rest_wer or self.augmentations):
            raise ValueError("there is nothing to compare: set train_per_term, max_rest_wer or augmentations")
        if self.max_rest_wer and not (self.verification.enabled and self.verification.recogniser):
            raise ValueError("max_rest_wer compares filters: set verification.enabled, and verification.recogniser")
        if any(size < 1 for size in self.train_per_term):
            raise ValueError(f"train_per_term has {min(self.train_per_term)}; each size must be 1 or more")
        return self


class QuickstartConfig(StepConfig):
    """The whole way on one machine: settings of each step, without the folders, which `workdir` decides."""

    workdir: Path = Path("runs/quickstart")
    """Where everything goes, but for the base model, which is kept in the cache for later runs."""
    seed: int = 0
    """Another seed draws other data and other initial weights."""
    lexicon: LexiconConfig = LexiconConfig(take=60, held_out=24)
    """Which terms are taught, and which are held out."""
    transcripts: TranscriptsConfig = TranscriptsConfig(max_patterns=40, max_alternatives=3)
    """What is said around them: a part of the grammar, since a small model has minutes to learn it."""
    speech: SpeechConfig = SpeechConfig(min_rate_wpm=150, max_rate_wpm=200, min_pitch=20, max_pitch=80)
    """Who speaks."""
    augmentation: AugmentationConfig = AugmentationConfig()
    """Where it is said."""
    everyday: SizesConfig = SizesConfig(
        train_per_term=0,
        train_everyday=3000,
        validation=0,
        validation_everyday=100,
        test=0,
        test_unseen_patterns=0,
        test_unseen_terms=0,
        test_other_synthesiser=0,
        test_general=0,
    )
    """How much everyday speech the base model is taught."""
    medical: SizesConfig = SizesConfig(train_per_term=90)
    """How much medical speech is made."""
    base_training: LearningConfig = _SMALL_MODEL.model_copy(update={"input": InputConfig(batch_seconds=20)})
    """How the base model learns everyday speech."""
    training: LearningConfig = _SMALL_MODEL
    """How it is adapted to the medical speech."""
    replay_utterances: int = Field(default=3000, ge=1)
    """Everyday utterances in each epoch of the adaptation, so that everyday speech is not forgotten."""
    gate: GateConfig = GateConfig()
    """What the adapted model must show to be released."""
    serving: ServedModelConfig = ServedModelConfig()
    """What is served at the end."""

    @model_validator(mode="after")
    def _each_step_has_utterances(self) -> Self:
        sizes = self.medical.model_dump()
        empty = [name for name, size in sizes.items() if name.startswith("test") and not size]
        if empty:
            raise ValueError(f"medical.{empty[0]} is 0; the quickstart reports on each test: give it 1 or more")
        if not self.medical.train_per_term:
            raise ValueError("medical.train_per_term is 0; the adaptation has nothing to learn from: give it 1 or more")
        if not self.everyday.train_everyday:
            raise ValueError("everyday.train_everyday is 0; the base has nothing to learn from: give it 1 or more")
        return self

    def everyday_speech(self, output: Path) -> SynthesisConfig:
        return self._synthesis(output, self.everyday, LexiconConfig(take=1), seed=self.seed + 1)

    def medical_speech(self, output: Path) -> SynthesisConfig:
        return self._synthesis(output, self.medical, self.lexicon, seed=self.seed)

    def _synthesis(self, output: Path, sizes: SizesConfig, lexicon: LexiconConfig, seed: int) -> SynthesisConfig:
        return SynthesisConfig(
            output=str(output),
            seed=seed,
            lexicon=lexicon,
            transcripts=self.transcripts,
            speech=self.speech,
            augmentation=self.augmentation,
            manifests=ManifestsConfig(sizes=sizes),
        )

    def base_model(self, output: Path, everyday: Path) -> TrainingConfig:
        return TrainingConfig(
            **self.base_training.model_dump(),
            output=output,
            sources=(SourceConfig(manifest=str(everyday)),),
            validation=(SourceConfig(manifest=str(everyday), split="validation"),),
            model=ModelConfig(recipe="fastconformer_tdt_small"),
        )

    def adapted_model(self, output: Path, base: Path, everyday: Path, medical: Path) -> TrainingConfig:
        return TrainingConfig(
            **self.training.model_dump(),
            output=output,
            sources=(
                SourceConfig(manifest=str(medical)),
                SourceConfig(manifest=str(everyday), utterances=self.replay_utterances),
            ),
            validation=(SourceConfig(manifest=str(medical), split="validation"),),
            model=ModelConfig(start=str(base)),
        )
