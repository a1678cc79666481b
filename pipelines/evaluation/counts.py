"""What a recogniser got right and wrong in each utterance: the counts that every figure is made of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

import numpy as np
import pyarrow as pa
from rapidfuzz.distance import Levenshtein

from pipelines.evaluation.alignment import Alignment, key
from pipelines.evaluation.terms import Sighting, Vocabulary
from rayapp.text.normalise import Normalisation, joined, normalise

if TYPE_CHECKING:
    from numpy.typing import NDArray

NORMALISATIONS: tuple[Normalisation, ...] = get_args(Normalisation)
CONFIDENCE_BINS = 10
_ROWS = 2000
_MARKS = ".,?!;:。，、？！；："
_COUNTED = (
    *(f"{how}.{count}" for how in NORMALISATIONS for count in ("word_errors", "words", "char_errors", "chars")),
    *("terms.said", "terms.heard", "terms.close", "terms.inserted"),
    *("seen.said", "seen.heard", "unseen.said", "unseen.heard"),
    *("term_free.inserted", "term_free.hours"),  # of utterances in which no term is said
    *("marks.said", "marks.heard", "marks.right"),
    *("case.words", "case.right"),
    *("numbers.said", "numbers.right"),
    *("times.words", "times.error_seconds"),
    *("silence.characters", "silence.minutes"),  # of utterances in which nothing is said
    *("audio.seconds", "compute.seconds"),
    *(f"confidence.{count}.{number}" for number in range(CONFIDENCE_BINS) for count in ("words", "sum", "right")),
)
_COLUMN = {name: number for number, name in enumerate(_COUNTED)}


class Spoken(NamedTuple):
    """What was said in an utterance, as far as its manifest tells."""

    text: str
    terms: Sequence[str] = ()
    language: str = "en"
    duration_seconds: float = 0.0
    words: Sequence[Mapping[str, Any]] = ()
    """Each with `text`, `start_seconds` and `end_seconds`."""


class Told(NamedTuple):
    """What a recogniser made of an utterance."""

    text: str
    words: Sequence[Mapping[str, Any]] = ()
    """Each with `text`, `start_seconds`, `end_seconds` and `confidence`."""
    compute_seconds: float = 0.0


@dataclass(frozen=True)
class Counts:
    """What one recogniser came to in one set of utterances."""

    values: NDArray[np.float64]
    """(utterances, counts)"""
    sightings: pa.Table
    """One row for each term in each utterance: `row`, `term`, `said`, `heard`, `close`, `inserted`, `confusions`."""

    def __getitem__(self, name: str) -> NDArray[np.float64]:
        """(utterances,) of one count; `_COUNTED` lists them."""
        column: NDArray[np.float64] = self.values[:, _COLUMN[name]]
        return column


class Scorer:
    """Compares what was said with what was heard, for several recognisers.

    vocabulary: the terms to look for, said or not.
    seen: those that the judged model was trained on; None where that is not known.
    """

    def __init__(self, vocabulary: Iterable[str], seen: Iterable[str] | None = None) -> None:
        self._vocabulary = Vocabulary(vocabulary)
        self._seen = None if seen is None else {term.casefold() for term in seen}

    def score(self, spoken: Sequence[Spoken], told: Sequence[Told]) -> Counts:
        """Both have one entry for each utterance, in the same order."""
        values = np.zeros((len(spoken), len(_COUNTED)))
        sightings: list[tuple[int, Sighting]] = []
        for row, (utterance, heard) in enumerate(zip(spoken, told, strict=True)):
            forms = {how: _both(utterance, heard, how) for how in NORMALISATIONS}
            alignment = Alignment(*forms["medical"])
            found = self._vocabulary.sightings(utterance.terms, *forms["medical"], utterance.language, alignment)
            counted = dict(_errors(utterance, heard, forms, alignment))
            counted |= self._of_terms(utterance, found)
            counted |= _of_writing(utterance, heard, *map(_with_marks, forms["raw"]))
            for name, value in counted.items():
                values[row, _COLUMN[name]] = value
            sightings += [(row, sighting) for sighting in found]
        return Counts(values, _table(sightings))

    def score_tables(self, utterances: pa.Table, heard: pa.Table) -> Counts:
        """The same from rows of a manifest and of `HEARD_SCHEMA`, of which a few at a time become Python's objects."""
        parts = []
        for start in range(0, utterances.num_rows, _ROWS):
            spoken = [_spoken(row) for row in utterances.slice(start, _ROWS).to_pylist()]
            told = [
                Told(row["text"] or "", row["words"] or (), row["compute_seconds"] or 0.0)
                for row in heard.slice(start, _ROWS).to_pylist()
            ]
            parts.append(self.score(spoken, told))
        return joined_counts(parts)

    def _of_terms(self, utterance: Spoken, found: Sequence[Sighting]) -> dict[str, float]:
        counted = {
            f"terms.{count}": sum(getattr(sighting, count) for sighting in found)
            for count in ("said", "heard", "close", "inserted")
        }
        if self._vocabulary and not utterance.terms:
            counted |= {
                "term_free.inserted": counted["terms.inserted"],
                "term_free.hours": utterance.duration_seconds / 3600,
            }
        if self._seen is not None:
            for sighting in found:
                kind = "seen" if sighting.term.casefold() in self._seen else "unseen"
                for count in ("said", "heard"):
                    name = f"{kind}.{count}"
                    counted[name] = counted.get(name, 0) + getattr(sighting, count)
        return counted


def joined_counts(parts: Sequence[Counts]) -> Counts:
    """Of all utterances, one part after the other."""
    tables, start = [_SIGHTINGS.empty_table()], 0
    for part in parts:
        rows = pa.compute.add(part.sightings["row"], start)
        tables.append(part.sightings.set_column(0, "row", rows))
        start += len(part.values)
    return Counts(
        np.concatenate([np.zeros((0, len(_COUNTED))), *(part.values for part in parts)]), pa.concat_tables(tables)
    )


def _spoken(row: Mapping[str, Any]) -> Spoken:
    return Spoken(
        row["text"], row["terms"] or (), row["language"] or "en", row["duration_seconds"] or 0.0, row["words"] or ()
    )


def _both(utterance: Spoken, heard: Told, how: Normalisation) -> tuple[list[str], list[str]]:
    """The words that were said, and those that were heard."""
    said, told = (normalise(text, how, utterance.language).split() for text in (utterance.text, heard.text))
    return said, told


def _errors(
    utterance: Spoken,
    heard: Told,
    forms: Mapping[Normalisation, tuple[list[str], list[str]]],
    alignment: Alignment,
) -> Iterator[tuple[str, float]]:
    """As jiwer counts them. Where nothing was said, all that was heard is an error.

    alignment: of the medical forms.
    """
    for how, (said, told) in forms.items():
        said_text, told_text = joined(" ".join(said)), joined(" ".join(told))
        yield f"{how}.word_errors", Levenshtein.distance(said, told)
        yield f"{how}.words", len(said)
        yield f"{how}.char_errors", Levenshtein.distance(said_text, told_text)
        yield f"{how}.chars", len(said_text)
    said, told = forms["medical"]
    if not said:
        yield "silence.characters", len("".join(heard.text.split()))  # an um is made up, too
        yield "silence.minutes", utterance.duration_seconds / 60
    numbers = {index for index, word in enumerate(said) if any(c.isdigit() for c in word)}
    if numbers:  # doses are made of them
        yield "numbers.said", len(numbers)
        yield "numbers.right", sum(pair.said in numbers for pair in alignment.pairs())
    yield "audio.seconds", utterance.duration_seconds
    yield "compute.seconds", heard.compute_seconds


def _of_writing(utterance: Spoken, heard: Told, said: Sequence[str], told: Sequence[str]) -> dict[str, float]:
    """What stands around the words: punctuation, capitals, times and confidence."""
    pairs = [pair for pair in Alignment([*map(key, said)], [*map(key, told)]).pairs() if key(said[pair.said])]
    marks = [(_mark(said[i]), _mark(told[j])) for i, j in pairs]
    cased = [(said[i], told[j]) for i, j in pairs if said[i] != said[i].lower() or told[j] != told[j].lower()]
    counted: dict[str, float] = {
        "marks.said": sum(bool(_mark(word)) for word in said),
        "marks.heard": sum(bool(_mark(word)) for word in told),
        "marks.right": sum(first == second != "" for first, second in marks),
        "case.words": len(cased),
        "case.right": sum(_bare(first) == _bare(second) for first, second in cased),
    }
    if heard.words:
        counted |= _of_times(utterance, heard)
        counted |= _of_confidence(said, heard)
    return counted


def _with_marks(words: Sequence[str]) -> list[str]:
    """A mark that stands alone, as behind a character of a script without spaces, belongs to what it stands behind."""
    found: list[str] = []
    for word in words:
        if found and not word.strip(_MARKS):
            found[-1] += word
        else:
            found.append(word)
    return found


def _mark(word: str) -> str:
    return word[-1] if word[-1] in _MARKS else ""


def _bare(word: str) -> str:
    return word.strip(_MARKS + "()[]\"'“”‘’")


def _of_times(utterance: Spoken, heard: Told) -> dict[str, float]:
    """How far off the times of the words are that were heard right: the mean of start and end."""
    ends = ("start_seconds", "end_seconds")
    timed = [word for word in utterance.words if all(word.get(end) is not None for end in ends) and word.get("text")]
    said = [key(word["text"]) for word in timed]
    pairs = [*Alignment(said, [key(word["text"]) for word in heard.words]).pairs()] if said else []
    off = [abs(timed[i][end] - heard.words[j][end]) / 2 for i, j in pairs for end in ends]
    return {"times.words": len(pairs), "times.error_seconds": sum(off)}


def _of_confidence(said: Sequence[str], heard: Told) -> dict[str, float]:
    """How sure the recogniser was of each word, by tenths, and whether that word was said."""
    units = [(unit, word.get("confidence")) for word in heard.words for unit in normalise(word["text"], "raw").split()]
    right = {pair.heard for pair in Alignment([*map(key, said)], [key(unit) for unit, _ in units]).pairs()}
    counted: dict[str, float] = {}
    for index, (_, confidence) in enumerate(units):
        if confidence is not None:
            number = min(int(confidence * CONFIDENCE_BINS), CONFIDENCE_BINS - 1)
            for count, value in (("words", 1.0), ("sum", confidence), ("right", float(index in right))):
                name = f"confidence.{count}.{number}"
                counted[name] = counted.get(name, 0.0) + value
    return counted


_SIGHTINGS = pa.schema(
    [
        ("row", pa.int64()),
        ("term", pa.string()),
        *((count, pa.int32()) for count in ("said", "heard", "close", "inserted")),
        ("confusions", pa.list_(pa.string())),
    ]
)


def _table(sightings: Sequence[tuple[int, Sighting]]) -> pa.Table:
    return pa.Table.from_pylist([{"row": row} | vars(found) for row, found in sightings], schema=_SIGHTINGS)
