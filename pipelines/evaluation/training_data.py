"""What a model was trained on, read off its lineage, and that no test says what training said."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from rayapp.errors import UserError
from rayapp.ids import content_id, path_id
from rayapp.manifest import Manifest
from rayapp.published import Folder, Use, published_around
from rayapp.registry import Registry
from rayapp.storage import key_of
from rayapp.text.normalise import normalise

_COLUMNS = ["text", "language", "terms", "category", "voice", "prompt"]
_ROWS = 8192


@dataclass
class TrainingData:
    """What a model was trained on, and the models that it started from."""

    told: bool = False
    """Whether anything is known: a model from elsewhere has no lineage."""
    missing: list[str] = field(default_factory=list)
    """Manifests that were read in training, and are not there any more."""
    terms: Counter[str] = field(default_factory=Counter)
    """In how many utterances each term is said, by its lower-case text."""
    spellings: set[str] = field(default_factory=set)
    """The terms as they are written."""
    categories: dict[str, str] = field(default_factory=dict)
    """Of the terms as they are written, where an utterance is about one of them first."""
    voices: set[str] = field(default_factory=set)
    templates: set[str] = field(default_factory=set)
    sentences: set[int] = field(default_factory=set)
    """Hashes of the texts, as they are compared."""


class Common(NamedTuple):
    """What a test set has in common with training, of one kind."""

    shared: list[str]
    of: int
    """So many has the test."""


@dataclass(frozen=True)
class Overlap:
    """What a test set has in common with training, none of which is forbidden but the transcripts."""

    voices: Common
    terms: Common
    templates: Common


def training_data(model: Path, home: Path) -> TrainingData:
    """Only folders that `rayapp train` wrote tell; of a copy, the registry may know where it was made.

    model: what `resolve_recogniser` found. home: folder of the registry.
    """
    data = TrainingData()
    for use in dict.fromkeys((use.place, use.splits, use.text, use.key) for use in _sources(model, home, set())):
        place, splits, text, key = use
        location = text if "://" in text else place  # the place of an object store lacks its endpoint
        data.told = True
        if (there := key_of(location)) is None or key not in (None, there):
            data.missing.append(text)
            continue
        manifest = Manifest(location)
        for split in sorted(splits or manifest.splits):
            _read(manifest, split, data)
    return data


def _sources(model: Path, home: Path, visited: set[str]) -> Iterator[Use]:
    """The manifests that a model and those that it started from learnt from."""
    folder = published_around(model) or _origin(model, home)
    if folder is None or folder.kind == "evaluation" or folder.place in visited:
        return
    visited.add(folder.place)
    yield from (use for use in folder.uses if use.section == "sources" and use.setting == "manifest")
    for start in _starts(folder):
        yield from _sources(start, home, visited)


def _origin(copy: Path, home: Path) -> Folder | None:
    """Where a model was made that was published to the registry, by its content."""
    if not copy.exists():
        return None
    model_id = path_id(copy)
    origins = [Path(model.origin) for model in Registry(home).list() if model.origin and model.model_id == model_id]
    there = (origin for origin in origins if origin.exists() and path_id(origin) == model_id)  # not trained anew since
    return next(filter(None, map(published_around, there)), None)


def _starts(folder: Folder) -> list[Path]:
    return [Path(use.place) for use in folder.uses if use.section == "model" and "://" not in use.place]


def _read(manifest: Manifest, split: str, data: TrainingData) -> None:
    for batch in manifest.batches(split, _COLUMNS, _ROWS):
        for row in batch.to_pylist():
            data.terms.update({term.casefold() for term in row["terms"] or ()})
            data.spellings.update(row["terms"] or ())
            if row["terms"] and row.get("category"):
                data.categories.setdefault(row["terms"][0], row["category"])
            data.voices.update(filter(None, [row["voice"]]))
            data.templates.update(filter(None, [row["prompt"]]))
            if (sentence := _sentence(row)) is not None:
                data.sentences.add(sentence)


def _sentence(row: Mapping[str, Any]) -> int | None:
    """A hash of what is said; None where that is nothing."""
    words = normalise(row["text"] or "", "normalised", row.get("language") or "en")
    return int(content_id(words), 16) if words else None


def overlap(name: str, rows: Sequence[Mapping[str, Any]], data: TrainingData) -> Overlap:
    """What a test has in common with training.

    rows: of the test's manifest, with `utterance_id`, `text`, `language`, `terms`, `voice` and `prompt`.

    Raises `UserError` for a test that shares transcripts with training: it would tell what was learnt by heart.
    """
    shared = [row["utterance_id"] for row in rows if _sentence(row) in data.sentences]
    if shared:
        raise UserError(
            f"set {name}: {len(shared)} of its {len(rows)} transcripts stand in the manifests that the model was "
            f"trained on, such as those of {', '.join(map(str, shared[:3]))}: judge it on others"
        )
    return Overlap(
        _common((row["voice"] for row in rows), data.voices),
        _common((term.casefold() for row in rows for term in row["terms"] or ()), set(data.terms)),
        _common((row["prompt"] for row in rows), data.templates),
    )


def _common(tested: Iterable[str | None], trained: set[str]) -> Common:
    distinct = set(filter(None, tested))
    return Common(sorted(distinct & trained), len(distinct))
