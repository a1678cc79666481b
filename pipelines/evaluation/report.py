"""The reports: one HTML file, with nothing to fetch, that a person can look at and listen to; the same as Markdown and
JSON."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from pipelines.evaluation import plots
from pipelines.evaluation.config import SILENCE, EvaluationConfig
from pipelines.evaluation.metrics import METRICS, STATISTICS, TITLES
from pipelines.evaluation.pages import environment
from pipelines.evaluation.slices import OF_TERMS, snr_band
from pipelines.evaluation.training_data import TrainingData
from rayapp.manifest import Manifest

if TYPE_CHECKING:
    from pipelines.evaluation.evaluate import SetResult

HEADLINE = ("term_recall", "wer", "cer", "false_terms_per_hour", "characters_per_minute")
_MOST_UTTERANCES = 10_000
_AUDIO_BYTES = 6_000_000
"""Of FLAC in the page, at most: with the texts of all utterances it stays below 15 MB."""
_UTTERANCE_COLUMNS = [
    *("utterance_id", "text", "terms", "category", "voice", "accent", "style", "generator"),
    *("snr_db", "duration_seconds"),
]


def write_reports(
    folder: Path,
    config: EvaluationConfig,
    results: Sequence[SetResult],
    models: Mapping[str, Mapping[str, str]],
    trained: TrainingData,
    notes: Sequence[Mapping[str, str]] = (),
) -> None:
    """Writes `report.html`, `report.md` and `report.json`.

    models: `path` and `model_id` of `after` and, where there is one, `before`.
    trained: what the judged model was trained on.
    notes: lines at the top, each `text` and, for a link, `href`.
    """
    told = _told(config, results, models)
    told["training"] = {"known": trained.told, "missing": trained.missing}
    (folder / "report.json").write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    templates = environment(value=_value, interval=_interval, title=_title)
    common = {
        "told": told,
        "headline": HEADLINE,
        "statistics": STATISTICS,
        "others": [name for name in TITLES if name not in HEADLINE and name not in STATISTICS],
        "sliced": (*OF_TERMS, "wer"),
        "notes": notes,
        "compared": "before" in models,
    }
    markdown = templates.get_template("report.md.j2").render(common)
    (folder / "report.md").write_text(markdown, encoding="utf-8")
    html = templates.get_template("report.html.j2").render(
        common
        | {
            "plots": [Markup(plot) for plot in _plots(config, results, models) if plot],  # our own SVG
            "data": Markup(_script_json(_page_data(config, results, told))),
        }
    )
    (folder / "report.html").write_text(html, encoding="utf-8")


def _told(
    config: EvaluationConfig, results: Sequence[SetResult], models: Mapping[str, Mapping[str, str]]
) -> dict[str, Any]:
    """All figures, as `report.json` has them."""
    return {
        "models": {name: dict(model) for name, model in models.items()},
        "sets": {
            result.name: {
                "utterances": result.utterances.num_rows,
                "hours": round(result.hours, 3),
                "general": result.general,
                "manifest": config.sets[result.name].manifest if result.name in config.sets else "built in",
                "figures": result.figures,
                "slices": result.slices,
                "calibration": result.calibration,
                "overlap_with_training": result.overlap
                and {kind: common._asdict() for kind, common in vars(result.overlap).items()},
            }
            for result in results
        },
        "terms": [term for result in results for term in result.terms.to_pylist()],
    }


def _value(estimate: Sequence[float], metric: str, signed: bool = False) -> str:
    """`4.5 %`, or `+0.3`."""
    number = _number(estimate[0], metric, signed)
    return number if signed else number + _unit(metric)


def _interval(estimate: Sequence[float], metric: str, signed: bool = False) -> str:
    """`3.1–6.2`, or `−1.2 to +1.8`."""
    low, high = (_number(end, metric, signed) for end in estimate[1:])
    return f"{low} to {high}" if signed else f"{low}–{high}"


def _number(value: float, metric: str, signed: bool) -> str:
    unit = METRICS[metric].unit if metric in METRICS else "%"
    shown = f"{100 * value:.1f}" if unit == "%" else f"{value:.3f}" if unit == "s" else f"{value:.1f}"
    return ("+" if signed and value > 0 else "") + shown.replace("-", "−")


def _unit(metric: str) -> str:
    unit = METRICS[metric].unit if metric in METRICS else "%"
    return {"%": " %", "s": " s", "×": "×"}.get(unit, "")


def _title(metric: str) -> str:
    """With the unit, where it is too long to stand behind each figure."""
    unit = METRICS[metric].unit if metric in METRICS else "%"
    return TITLES[metric] + (f", {unit}" if unit.startswith("per ") else "")


def _plots(
    config: EvaluationConfig, results: Sequence[SetResult], models: Mapping[str, Mapping[str, str]]
) -> Iterator[str | None]:
    spoken = {result.name: result for result in results if result.name != SILENCE}
    by_set = {name: result.figures for name, result in spoken.items()}
    yield plots.bars(by_set, "term_recall", "Terms heard")
    yield plots.bars(by_set, "wer", "Word error rate")
    first = next((result for result in spoken.values() if not result.general), None)
    if first:
        for dimension, title in (("category", "by category"), ("snr", "by signal-to-noise ratio")):
            if dimension in first.slices:
                yield plots.bars(first.slices[dimension], "term_recall", f"Terms heard in {first.name}, {title}")
        if "accent" in first.slices:
            yield plots.bars(first.slices["accent"], "wer", f"Word error rate in {first.name}, by accent")
        yield plots.recall_by_training([term for result in spoken.values() for term in result.terms.to_pylist()])
        yield plots.reliability(first.calibration)
    yield plots.learning_curve(_history(Path(models["after"]["path"])))


def _history(model: Path) -> list[Mapping[str, float]]:
    """How the model's training went, where that lies beside it."""
    metrics = model.parent / "metrics.json"
    found: list[Mapping[str, float]] = json.loads(metrics.read_text()).get("history", []) if metrics.is_file() else []
    return found


def _page_data(config: EvaluationConfig, results: Sequence[SetResult], told: Mapping[str, Any]) -> dict[str, Any]:
    """What the page's tables are made of."""
    utterances = [row for result in results for row in _utterance_rows(result)]
    utterances.sort(key=lambda row: (row["set"] == SILENCE, -row["errors"], row["set"], row["id"]))
    left_out = max(len(utterances) - _MOST_UTTERANCES, 0)
    sample = _sample(config, results)
    return {
        "utterances": [
            row
            for number, row in enumerate(utterances)
            if number < _MOST_UTTERANCES or (row["set"], row["id"]) in sample
        ],
        "left_out": left_out,
        "terms": [_term_row(term) for term in told["terms"]],
        "audio": {f"{name}/{utterance}": flac for (name, utterance), flac in sample.items()},
        "compared": "before" in told["models"],
    }


def _utterance_rows(result: SetResult) -> Iterator[dict[str, Any]]:
    texts = {model: heard["text"].to_pylist() for model, heard in result.heard.items()}
    errors = result.counts["after"]["medical.word_errors"]
    words = np.maximum(result.counts["after"]["medical.words"], 1)
    for number, row in enumerate(result.utterances.select(_UTTERANCE_COLUMNS).to_pylist()):
        if result.name == SILENCE and not any(told[number] for told in texts.values()):
            continue  # as it should be
        yield {
            "set": result.name,
            "id": row["utterance_id"] or str(number),
            "said": row["text"],
            "terms": row["terms"] or [],
            **{model: told[number] or "" for model, told in texts.items()},
            "errors": round(float(errors[number] / words[number]), 3),
            "category": row["category"] or "",
            "voice": row["voice"] or "",
            **{name: row[name] or "" for name in ("accent", "style", "generator")},
            "snr": snr_band(row["snr_db"]),
            "seconds": round(row["duration_seconds"] or 0.0, 1),
        }


def _term_row(term: Mapping[str, Any]) -> dict[str, Any]:
    """Without what the page does not show."""
    row = {name: term[name] for name in ("set", "term", "category", "trained", "said")}
    for model in ("before", "after"):
        if term[f"{model}_heard"] is not None:
            row |= {f"{model}_{name}": term[f"{model}_{name}"] for name in ("heard", "close", "inserted")}
            row[f"{model}_recall"] = term[f"{model}_recall"] and [
                round(term[f"{model}_recall"][part], 3) for part in ("value", "low", "high")
            ]
    row["instead"] = [f"{c['heard'] or '(nothing)'} ×{c['times']}" for c in term["after_confusions"] or ()]
    return row


def _sample(config: EvaluationConfig, results: Sequence[SetResult]) -> dict[tuple[str, str], str]:
    """FLAC in base64 of some utterances: of each set, half drawn and half the worst, as far as the page has room."""
    rng = np.random.default_rng(config.seed)
    chosen: list[tuple[SetResult, int]] = []
    shares = [result for result in results if result.name in config.sets]
    for number, result in enumerate(shares):
        share = config.examples * (number + 1) // len(shares) - config.examples * number // len(shares)
        rates = result.counts["after"]["medical.word_errors"] / np.maximum(result.counts["after"]["medical.words"], 1)
        worst = np.argsort(-rates, kind="stable")[: share // 2]
        others = np.setdiff1d(np.arange(len(rates)), worst)
        drawn = rng.choice(others, min(share - len(worst), len(others)), replace=False)
        chosen += [(result, int(row)) for pair in _alternating(worst, drawn) for row in pair]
    sample: dict[tuple[str, str], str] = {}
    room = _AUDIO_BYTES
    for result, row in chosen:
        of = config.sets[result.name]
        flac: bytes = Manifest(of.manifest).take(of.split, [row], ["audio"])["audio"][0]["bytes"].as_py()
        if len(flac) > room:
            continue  # a long one; others may still fit
        room -= len(flac)
        identity = result.utterances["utterance_id"][row].as_py() or str(row)
        sample[result.name, identity] = base64.b64encode(flac).decode()
    return sample


def _alternating(first: np.ndarray, second: np.ndarray) -> Iterator[list[int]]:
    for place in range(max(len(first), len(second))):
        yield [int(part[place]) for part in (first, second) if place < len(part)]


def _script_json(data: Mapping[str, Any]) -> str:
    """JSON that cannot end the script element that it stands in."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
