"""Training as a whole: what the driver does around the loop."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.training.config import TrainingConfig
from rayapp.asr.recipes import train_tokenizer
from rayapp.asr.text import plain_text
from rayapp.config import save_config
from rayapp.errors import UserError
from rayapp.ids import content_id, file_id
from rayapp.manifest import Manifest
from rayapp.ray_session import require_room
from rayapp.storage import key_of, published_folder, step_key
from rayapp.tracking import tracked_run

if TYPE_CHECKING:
    from ray.train.torch import TorchTrainer

MODEL_FILE = "model.nemo"

Progress = Callable[[int, int], None]


def train(config: TrainingConfig, home: Path, progress: Progress = lambda done, total: None) -> dict[str, Any]:
    """Train on a running Ray; publishes `model.nemo`, `config.json` and `metrics.json` at `config.output`.

    home: folder of the tracking file, see `rayapp.tracking`.

    Returns the figures of the last epoch, and the hours of training speech; where the same was
    trained already, nothing else is done.
    Raises `UserError` for manifests or models that will not do, for more workers than this machine has room
    for, and for a loss that stays not finite.
    """
    import ray
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    from pipelines.training.loop import train_on_this_rank

    manifests = [source.manifest for source in (*config.sources, *config.validation)]
    if config.model.path and not config.model.path.is_file():
        raise UserError(f"model.path {config.model.path} does not exist")
    start = file_id(config.model.path) if config.model.path else None
    key = content_id(step_key(config, *manifests), start)
    if key_of(config.output) == key:
        figures: dict[str, Any] = json.loads((config.output / "metrics.json").read_text())["figures"]
        return figures
    require_room(
        config.workers, config.workers * config.gpus_per_worker, f"lower the workers ({config.workers}) of the training"
    )
    symbols = _phonemes_to_learn(config)
    hours = sum(Manifest(source.manifest).hours(source.split) for source in config.sources)
    with published_folder(config.output, key) as staging, tracked_run(home, config.output.name) as run:
        save_config(config, staging)
        tokenizer = _fit_tokenizer(config, staging)
        run.log_params({"training": json.loads(config.model_dump_json())})
        relay = ray.remote(num_cpus=0)(_Relay).remote()
        trainer = TorchTrainer(
            train_on_this_rank,
            train_loop_config={
                "config": config.for_workers(),
                "tokenizer": tokenizer,
                "phoneme_symbols": symbols,
                "staging": staging.absolute(),
                "relay": relay,
            },
            torch_config=TorchConfig(backend="nccl" if config.gpus_per_worker else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=config.workers,
                use_gpu=config.gpus_per_worker > 0,
                resources_per_worker={"CPU": 1} | ({"GPU": config.gpus_per_worker} if config.gpus_per_worker else {}),
            ),
            run_config=RunConfig(name=config.output.name, storage_path=str(staging.absolute() / "ray")),
        )
        history: list[dict[str, float]] = []
        started = time.perf_counter()
        for entries in _fit(trainer, relay):
            history += entries
            run.log_metrics([{k: v for k, v in entry.items() if k != "total_steps"} for entry in entries])
            for entry in entries:
                progress(int(entry["step"]), int(entry["total_steps"]))
        figures = {"train_hours": round(hours, 3), "seconds": round(time.perf_counter() - started, 1)}
        figures |= {k: v for entry in history if "epoch" in entry for k, v in entry.items()}
        (staging / "metrics.json").write_text(json.dumps({"figures": figures, "history": history}, indent=1) + "\n")
        _remove_scratch(staging)
    return figures


def _phonemes_to_learn(config: TrainingConfig) -> list[str]:
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


def _fit_tokenizer(config: TrainingConfig, staging: Path) -> Path | None:
    """The tokenizer of a new model, fitted to the training text once, by the driver."""
    if config.model.path:
        return None
    texts = [
        text
        for source in config.sources
        for text in Manifest(source.manifest).read(source.split, ["text"])["text"].to_pylist()
    ]
    folder = staging.absolute() / "tokenizer"
    train_tokenizer((plain_text(text) for text in texts), folder, config.model.vocabulary_size)
    return folder


class _Relay:
    """An actor between rank 0 and the driver: figures queue here until they are fetched."""

    def __init__(self) -> None:
        self.entries: list[dict[str, float]] = []

    def put(self, metrics: dict[str, float]) -> None:
        self.entries.append(metrics)

    def take(self) -> list[dict[str, float]]:
        entries, self.entries = self.entries, []
        return entries


def _fit(trainer: TorchTrainer, relay: Any) -> Iterator[list[dict[str, float]]]:
    """Train, and yield the figures as they come.

    Not in the main thread: there Ray Train would take over Ctrl-C, and end the process with success.
    """
    import ray

    failure: list[BaseException] = []

    def fit() -> None:
        try:
            trainer.fit()
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=fit, daemon=True)
    thread.start()
    while True:
        thread.join(timeout=0.5)
        ended = not thread.is_alive()
        yield ray.get(relay.take.remote())
        if ended:
            break
    if failure:
        raise _cause(failure[0]) from failure[0]


def _cause(error: BaseException) -> BaseException:
    """The user's error at the bottom of what Ray wrapped around it."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, UserError):
            return seen
        failures = getattr(seen, "worker_failures", None)
        if failures:
            return _cause(next(iter(failures.values())))
        seen = seen.__cause__
    return error


def _remove_scratch(staging: Path) -> None:
    import shutil

    shutil.rmtree(staging / "ray", ignore_errors=True)
    shutil.rmtree(staging / "tokenizer", ignore_errors=True)  # the .nemo holds it
