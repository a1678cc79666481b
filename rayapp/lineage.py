"""What was made from what: read off the settings and keys that every published folder holds.

Nothing is written for it. A folder says what it read (`config.json` names manifests and models), and was published
under a key that changes with them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds

from rayapp.manifest import Manifest
from rayapp.registry import Registry
from rayapp.storage import COMPLETE

_ID_COLUMNS = ("utterance_id", "slot_id", "transcript_id", "audio_hash")


@dataclass(frozen=True)
class Folder:
    """Something that was published: a manifest, a model, an evaluation."""

    path: Path
    kind: str
    key: str
    reads: tuple[str, ...]
    """The published folders, and files in them, that its settings name."""


@dataclass
class Trace:
    """Where something came from, and what came of it; nearest first."""

    what: str
    facts: dict[str, Any] = field(default_factory=dict)
    came_from: list[str] = field(default_factory=list)
    went_into: list[str] = field(default_factory=list)


class Lineage:
    """The published folders below some roots, and the registry."""

    def __init__(self, roots: Sequence[Path], registry: Registry | None = None) -> None:
        self.folders = [folder for root in roots for folder in _published(root)]
        self.versions = registry.list() if registry else []

    def trace(self, name: str) -> list[Trace]:
        """All that goes by this name: an ID, a term, a folder or its key, a model as `name:version` or `name@alias`."""
        found = [self._of_folder(folder) for folder in self.folders if name in _names(folder)]
        for version in self.versions:
            names = [f"{version.name}:{version.version}", *(f"{version.name}@{alias}" for alias in version.aliases)]
            if name in names:
                before = [folder for folder in self.folders if str(folder.path) == version.evaluation]
                above = [f"{kind(f)}" for f in before] + [line for f in before for line in self._above(f)]
                found.append(Trace(f"model {names[0]}", {"aliases": list(version.aliases)}, above))
        for folder in self.folders:
            if folder.kind == "manifest":
                found += self._in_manifest(folder, name)
        return found

    def _of_folder(self, folder: Folder) -> Trace:
        return Trace(kind(folder), {"key": folder.key}, self._above(folder), self._below(folder))

    def _in_manifest(self, folder: Folder, name: str) -> Iterator[Trace]:
        manifest = Manifest(folder.path)
        columns = [*_ID_COLUMNS, "text", "terms", "split", "style", "generator", "prompt", "voice", "snr_db", "steps"]
        dataset = ds.dataset([s for split in manifest.splits for s in manifest.shards(split)], format="parquet")
        columns = [column for column in columns if column in dataset.schema.names]
        rows, by_split = 0, dict[str, int]()
        for batch in dataset.to_batches(columns=columns):
            for row in batch.to_pylist():
                if name in (row.get(column) for column in _ID_COLUMNS):
                    came_from = [
                        f"slot {row.get('slot_id')} of {folder.path / 'plan'}",
                        *self._above(folder, itself=True),
                    ]
                    yield Trace(f"utterance {row['utterance_id']}", row, came_from, self._below(folder, row["split"]))
                elif name.casefold() in (term.casefold() for term in row.get("terms") or ()):
                    rows += 1
                    by_split[row["split"]] = by_split.get(row["split"], 0) + 1
        if rows:
            facts = {"utterances": rows, "by_split": by_split}
            below = [kind(folder), *self._below(folder)]
            yield Trace(f"term {name!r}", facts, [_lexicon(folder)], below)

    def _above(self, folder: Folder, *, itself: bool = False) -> list[str]:
        """What it was made from, and what that was made from."""
        lines = [kind(folder)] if itself else []
        if folder.kind == "manifest":
            lines.append(_lexicon(folder))
        for other in self.folders:
            if other != folder and any(_within(path, other.path) for path in folder.reads):
                lines += self._above(other, itself=True)
        return list(dict.fromkeys(lines))

    def _below(self, folder: Folder, split: str | None = None) -> list[str]:
        """What was made from it, and from that; of a manifest, by way of one split."""
        lines: list[str] = []
        for other in self.folders:
            if other == folder or not any(_within(path, folder.path) for path in other.reads):
                continue
            if split is not None and other.kind == "model" and split not in _splits_read(other, folder):
                continue
            lines += [kind(other), *self._below(other)]
        for version in self.versions:
            if version.evaluation == str(folder.path):
                aliases = f" ({', '.join(version.aliases)})" if version.aliases else ""
                lines.append(f"model {version.name}:{version.version}{aliases}")
        return list(dict.fromkeys(lines))


def kind(folder: Folder) -> str:
    return f"{folder.kind} {folder.path}"


def _published(root: Path) -> Iterator[Folder]:
    for place, folders, names in os.walk(root):
        if COMPLETE in names:
            folders.clear()
            path = Path(place).absolute()
            settings = _settings(path)
            yield Folder(path, _kind(path), (path / COMPLETE).read_text(), tuple(_paths(settings)))


def _kind(path: Path) -> str:
    for kind, sign in (("model", "model.nemo"), ("evaluation", "figures.json"), ("manifest", "data")):
        if (path / sign).exists():
            return kind
    return "folder"


def _settings(path: Path) -> dict[str, Any]:
    try:
        values: dict[str, Any] = json.loads((path / "config.json").read_text())
    except (OSError, ValueError):
        return {}
    values.pop("output", None)  # where it went is not what it read
    return values


def _paths(value: Any) -> Iterator[str]:
    """Every text in the settings that names something that exists."""
    if isinstance(value, dict):
        for nested in value.values():
            yield from _paths(nested)
    elif isinstance(value, list):
        for nested in value:
            yield from _paths(nested)
    elif isinstance(value, str) and "/" in value and Path(value).exists():
        yield str(Path(value).absolute())


def _names(folder: Folder) -> set[str]:
    return {str(folder.path), folder.path.name, folder.key, os.path.relpath(folder.path)}


def _within(path: str, folder: Path) -> bool:
    return Path(path) == folder or folder in Path(path).parents


def _splits_read(model: Folder, manifest: Folder) -> set[str]:
    settings = _settings(model.path)
    sources = [*settings.get("sources", []), *settings.get("validation", [])]
    return {s["split"] for s in sources if _within(str(Path(s["manifest"]).absolute()), manifest.path)}


def _lexicon(folder: Folder) -> str:
    settings = _settings(folder.path)
    if not settings:
        return "lexicon unknown: the folder does not tell"
    path = (settings.get("lexicon") or {}).get("path")
    return f"lexicon {path or 'packaged with rayapp'}"
