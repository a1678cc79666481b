"""Training as a whole: what the driver does around the loop."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.training.config import CHECKPOINTS, LearningConfig, SourceConfig, TrainingConfig, absolute
from pipelines.training.mixture import Mixture, Source
from pipelines.training.notes import Notes
from pipelines.training.relay import fit, start_relay
from rayapp.asr.open import open_tokeniser
from rayapp.asr.recipes import train_tokenizer
from rayapp.asr.recogniser import Tokeniser
from rayapp.asr.resolve import NEMO_FILE, WHISPER_FOLDER, resolve_recogniser, trained_model
from rayapp.asr.text import plain_text
from rayapp.asr.tokeniser import PieceTokeniser
from rayapp.config import save_config
from rayapp.errors import UserError
from rayapp.ids import content_id, path_id
from rayapp.manifest import Manifest
from rayapp.ray_session import require_room
from rayapp.storage import key_of, published_folder, step_key
from rayapp.tracking import TrackedRun, Tracker, tracked_run
from rayapp.tracking.other_runs import CsvRun, TensorBoardRun, WandbRun

if TYPE_CHECKING:
    from ray.train import Checkpoint
    from ray.train.torch import TorchTrainer

    from pipelines.training.loop import Setup
    from pipelines.training.stream import Augment

_SHOWN_CHARACTERS = 20
_NOT_IN_KEY = ("workers", "min_workers", "gpus_per_worker", "gpu_type", "max_failures", "keep_checkpoints", "tracking")
"""They say where it is trained and what is kept, not what comes of it."""

Progress = Callable[[int, int], None]


def train(
    config: TrainingConfig,
    home: Path,
    progress: Progress = lambda done, total: None,
    augment: Augment | None = None,
) -> dict[str, Any]:
    """Train on a running Ray; publishes the model, `config.json`, `metrics.json` and checkpoints at `config.output`.

    An interrupted run goes on from its last checkpoint, also with another number of workers.

    home: folder of the tracking file, see `rayapp.tracking`.
    augment: what utterances go through before they are heard.

    Returns the figures of the last validation, and the hours of training speech; where the same was trained already,
    nothing else is done.
    Raises `UserError` for manifests or models that will not do, for more workers than this machine has room for, and
    for a loss that stays not finite.
    """
    start = resolve_recogniser(config.model.start, home) if config.model.start else None
    start_id = path_id(start) if start else str(config.model.recipe)
    key = _key(config, start_id, augment.identity if augment else "")
    if key_of(config.output) == key:
        figures: dict[str, Any] = json.loads((config.output / "metrics.json").read_text())["figures"]
        return figures
    require_room(
        config.workers, config.workers * config.gpus_per_worker, f"lower the workers ({config.workers}) of the training"
    )
    _require_splits(config.validation)
    resume = _checkpoint_of_another(config)
    mixture = open_mixture(config)
    phonemes = phonemes_to_learn(config)
    with (
        published_folder(config.output, key, resume=True) as staging,
        tracked_run(home, config.output.name, _trackers(config, staging)) as run,
    ):
        save_config(config, staging)
        run.log_params(_params(config, mixture, start_id))
        run.mlflow.log_file(staging / "config.json")
        run.mlflow.set_tag("checkpoints", str((config.output / CHECKPOINTS).absolute()))
        _tell_manifests(config, run)
        start = start or fit_tokenizer(config, staging)
        setup = _setup(config, start.absolute(), start_id, phonemes, mixture, augment, resume, staging)
        notes = Notes(staging, mixture.set_aside)
        started = time.perf_counter()
        for entries in fit(_trainer(setup, staging), setup.relay):
            notes.add(entries)
            _follow(entries, run, progress)
        history = notes.history()
        figures = {k: v for entry in history if {"epoch", "in_force"} & entry.keys() for k, v in entry.items()}
        figures |= {
            "train_hours": round(mixture.hours_per_epoch, 3),
            "set_aside": len(notes.set_aside),
            "seconds": round(time.perf_counter() - started, 1),
        }
        run.mlflow.log_recogniser(trained_model(staging))
        (staging / "metrics.json").write_text(json.dumps({"figures": figures, "history": history}, indent=1) + "\n")
        notes.close()
        for left in (staging / "tokenizer", *staging.glob(".best-*")):  # the model holds the one; the others are halves
            shutil.rmtree(left, ignore_errors=True)
    return figures


def _key(config: TrainingConfig, start_id: str, augment_id: str) -> str:
    defaults = {name: LearningConfig.model_fields[name].default for name in _NOT_IN_KEY}
    whole = config.for_workers().model_copy(update=defaults)
    manifests = [source.manifest for source in (*whole.sources, *whole.validation)]
    return content_id(step_key(whole, *manifests), start_id, augment_id)


def _checkpoint_of_another(config: TrainingConfig) -> Checkpoint | None:
    """The one to go on from, the same for all ranks, whatever its run does meanwhile.

    Raises `UserError` for one of a run with other sources or batches: its position means something else.
    """
    if not config.resume:
        return None
    from pipelines.training.checkpoints import Facts, checkpoint_at

    checkpoint = checkpoint_at(absolute(config.resume))
    if Facts.read(checkpoint).position["input"] != _input_id(config):
        raise UserError(
            f"checkpoint {checkpoint.path} is of a run with other sources, input or seed; give the same as there, or "
            "continue from its model (model.start)"
        )
    return checkpoint


def _input_id(config: TrainingConfig) -> str:
    """Of the sources by content, not by where they lie."""
    sources = [
        (key_of(source.manifest), source.model_dump(exclude={"manifest"}, mode="json")) for source in config.sources
    ]
    return content_id(sources, config.input.model_dump(mode="json"), config.seed, config.model.recipe)


def open_mixture(config: TrainingConfig) -> Mixture:
    """Of the sources. Raises `UserError` for manifests that will not do."""
    return Mixture.open(
        [_source(source) for source in config.for_workers().sources],
        temperature=config.input.temperature,
        max_seconds=config.input.max_seconds,
    )


def _source(source: SourceConfig) -> Source:
    return Source(source.manifest, source.split, source.utterances, source.weight or 1.0, source.share)


def _require_splits(sources: Sequence[SourceConfig]) -> None:
    for source in sources:
        splits = Manifest(source.manifest).splits
        if source.split not in splits:
            raise UserError(
                f"manifest {source.manifest} has no split {source.split!r}; it has {', '.join(splits) or 'none'}"
            )


def _params(config: TrainingConfig, mixture: Mixture, start_id: str) -> dict[str, Any]:
    told = {"utterances_per_epoch": mixture.utterances_per_epoch, "hours_per_epoch": mixture.hours_per_epoch}
    return {"training": json.loads(config.model_dump_json()), "start": start_id} | told


def _tell_manifests(config: TrainingConfig, run: TrackedRun) -> None:
    purposes: dict[str, list[str]] = {}
    for purpose, sources in (("training", config.sources), ("validation", config.validation)):
        for source in sources:
            purposes.setdefault(source.manifest, []).append(purpose)
    for manifest, told in purposes.items():
        run.mlflow.log_manifest(manifest, key_of(manifest) or "", list(dict.fromkeys(told)))


def _trackers(config: TrainingConfig, staging: Path) -> list[Callable[[], Tracker]]:
    asked = config.tracking
    wandb = asked.wandb_project
    return [
        *([partial(CsvRun, staging)] if asked.csv else []),
        *([partial(TensorBoardRun, staging / "tensorboard")] if asked.tensorboard else []),
        *([partial(WandbRun, wandb, config.output.name, staging / "wandb")] if wandb else []),
    ]


def _setup(
    config: TrainingConfig,
    start: Path,
    start_id: str,
    phonemes: Sequence[str],
    mixture: Mixture,
    augment: Augment | None,
    resume: Checkpoint | None,
    staging: Path,
) -> Setup:
    import ray

    from pipelines.training.loop import Setup

    tokeniser = tokeniser_of(config, start)
    _require_expressible(mixture, tokeniser, config)
    is_nemo = config.model.recipe or start.suffix == ".nemo"
    return Setup(
        config=config.for_workers(),
        start=start,
        tokeniser=tokeniser,
        start_id=start_id,
        input_id=_input_id(config),
        phonemes=tuple(phonemes),
        mixture=ray.put(mixture),
        augment=augment,
        resume=resume,
        best=staging.absolute() / (NEMO_FILE if is_nemo else WHISPER_FOLDER),
        relay=start_relay(),
    )


def tokeniser_of(config: TrainingConfig, start: Path) -> Tokeniser:
    """start: the model, or the folder of a new one's tokenizer."""
    if config.model.recipe:
        return PieceTokeniser([(start / "tokenizer.model").read_bytes()])
    return open_tokeniser(start)


def _require_expressible(mixture: Mixture, tokeniser: Any, config: TrainingConfig) -> None:
    """Raises `UserError` where too many texts have characters that the model cannot write."""
    from pipelines.training.stream import find_inexpressible

    found = find_inexpressible(mixture, tokeniser)
    most = config.input.max_inexpressible_share
    if found.share > most:
        shown = ", ".join(f"{c!r} ({n})" for c, n in list(found.characters.items())[:_SHOWN_CHARACTERS])
        raise UserError(
            f"the model's tokenizer lacks characters of {found.share:.1%} of the texts, more than the {most:.1%} "
            f"allowed (input.max_inexpressible_share): {shown}. Train another model, or take these texts out"
        )


def _trainer(setup: Setup, staging: Path) -> TorchTrainer:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    from pipelines.training.checkpoints import best_kept
    from pipelines.training.loop import train_on_this_rank

    config = setup.config
    gpus = config.gpus_per_worker
    return TorchTrainer(
        train_on_this_rank,
        train_loop_config={"setup": setup},
        torch_config=TorchConfig(backend="nccl" if gpus else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=(config.min_workers, config.workers) if config.min_workers else config.workers,
            use_gpu=gpus > 0,
            resources_per_worker={"CPU": 1} | ({"GPU": gpus} if gpus else {}),
            accelerator_type=config.gpu_type if gpus else None,
        ),
        run_config=RunConfig(
            name=CHECKPOINTS,
            storage_path=str(staging.absolute()),
            checkpoint_config=best_kept(config.keep_checkpoints, scored=bool(config.validation)),
            failure_config=FailureConfig(max_failures=config.max_failures),
        ),
    )


def _follow(entries: Sequence[dict[str, Any]], run: TrackedRun, progress: Progress) -> None:
    """Keep the figures, and tell how far the run is."""
    told = [{k: v for k, v in entry.items() if isinstance(v, (int, float)) and k != "done"} for entry in entries]
    run.log_metrics(told)
    for entry in entries:
        if "samples" in entry:
            run.log_text(f"samples/step-{entry['step']:07d}.txt", entry.pop("samples"))
        if entry["done"] > 0:
            progress(entry["step"], round(entry["step"] / entry["done"]))


def phonemes_to_learn(config: TrainingConfig) -> list[str]:
    """The symbols that the sources use, alike on all ranks; none where no weight is given to them."""
    if not config.phoneme_weight:
        return []
    import pyarrow.compute as pc

    symbols: set[str] = set()
    for source in config.sources:
        told = pc.list_flatten(Manifest(source.manifest).phonemes(source.split))
        symbols.update(pc.unique(pc.struct_field(told, "symbol")).drop_null().to_pylist())
    if not symbols:
        raise UserError(
            f"phoneme_weight is {config.phoneme_weight:g}, but no source tells its phonemes "
            f"({', '.join(str(source.manifest) for source in config.sources)}); set it to 0, or make the speech anew "
            "(`rayapp synthesize`: espeak-ng tells them)"
        )
    return sorted(symbols)


def fit_tokenizer(config: TrainingConfig, folder: Path) -> Path:
    """The tokenizer of a new model, fitted to the training text once, by the driver."""
    folder = folder.absolute() / "tokenizer"
    if not (folder / "tokenizer.model").exists():
        texts = [
            text
            for source in config.sources
            for text in Manifest(source.manifest).read(source.split, ["text"])["text"].to_pylist()
        ]
        train_tokenizer((plain_text(text) for text in texts), folder, config.model.vocabulary_size)
    return folder
