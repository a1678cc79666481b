"""Scoring a recogniser on any speech, and comparing it with another; writes figures and a report."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.evaluation.config import SILENCE, EvaluationConfig, TestSetConfig
from pipelines.evaluation.counts import Counts, Scorer
from pipelines.evaluation.hearing import Progress, SilenceSpeech, Speech, SplitSpeech, Workers, hear
from pipelines.evaluation.metrics import TITLES, calibration_bins, figures
from pipelines.evaluation.report import write_reports
from pipelines.evaluation.resampling import Resampling
from pipelines.evaluation.scoring import score_everywhere
from pipelines.evaluation.silence import CLIP_SECONDS
from pipelines.evaluation.slices import slices, term_slices
from pipelines.evaluation.term_table import term_table
from pipelines.evaluation.training_data import Overlap, TrainingData, overlap, training_data
from rayapp.asr.resolve import resolve_recogniser
from rayapp.config import save_config
from rayapp.errors import UserError
from rayapp.ids import content_id, path_id
from rayapp.manifest import Manifest
from rayapp.records import MANIFEST_SCHEMA
from rayapp.storage import key_of, published_folder, step_key
from rayapp.tracking import DEFAULT_HOME, tracked_run

_COLUMNS = [
    *("utterance_id", "text", "terms", "category", "language", "duration_seconds", "words"),
    *("voice", "accent", "snr_db", "style", "generator", "prompt"),
]


_VERSION = 1
"""Of what figures are made of: raise it when the same texts would be compared otherwise."""


@dataclass(frozen=True)
class SetResult:
    """What recognisers came to in one set."""

    name: str
    utterances: pa.Table
    """Rows of the manifest, without audio."""
    general: bool
    heard: Mapping[str, pa.Table]
    """By recogniser: `before`, `after`."""
    counts: Mapping[str, Counts]
    figures: Mapping[str, Any]
    slices: Mapping[str, Any]
    terms: pa.Table
    calibration: Mapping[str, Sequence[Mapping[str, float]]]
    overlap: Overlap | None
    """With the training of the judged model; None where that is not known."""

    @property
    def hours(self) -> float:
        return float(pc.sum(self.utterances["duration_seconds"]).as_py() or 0.0) / 3600


@dataclass(frozen=True)
class _Judging:
    """What all sets are judged by."""

    scorer: Scorer
    trained: TrainingData
    overlaps: Mapping[str, Overlap | None]


def evaluate(
    config: EvaluationConfig,
    home: Path = DEFAULT_HOME,
    progress: Progress = lambda done, total: None,
    notes: Sequence[Mapping[str, str]] = (),
) -> dict[str, Any]:
    """Transcribe each set and compare; needs a running Ray, unless it was done already.

    Publishes at `config.output`: `figures.json` and `.csv`, `terms.parquet`, `heard.parquet` (what each recogniser
    heard in each utterance), `models.json` (which were judged), and the report as `.html`, `.md` and `.json`. The
    figures and the report go to the tracking in `home`, too.

    notes: what the report says at its top; see `write_reports`.

    Returns `{set: {figure: {before, after, change, verdict}}}`, each of the first three `[value, low, high]` or None.

    Raises `UserError` for a set that shares transcripts with the training of a model, has no text, or cannot be read.
    """
    paths = {
        name: resolve_recogniser(location, home)
        for name, location in (("before", config.before), ("after", config.after))
        if location is not None
    }
    models = {name: {"path": str(path.absolute()), "model_id": path_id(path)} for name, path in paths.items()}
    key = content_id(
        _VERSION,
        step_key(config.model_copy(update={"output": Path(), "heard": "", "workers": 1}), *_manifests(config)),
        models,
    )
    output = config.output
    if key_of(output) == key:
        done: dict[str, Any] = json.loads((output / "figures.json").read_text())
        return done
    trained = {name: training_data(path, home) for name, path in paths.items()}
    results = _results(config, paths, trained, progress)
    told = {result.name: _told(result) for result in results}
    with published_folder(output, key) as staging:
        save_config(config, staging)
        (staging / "figures.json").write_text(json.dumps(told, indent=1) + "\n")
        (staging / "figures.csv").write_text(_csv(told), encoding="utf-8")
        (staging / "models.json").write_text(json.dumps(models, indent=1) + "\n")
        pq.write_table(pa.concat_tables(_heard(result) for result in results), staging / "heard.parquet")
        pq.write_table(pa.concat_tables(result.terms for result in results), staging / "terms.parquet")
        write_reports(staging, config, results, models, trained["after"], notes)
    _track(config, home, told, output)
    loaded: dict[str, Any] = json.loads((output / "figures.json").read_text())
    return loaded


def _manifests(config: EvaluationConfig) -> list[str]:
    return [chosen.manifest for chosen in config.sets.values()]


def _results(
    config: EvaluationConfig, paths: Mapping[str, Path], trained: Mapping[str, TrainingData], progress: Progress
) -> list[SetResult]:
    tables = {name: _utterances(name, chosen) for name, chosen in config.sets.items()}
    overlaps: dict[str, Overlap | None] = {}
    for name, table in tables.items():
        rows = table.select(["utterance_id", "text", "language", "terms", "voice", "prompt"]).to_pylist()
        found = {model: overlap(name, rows, data) for model, data in trained.items()}
        overlaps[name] = found["after"] if trained["after"].told else None
    speech: dict[str, Speech] = {
        name: SplitSpeech(chosen.manifest, chosen.split) for name, chosen in config.sets.items()
    }
    if silence := SilenceSpeech(config.silence_minutes).count:
        speech[SILENCE] = SilenceSpeech(config.silence_minutes)
        tables[SILENCE] = _nothing_said(silence)
    workers = Workers(config.heard, config.workers, config.gpus_per_worker, config.gpu_type)
    heard = hear(paths, speech, workers, progress)
    judged = trained["after"]
    terms = {term for table in tables.values() for row in table["terms"].to_pylist() for term in row or ()}
    terms |= judged.spellings
    judging = _Judging(Scorer(terms, judged.terms if judged.told else None), judged, overlaps)
    return [
        _result(config, name, table, {model: heard[model, name] for model in paths}, judging)
        for name, table in tables.items()
    ]


def _utterances(name: str, chosen: TestSetConfig) -> pa.Table:
    """Raises `UserError` for a set without utterances, or with utterances of which nobody knows what is said."""
    manifest = Manifest(chosen.manifest)
    table = manifest.read(chosen.split, _COLUMNS)
    if not table.num_rows:
        raise UserError(f"set {name}: split {chosen.split!r} of {chosen.manifest} is empty; nothing can be scored")
    if unknown := table["text"].null_count:
        raise UserError(
            f"set {name}: {unknown} of {table.num_rows} utterances of {chosen.manifest}, split {chosen.split!r}, have "
            'no text; write what is said in them, or "" where that is nothing'
        )
    for column in ("terms", "words"):
        if not pa.types.is_list(table.schema.field(column).type):
            raise UserError(
                f"set {name}: column {column} of {chosen.manifest} is {table.schema.field(column).type}; "
                f"{MANIFEST_SCHEMA.field(column).type} is read"
            )
    return table


def _nothing_said(clips: int) -> pa.Table:
    rows = [
        {"utterance_id": f"{SILENCE}-{number}", "text": "", "duration_seconds": CLIP_SECONDS, "generator": "built in"}
        for number in range(clips)
    ]
    return pa.Table.from_pylist(rows, schema=pa.schema([MANIFEST_SCHEMA.field(name) for name in _COLUMNS]))


def _result(
    config: EvaluationConfig,
    name: str,
    utterances: pa.Table,
    heard: Mapping[str, pa.Table],
    judging: _Judging,
) -> SetResult:
    counts = score_everywhere(judging.scorer, utterances, heard)
    draws, seed, trained = config.bootstrap_samples, config.seed, judging.trained
    categories = trained.categories | _categories(utterances)
    of_terms = term_slices(counts, categories, trained.terms if trained.told else None, draws, seed)
    return SetResult(
        name=name,
        utterances=utterances,
        general=name in config.sets and config.sets[name].general,
        heard=heard,
        counts=counts,
        figures=figures(counts, Resampling(utterances.num_rows, draws, seed)),
        slices=of_terms | slices(utterances, counts, draws, seed),
        terms=term_table(name, counts, categories, trained),
        calibration={model: calibration_bins(counted) for model, counted in counts.items()},
        overlap=judging.overlaps.get(name),
    )


def _categories(utterances: pa.Table) -> dict[str, str]:
    """Of the terms, as the utterances have it whose first term they are."""
    rows = utterances.select(["terms", "category"]).to_pylist()
    return {row["terms"][0]: row["category"] or "other" for row in reversed(rows) if row["terms"]}


def _told(result: SetResult) -> dict[str, Any]:
    return {
        "utterances": result.utterances.num_rows,
        "hours": round(result.hours, 4),
        "general": result.general,
        **result.figures,
    }


def _csv(told: Mapping[str, Mapping[str, Any]]) -> str:
    """A line for each figure of each set."""
    text = io.StringIO()
    lines = csv.writer(text)
    parts = [f"{name}{end}" for name in ("before", "after", "change") for end in ("", "_low", "_high")]
    lines.writerow(["set", "figure", *parts, "verdict"])
    for name, figures_of_set in told.items():
        for metric in TITLES:
            figure = figures_of_set[metric]
            if figure["after"] is not None:
                values = [v for part in ("before", "after", "change") for v in figure[part] or ("", "", "")]
                lines.writerow([name, metric, *values, figure["verdict"]])
    return text.getvalue()


def _heard(result: SetResult) -> pa.Table:
    """What each recogniser heard beside what was said, with the errors."""
    table = result.utterances.select(
        ["utterance_id", "text", "terms", "category", "voice", "accent", "snr_db", "duration_seconds"]
    ).add_column(0, "set", pa.array([result.name] * result.utterances.num_rows))
    for model in ("before", "after"):
        heard = result.heard.get(model)
        texts = heard["text"] if heard is not None else pa.nulls(table.num_rows, pa.string())
        table = table.append_column(model, texts)
        errors = result.counts[model]["medical.word_errors"] if heard is not None else [None] * table.num_rows
        table = table.append_column(f"{model}_word_errors", pa.array(errors, pa.float64(), from_pandas=True))
    return table


def _track(config: EvaluationConfig, home: Path, told: Mapping[str, Mapping[str, Any]], output: Path) -> None:
    with tracked_run(home, f"evaluation {output.name}") as run:
        run.log_params(config.model_dump(mode="json"))
        run.log_metrics([dict(_headline(told))])
        for name in ("report.html", "report.md", "report.json", "figures.csv"):
            run.mlflow.log_file(output / name)


def _headline(told: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, float]]:
    for name, figures_of_set in told.items():
        for metric in TITLES:
            for part in ("after", "change"):
                if (value := figures_of_set[metric][part]) is not None:
                    yield f"{name}.{metric}" + (".change" if part == "change" else ""), value[0]
