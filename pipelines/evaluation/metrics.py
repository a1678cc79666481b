"""The figures, each as a ratio of sums over utterances, or as a statistic of their error rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

import numpy as np

from pipelines.evaluation.counts import CONFIDENCE_BINS, Counts
from pipelines.evaluation.resampling import Estimate, Resampling, estimate

if TYPE_CHECKING:
    from numpy.typing import NDArray

Figure: TypeAlias = "dict[str, Estimate | str | None]"
"""`before`, `after` and `change`, each an `Estimate` or None, and `verdict`."""
Better = Literal["lower", "higher"]
TRIMMED = 0.01
"""Share of the worst utterances that trimmed statistics leave out."""


@dataclass(frozen=True)
class Metric:
    """A ratio: of weighted sums of counts."""

    title: str
    above: Mapping[str, float]
    below: Mapping[str, float]
    better: Better = "lower"
    unit: str = "%"


def _ratio(title: str, part: str, whole: str, better: Better = "lower", unit: str = "%") -> Metric:
    return Metric(title, {part: 1}, {whole: 1}, better, unit)


METRICS: dict[str, Metric] = {
    "wer": _ratio("Word error rate", "medical.word_errors", "medical.words"),
    "cer": _ratio("Character error rate", "medical.char_errors", "medical.chars"),
    "term_recall": _ratio("Terms heard", "terms.heard", "terms.said", "higher"),
    "term_recall_close": _ratio("Terms heard within one edit", "terms.close", "terms.said", "higher"),
    "term_recall_seen": _ratio("Terms heard, of those in training", "seen.heard", "seen.said", "higher"),
    "term_recall_unseen": _ratio("Terms heard, of those not in training", "unseen.heard", "unseen.said", "higher"),
    "term_precision": Metric(
        "Terms right, of those written", {"terms.heard": 1}, {"terms.heard": 1, "terms.inserted": 1}, "higher"
    ),
    "term_f1": Metric(
        "F1 of the terms",
        {"terms.heard": 2},
        {"terms.said": 1, "terms.heard": 1, "terms.inserted": 1},
        "higher",
    ),
    "false_terms_per_hour": _ratio(
        "Terms written where none is said", "term_free.inserted", "term_free.hours", unit="per hour"
    ),
    "number_accuracy": _ratio("Numbers right", "numbers.right", "numbers.said", "higher"),
    "punctuation_f1": Metric(
        "F1 of the punctuation", {"marks.right": 2}, {"marks.said": 1, "marks.heard": 1}, "higher"
    ),
    "case_accuracy": _ratio("Capitals right", "case.right", "case.words", "higher"),
    "word_time_error": _ratio("Word times off by", "times.error_seconds", "times.words", unit="s"),
    "characters_per_minute": _ratio(
        "Characters written where nothing is said", "silence.characters", "silence.minutes", unit="per minute"
    ),
    "rtfx": _ratio("Times faster than real time", "audio.seconds", "compute.seconds", "higher", "×"),
    "wer_normalised": _ratio("Word error rate, Whisper's normaliser", "normalised.word_errors", "normalised.words"),
    "cer_normalised": _ratio(
        "Character error rate, Whisper's normaliser", "normalised.char_errors", "normalised.chars"
    ),
    "wer_raw": _ratio("Word error rate, as written", "raw.word_errors", "raw.words"),
    "cer_raw": _ratio("Character error rate, as written", "raw.char_errors", "raw.chars"),
}
CALIBRATION = "calibration_error"
STATISTICS = {
    f"{rate}_{statistic}": f"{name}: {title}"
    for rate, name in (("wer", "Word error rate"), ("cer", "Character error rate"))
    for statistic, title in (
        ("mean", "mean of the utterances"),
        ("median", "median of the utterances"),
        ("trimmed_mean", "mean without the worst 1 %"),
        ("trimmed_median", "median without the worst 1 %"),
    )
}
"""The robust statistics: of the error rates of single utterances, with and without the worst."""
TITLES = {name: metric.title for name, metric in METRICS.items()} | {
    CALIBRATION: "Confidence off by",
    **STATISTICS,
}


def better_when(metric: str) -> Better:
    return METRICS[metric].better if metric in METRICS else "lower"


def figures(counts: Mapping[str, Counts], resampling: Resampling) -> dict[str, Figure]:
    """Every figure, in the order of `TITLES`.

    counts: `after`, and `before` where two recognisers are compared, of the same utterances.
    """
    columns = {name: _columns(counted) for name, counted in counts.items()}
    sums = np.split(resampling.sums(np.hstack([*columns.values()])), len(columns), axis=1)
    drawn = dict(zip(columns, sums, strict=True))
    found = {
        metric: compared(
            {name: float(_value(columns[name].sum(0)[None], metric)[0]) for name in counts},
            {name: _value(drawn[name], metric) for name in counts},
            better_when(metric),
        )
        for metric in (*METRICS, CALIBRATION)
    }
    return found | _robust(counts, resampling.fewer())


class Columns(Protocol):
    """(utterances,) of a count, by its name."""

    def __getitem__(self, name: str, /) -> NDArray[np.float64]: ...


def ratios(
    counts: Mapping[str, Columns], rows: NDArray[np.bool_], metrics: Sequence[str], draws: int, seed: int
) -> dict[str, Figure]:
    """Some ratios of some of the utterances, which are drawn among themselves."""
    resampling = Resampling(int(rows.sum()), draws, seed).fewer()
    columns = {(metric, name): _ratio_columns(counts[name], metric)[rows] for metric in metrics for name in counts}
    drawn = np.split(resampling.sums(np.hstack([*columns.values()])), len(columns), axis=1)  # drawing is what costs
    sums = dict(zip(columns, drawn, strict=True))
    return {
        metric: compared(
            {name: float(_divided(*columns[metric, name].sum(0))) for name in counts},
            {name: _divided(*sums[metric, name].T) for name in counts},
            better_when(metric),
        )
        for metric in metrics
    }


def compared(values: Mapping[str, float], drawn: Mapping[str, NDArray[np.float64]], better: Better) -> Figure:
    """The figures of both recognisers, their difference, and a word on whether that is one."""
    found: Figure = {
        name: estimate(values[name], drawn[name]) if name in values else None for name in ("before", "after")
    }
    change = (
        estimate(values["after"] - values["before"], drawn["after"] - drawn["before"]) if "before" in values else None
    )
    return found | {"change": change, "verdict": verdict(change, better)}


def verdict(change: Estimate | None, better: Better) -> str:
    """`better` or `worse` where the interval of the change is on one side of zero, else `no clear change`.

    >>> verdict(Estimate(-0.02, -0.03, -0.01), "lower"), verdict(Estimate(-0.02, -0.05, 0.01), "lower")
    ('better', 'no clear change')
    """
    if change is None:
        return ""
    if change.low <= 0 <= change.high:
        return "no clear change"
    return "better" if (change.value < 0) == (better == "lower") else "worse"


def calibration_bins(counted: Counts) -> list[dict[str, float]]:
    """For each tenth of confidence: how many words, how sure the recogniser was, and how many were right."""
    bins = []
    for number in range(CONFIDENCE_BINS):
        words, total, right = (float(counted[f"confidence.{c}.{number}"].sum()) for c in ("words", "sum", "right"))
        if words:
            bins.append({"words": words, "confidence": total / words, "right": right / words})
    return bins


_CONFIDENCES = [
    f"confidence.{count}.{number}" for count in ("words", "sum", "right") for number in range(CONFIDENCE_BINS)
]


def _columns(counted: Counts) -> NDArray[np.float64]:
    """(utterances, columns): above and below of each ratio, then what calibration needs."""
    parts = [_ratio_columns(counted, metric) for metric in METRICS]
    return np.hstack([*parts, np.stack([counted[name] for name in _CONFIDENCES], axis=1)])


def _ratio_columns(counted: Columns, metric: str) -> NDArray[np.float64]:
    """(utterances, 2): what stands above the line, and below."""
    parts = (METRICS[metric].above, METRICS[metric].below)
    return np.stack([sum(weight * counted[name] for name, weight in part.items()) for part in parts], axis=1)


def _value(sums: NDArray[np.float64], metric: str) -> NDArray[np.float64]:
    """sums: (draws, columns) as `_columns` has them. Returns (draws,), with NaN where there is nothing to count."""
    if metric == CALIBRATION:
        words, total, right = np.split(sums[:, 2 * len(METRICS) :], 3, axis=1)
        return _divided(np.abs(total - right).sum(1), words.sum(1))
    number = 2 * [*METRICS].index(metric)
    return _divided(sums[:, number], sums[:, number + 1])


def _divided(above: NDArray[np.float64], below: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(above, below, out=np.full(np.shape(above), np.nan), where=np.asarray(below) != 0)


def _robust(counts: Mapping[str, Counts], resampling: Resampling) -> dict[str, Figure]:
    found: dict[str, Figure] = {}
    for rate, errors, whole in (("wer", "word_errors", "words"), ("cer", "char_errors", "chars")):
        values, drawn = {}, {}
        for name, counted in counts.items():
            statistics = partial(_statistics, _divided(counted[f"medical.{errors}"], counted[f"medical.{whole}"]))
            values[name] = statistics(np.ones((1, resampling.utterances)))[0]
            drawn[name] = resampling.each(statistics)
        for number, statistic in enumerate(("mean", "median", "trimmed_mean", "trimmed_median")):
            found[f"{rate}_{statistic}"] = compared(
                {name: float(value[number]) for name, value in values.items()},
                {name: draws[:, number] for name, draws in drawn.items()},
                "lower",
            )
    return found


def _statistics(rates: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean and median, of all utterances and without the worst; (draws, 4).

    rates: (utterances,), NaN for those in which nothing was said, which do not count.
    weights: (draws, utterances), how often each is drawn.
    """
    order = np.argsort(rates)[: np.isfinite(rates).sum()]
    if not len(order):
        return np.full((len(weights), 4), np.nan)
    ordered, up_to = rates[order], np.cumsum(weights[:, order], axis=1)
    total = up_to[:, -1:]
    kept = total - np.floor(total * TRIMMED)
    columns = []
    for count in (total, kept):
        counted = np.diff(np.minimum(up_to, count), axis=1, prepend=0)
        columns += [_divided(counted @ ordered, count[:, 0]), _median(ordered, up_to, count)]
    return np.stack(columns, axis=1)


def _median(
    ordered: NDArray[np.float64], up_to: NDArray[np.float64], count: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Of the first `count` utterances of each draw; the mean of the two in the middle where it is even.

    up_to: (draws, utterances), how many of a draw are this utterance or a better one. count: (draws, 1).
    """
    last = len(ordered) - 1
    low, high = (
        np.minimum((up_to < middle).sum(1), last) for middle in (np.floor((count + 1) / 2), np.floor(count / 2) + 1)
    )
    return (ordered[low] + ordered[high]) / 2
