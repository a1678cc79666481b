"""The report: one HTML file, with nothing to fetch, that a person can look at and listen to."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup, escape

from pipelines.evaluation.config import EvaluationConfig
from pipelines.evaluation.plots import before_after_bars, learning_curve, shares_by_group
from rayapp.asr.scoring import contains_term, normalise
from rayapp.manifest import Manifest

METRIC_NAMES = {"wer": "Word error rate", "cer": "Character error rate", "term_recall": "Terms heard"}
_TERM_SPLITS = ("test", "test_unseen_patterns")


def write_report(
    path: Path, config: EvaluationConfig, manifest: Manifest, figures: Mapping[str, Any], heard: pa.Table
) -> None:
    """figures: what `evaluate` returns. heard: rows of the manifest with `before` and `after`."""
    rows = heard.to_pylist()
    history = _history(config.after)
    plots = [
        before_after_bars(figures, "term_recall", "Terms heard"),
        before_after_bars(figures, "wer", "Word error rate"),
        shares_by_group(_recall_by(rows, lambda row: row["category"]), "Terms heard, by category"),
        shares_by_group(_recall_by(rows, _snr_band), "Terms heard, by signal-to-noise ratio"),
    ]
    if history:
        plots.append(learning_curve(history))
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipelines.evaluation"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    page = environment.get_template("report.html.j2").render(
        figures=figures,
        metrics=METRIC_NAMES,
        plots=[Markup(plot) for plot in plots],  # our own SVG
        examples=_examples(config, manifest, rows),
        terms=_term_table(rows),
        manifest=config.manifest.name,
        model=config.after.parent.name,
    )
    path.write_text(page, encoding="utf-8")


def _history(model: Path) -> list[Mapping[str, float]]:
    """How the model's training went, where that lies beside it."""
    metrics = model.parent / "metrics.json"
    return json.loads(metrics.read_text())["history"] if metrics.is_file() else []


def _recall_by(rows: Sequence[Mapping[str, Any]], group: Any) -> dict[str, tuple[float, float]]:
    """Share of the taught terms heard before and after, per group."""
    hits: dict[str, list[tuple[bool, bool]]] = {}
    for row in rows:
        if row["split"] in _TERM_SPLITS:
            for term in row["terms"]:
                hits.setdefault(group(row), []).append(
                    (contains_term(normalise(row["before"]), term), contains_term(normalise(row["after"]), term))
                )
    return {name: tuple(np.mean(values, axis=0).tolist()) for name, values in sorted(hits.items())}


def _snr_band(row: Mapping[str, Any]) -> str:
    low = int(row["snr_db"] // 5) * 5
    return f"{low:02d}–{low + 5} dB"


def _term_table(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Per taught term: how often it was said, and the share heard before and after; worst first."""
    table: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row["split"] in _TERM_SPLITS:
            for term in row["terms"]:
                entry = table.setdefault(
                    term, {"term": term, "category": row["category"], "said": 0, "before": 0, "after": 0}
                )
                entry["said"] += 1
                entry["before"] += contains_term(normalise(row["before"]), term)
                entry["after"] += contains_term(normalise(row["after"]), term)
    return sorted(table.values(), key=lambda e: (e["after"] / e["said"], e["term"]))


def _examples(config: EvaluationConfig, manifest: Manifest, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Utterances drawn evenly over the splits, with their audio and their words marked right or wrong."""
    rng = np.random.default_rng(config.seed)
    chosen: list[Mapping[str, Any]] = []
    for number, split in enumerate(config.splits):
        of_split = [row for row in rows if row["split"] == split]
        share = config.examples * (number + 1) // len(config.splits) - len(chosen)
        picks = rng.choice(len(of_split), min(share, len(of_split)), replace=False)
        chosen += [of_split[int(i)] for i in picks]
    examples = []
    for row in chosen:
        table = manifest.read(row["split"], ["utterance_id", "audio"])
        flac = table.filter(pc.equal(table["utterance_id"], row["utterance_id"]))["audio"][0]["bytes"].as_py()
        examples.append(
            dict(row)
            | {
                "audio": base64.b64encode(flac).decode(),
                "said_words": _mark_terms(row["text"], row["terms"]),
                "before_words": _mark_differences(row["text"], row["before"]),
                "after_words": _mark_differences(row["text"], row["after"]),
            }
        )
    return examples


def _mark_terms(text: str, terms: Sequence[str]) -> Markup:
    marked = escape(text)
    for term in terms:
        start = text.casefold().find(term.casefold())
        if start >= 0:
            said = text[start : start + len(term)]
            marked = escape(text[:start]) + Markup("<b>{}</b>").format(said) + escape(text[start + len(term) :])
    return marked


def _mark_differences(said: str, heard: str) -> Markup:
    """The words heard: wrong ones and additions in red, `–` where a word is missing."""
    import jiwer

    reference, hypothesis = normalise(said), normalise(heard)
    words = hypothesis.split()
    if not words:
        return Markup("<i>nothing</i>")
    parts: list[Markup] = []
    for chunk in jiwer.process_words(reference, hypothesis).alignments[0]:
        piece = " ".join(words[chunk.hyp_start_idx : chunk.hyp_end_idx])
        if chunk.type == "equal":
            parts.append(escape(piece))
        elif chunk.type == "delete":
            parts.append(Markup("<del>–</del>"))
        else:
            parts.append(Markup("<mark>{}</mark>").format(piece))
    return Markup(" ").join(parts)
