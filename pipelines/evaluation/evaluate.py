"""Scoring two recognisers on a manifest, over all workers; writes figures and a report."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines.evaluation.config import EvaluationConfig
from pipelines.evaluation.intervals import estimate, paired_difference
from pipelines.evaluation.report import write_report
from rayapp.asr.resolve import trained_model
from rayapp.asr.scoring import METRICS, Counts, count_errors
from rayapp.config import save_config
from rayapp.errors import UserError
from rayapp.ids import content_id, path_id
from rayapp.manifest import Manifest
from rayapp.ray_session import require_room
from rayapp.storage import key_of, published_folder, step_key

Progress = Callable[[int, int], None]
_COLUMNS = ["utterance_id", "split", "text", "terms", "category", "voice", "accent", "snr_db", "duration_seconds"]
_ROWS_PER_TASK = 96


def evaluate(config: EvaluationConfig, progress: Progress = lambda done, total: None) -> dict[str, Any]:
    """Transcribe each split with both models and compare; needs a running Ray, unless it was done already.

    Publishes `figures.json`, `models.json` (which files were judged), `heard.parquet` (what each model
    heard in each utterance) and `report.html` at `config.output`, and returns the figures:
    `{split: {metric: {before, after, change}}}`, each value `[value, low, high]` or None.
    """
    paths = {"before": trained_model(config.before), "after": trained_model(config.after)}
    models = {name: {"path": str(path.absolute()), "model_id": path_id(path)} for name, path in paths.items()}
    key = content_id(step_key(config, config.manifest), [model["model_id"] for model in models.values()])
    if key_of(config.output) == key:
        done: dict[str, Any] = json.loads((config.output / "figures.json").read_text())
        return done
    manifest = Manifest(config.manifest)
    missing = sorted(set(config.splits) - set(manifest.splits))
    if missing:
        raise UserError(
            f"manifest {config.manifest} has no split {', '.join(missing)}; it has {', '.join(manifest.splits)}"
        )
    heard = _transcribe(config, paths, manifest, progress)
    figures = {
        split: _compare(config, heard.filter(pa.compute.equal(heard["split"], split))) for split in config.splits
    }
    with published_folder(config.output, key) as staging:
        save_config(config, staging)
        (staging / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
        (staging / "models.json").write_text(json.dumps(models, indent=1) + "\n")
        import pyarrow.parquet as pq

        pq.write_table(heard, staging / "heard.parquet")
        write_report(staging / "report.html", config, manifest, figures, heard)
    return figures


def _transcribe(config: EvaluationConfig, models: dict[str, Path], manifest: Manifest, progress: Progress) -> pa.Table:
    """What both models hear: the manifest's columns with `before` and `after`.

    Workers are told which rows to read, and read them: separate reading tasks would need CPUs of their
    own, and wait for ever on a machine whose CPUs the workers have.
    """
    import ray

    blocks = [
        pa.table({"split": [split] * len(rows), "row": rows})
        for split in config.splits
        for rows in _slices(manifest.count(split))
    ]
    total = sum(block.num_rows for block in blocks)
    require_room(
        config.workers,
        config.workers * config.gpus_per_worker,
        f"lower the workers ({config.workers}) of the evaluation",
    )
    dataset = ray.data.from_arrow(blocks).map_batches(
        _Transcriber,
        fn_constructor_kwargs={
            "location": config.manifest.absolute(),
            "models": {name: path.absolute() for name, path in models.items()},
            "device": "cuda" if config.gpus_per_worker else "cpu",
        },
        batch_size=None,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=config.workers),
        num_cpus=1,
        num_gpus=config.gpus_per_worker or None,
    )
    tables = []
    for table in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
        tables.append(table)
        progress(sum(t.num_rows for t in tables), total)
    return pa.concat_tables(tables).sort_by("utterance_id")


def _slices(count: int) -> Iterator[list[int]]:
    for start in range(0, count, _ROWS_PER_TASK):
        yield list(range(start, min(start + _ROWS_PER_TASK, count)))


class _Transcriber:
    """Both models in one worker: what they need is imported once, and each audio is decoded once."""

    def __init__(self, location: Path, models: dict[str, Path], device: str) -> None:
        from rayapp.asr.open import open_recogniser

        self.manifest = Manifest(location)
        self.recognisers = {name: open_recogniser(path, device) for name, path in models.items()}

    def __call__(self, rows: pa.Table) -> pa.Table:
        """rows: `split` (one for all of them) and `row`."""
        from rayapp.asr.batching import transcribe_all
        from rayapp.audio.codec import decode

        table = self.manifest.take(rows["split"][0].as_py(), rows["row"].to_pylist(), [*_COLUMNS, "audio"])
        audio = [decode(row["bytes"]) for row in table["audio"].to_pylist()]
        table = table.drop_columns(["audio"])
        for name, recogniser in self.recognisers.items():
            texts = [heard.text for heard in transcribe_all(recogniser, audio)]
            table = table.append_column(name, pa.array(texts, pa.string()))
        return table


def _compare(config: EvaluationConfig, heard: pa.Table) -> dict[str, Any]:
    references, terms = heard["text"].to_pylist(), heard["terms"].to_pylist()
    counts = {name: count_errors(references, heard[name].to_pylist(), terms) for name in ("before", "after")}
    return {"utterances": heard.num_rows} | {metric: _estimates(config, counts, metric) for metric in METRICS}


def _estimates(config: EvaluationConfig, counts: dict[str, Counts], metric: str) -> dict[str, Sequence[float] | None]:
    samples, seed = config.bootstrap_samples, config.seed
    before, after = counts["before"].of(metric), counts["after"].of(metric)
    return {
        "before": estimate(*before, samples, seed),
        "after": estimate(*after, samples, seed),
        "change": paired_difference(before, after, samples, seed),
    }
