"""What was made from what: read off the settings and keys that every published folder holds.

Nothing is written for it. A folder says what it read (`config.json` names manifests and models, `sources.json` what
was merged), and was published under a key that changes with them.
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from pyarrow import fs

from rayapp.manifest import REJECTED, Manifest
from rayapp.published import Folder, Use, find_published, place_of, readable, upwards
from rayapp.records import PLAN_SCHEMA, short_reason
from rayapp.registry import RegisteredModel, Registry
from rayapp.storage import open_filesystem

_ID_COLUMNS = ("utterance_id", "slot_id", "transcript_id", "audio_hash")
_FACTS = (
    *("text", "terms", "language", "split", "style", "generator", "prompt"),
    *("voice", "accent", "snr_db", "steps", "status", "reason"),
)
_JUDGED = ", judged there"
_REQUESTS = 16
"""Listings and files that are asked for at a time: an object store takes its time to answer."""


@dataclass
class Trace:
    """Where something came from, and what came of it; nearest first."""

    what: str
    facts: dict[str, Any] = field(default_factory=dict)
    came_from: list[str] = field(default_factory=list)
    went_into: list[str] = field(default_factory=list)


class _Edge(NamedTuple):
    reader: Folder
    use: Use
    read: Folder | None
    """None where it was not found."""


class _Sighting(NamedTuple):
    """A row that has a name as one of its IDs."""

    folder: Folder
    split: str
    """Whose shards it lies in: `rejected`, whatever it was meant for."""
    row: Mapping[str, Any]


class _Mentions(NamedTuple):
    """The rows of a shard that have a name as one of their terms."""

    folder: Folder
    split: str
    reasons: Sequence[str]
    """Of each row, why it was rejected."""


class Lineage:
    """The published folders below some roots, and the registry."""

    def __init__(self, roots: Iterable[str | Path], registry: Registry | None = None) -> None:
        """roots: folders on any storage. Raises `UserError` for one that is not there or cannot be read."""
        with ThreadPoolExecutor(_REQUESTS) as pool:
            found = [folder for root in roots for folder in find_published(root, pool)]
        self._by_place = {folder.place: folder for folder in found}
        self.folders = list(self._by_place.values())
        self.versions = registry.list() if registry else []
        self._up: dict[Folder, list[_Edge]] = {folder: [] for folder in self.folders}
        self._down: dict[Folder, list[_Edge]] = {folder: [] for folder in self.folders}
        for folder in self.folders:
            for use in folder.uses:
                self._link(folder, use)

    def trace(self, name: str) -> list[Trace]:
        """All that goes by a name.

        name: an ID; a term, in any case; a folder, one that holds some, or a key; a model, as `name`,
            `name:version` or `name@alias`.

        Raises `UserError` for a manifest that cannot be read.
        """
        found = [self._of_folder(folder) for folder in self.folders if folder.is_called(name)]
        found += [self._of_version(version) for version in self.versions if name in _names(version)]
        sightings, mentions = self._search(name)
        spoken = [seen for seen in sightings if seen.row.get("transcript_id") == name]
        found += [self._of_transcript(name, spoken)] if spoken else []
        found += [self._of_utterance(seen) for seen in sightings if seen.row.get("transcript_id") != name]
        for folder, said in itertools.groupby(mentions, key=lambda said: said.folder):
            found.append(self._of_term(name, folder, list(said)))
        return found

    def _link(self, reader: Folder, use: Use) -> None:
        read = self._meant(use)
        if read is reader:
            return
        if read or use.certain:
            self._up[reader].append(_Edge(reader, use, read))
        if read:
            self._down[read].append(_Edge(reader, use, read))

    def _meant(self, use: Use) -> Folder | None:
        """The folder that a setting names, or where it was moved to since."""
        there = next((self._by_place[place] for place in upwards(use.place) if place in self._by_place), None)
        if there and use.key in (None, there.key):
            return there
        return next((folder for folder in self.folders if use.key and folder.key == use.key), None)

    def _of_folder(self, folder: Folder) -> Trace:
        return Trace(str(folder), {"key": folder.key}, self._above([folder])[1:], self._below(folder))

    def _of_version(self, version: RegisteredModel) -> Trace:
        """Of a served model: the evaluation that it was released by, and the model that was judged there."""
        aliases = list(version.aliases)
        trace = Trace(f"model {version.name}:{version.version}", {"aliases": aliases})
        trace.went_into = [f"alias {version.name}@{alias}" for alias in aliases]
        if not version.evaluation:
            trace.came_from = ["evaluation unknown: the registry does not tell"]
        elif evaluation := self._by_place.get(place_of(version.evaluation)):
            judged = [edge for edge in self._up[evaluation] if edge.use.setting == "after"]
            trace.came_from = [str(evaluation), *self._above(edge.read for edge in judged if edge.read)]
            trace.came_from += [_missing(edge.use) for edge in judged if not edge.read]
        else:
            trace.came_from = [_missing(f"evaluation {version.evaluation}")]
        return trace

    def _of_utterance(self, seen: _Sighting) -> Trace:
        folder, facts, slot_id = seen.folder, dict(seen.row), seen.row.get("slot_id")
        slots = [f"slot {slot_id}" + (f" of {folder.plan}" if folder.plan else "")] if slot_id else []
        if slot_id and not facts.get("text"):  # rejected before a sentence was written: the plan knows the term
            facts["terms"] = self._planned(folder, ds.field("slot_id") == slot_id)["term"].drop_null().to_pylist()
        what = f"{'rejected ' * (seen.split == REJECTED)}utterance {facts.get('utterance_id')}"
        return Trace(what, facts, [*slots, *self._above([folder])], self._below(folder, {seen.split}))

    def _of_transcript(self, name: str, spoken: Sequence[_Sighting]) -> Trace:
        columns = ("text", "terms", "language", "style", "generator", "prompt")
        facts = {column: spoken[0].row.get(column) for column in columns} | {"utterances": len(spoken)}
        below = [f"utterance {s.row.get('utterance_id')} in {s.split} of {s.folder.location}" for s in spoken]
        for seen in spoken:
            below += self._below(seen.folder, {seen.split})
        return Trace(f"transcript {name}", facts, self._above([s.folder for s in spoken]), list(dict.fromkeys(below)))

    def _of_term(self, name: str, folder: Folder, mentions: Sequence[_Mentions]) -> Trace:
        by_split = Counter[str]()
        for said in mentions:
            by_split[said.split] += len(said.reasons)
        reasons = Counter(short_reason(reason) for said in mentions for reason in said.reasons if reason)
        rejected = by_split.pop(REJECTED, 0)
        facts = {
            "utterances": by_split.total(),
            "by_split": dict(by_split),
            "rejected": rejected,
            "rejected_because": dict(reasons.most_common()),
        }
        below = [str(folder), *self._below(folder, set(by_split))]
        return Trace(f"term {name!r}", facts, self._above([folder])[1:], below)

    def _above(self, folders: Iterable[Folder]) -> list[str]:
        """These, what they were made from, and what that was made from."""
        queue, lines = list(dict.fromkeys(folders)), []
        for folder in queue:  # which grows
            lines += [str(folder), *([folder.lexicon] if folder.lexicon else [])]
            lines += [_missing(edge.use) for edge in self._up[folder] if not edge.read]
            queue += dict.fromkeys(e.read for e in self._up[folder] if e.read and e.read not in queue)
        return list(dict.fromkeys(lines))

    def _below(self, start: Folder, splits: Set[str] | None = None) -> list[str]:
        """What was made from it, and from that; of a manifest, by way of these splits.

        An evaluation judges what it reads: nothing but the model that it was about goes on to be served.
        """
        queue: list[tuple[Folder, Set[str] | None]] = [(start, splits)]
        lines: list[str] = []
        for folder, held in queue:  # which grows
            for reader, use, _ in self._down[folder]:
                if held is not None and use.splits is not None and not held & use.splits:
                    continue
                lines.append(str(reader))
                if reader.kind == "evaluation":
                    note = "" if use.setting == "after" else _JUDGED
                    lines += [_served(version) + note for version in self._released_by(reader)]
                elif reader not in [folder for folder, _ in queue]:
                    queue.append((reader, held if reader.kind == "manifest" else None))
        went_on = {line + _JUDGED for line in lines}
        return [line for line in dict.fromkeys(lines) if line not in went_on]

    def _released_by(self, evaluation: Folder) -> list[RegisteredModel]:
        told = (version for version in self.versions if version.evaluation)
        return [version for version in told if place_of(version.evaluation) == evaluation.place]

    def _merged_from(self, folder: Folder) -> list[Folder]:
        """The manifests that a manifest was merged from, and those that they were merged from."""
        queue = [folder]
        for merged in queue:  # which grows
            sources = [edge.read for edge in self._up[merged] if edge.read and edge.read.kind == "manifest"]
            queue += [source for source in sources if source not in queue]
        return queue[1:]

    def _search(self, name: str) -> tuple[list[_Sighting], list[_Mentions]]:
        """The rows of all manifests that have the name as an ID or as a term, in the manifests' order."""
        folders = [folder for folder in self.folders if folder.kind == "manifest"]
        with ThreadPoolExecutor(_REQUESTS) as pool:
            manifests = pool.map(lambda folder: Manifest(folder.location), folders)
            shards = [
                (folder, manifest, split, shard)
                for folder, manifest in zip(folders, manifests, strict=True)
                for split in manifest.shard_splits
                for shard in manifest.shards(split)
            ]
            found = list(pool.map(lambda shard: self._search_shard(name, *shard), shards))
        sightings = [seen for rows, _ in found for seen in rows]
        holders = {(seen.folder, seen.split, seen.row.get("utterance_id")) for seen in sightings}
        made_there = [
            seen
            for seen in sightings
            if not any((f, seen.split, seen.row.get("utterance_id")) in holders for f in self._merged_from(seen.folder))
        ]
        return made_there, [said for _, said in found if said.reasons]

    def _search_shard(
        self, name: str, folder: Folder, manifest: Manifest, split: str, path: str
    ) -> tuple[list[_Sighting], _Mentions]:
        with readable(f"{path} of manifest {folder.location}"):
            shard = ds.dataset(path, filesystem=manifest.filesystem, format="parquet")
            planned = pa.array([], pa.string())
            if split == REJECTED and _some_are_unwritten(shard):
                planned = self._planned(folder, pc.utf8_lower(ds.field("term")) == pc.utf8_lower(name))["slot_id"]
            rows = _rows_with_id(shard, name)
            mentions = _reasons(shard, name, planned)
        return [_Sighting(folder, split, row) for row in rows], _Mentions(folder, split, mentions)

    def _planned(self, folder: Folder, chosen: ds.Expression) -> pa.Table:
        """`slot_id` and `term` of some slots of the plans of a manifest and of what it was merged from."""
        tables = [pa.schema([PLAN_SCHEMA.field("slot_id"), PLAN_SCHEMA.field("term")]).empty_table()]
        for plan in (f.plan for f in (folder, *self._merged_from(folder)) if f.plan):
            filesystem, path = open_filesystem(plan)
            infos = filesystem.get_file_info(fs.FileSelector(path, recursive=True))
            for file in sorted(info.path for info in infos if info.path.endswith(".parquet")):
                slots = ds.dataset(file, filesystem=filesystem, format="parquet")
                tables.append(slots.to_table(columns=tables[0].column_names, filter=chosen))
        return pa.concat_tables(tables)


def _rows_with_id(shard: ds.Dataset, name: str) -> list[dict[str, Any]]:
    there = [column for column in (*_ID_COLUMNS, *_FACTS) if column in shard.schema.names]
    same = [ds.field(column) == name for column in _ID_COLUMNS if column in there]
    if not same or not shard.count_rows(filter=(chosen := functools.reduce(operator.or_, same))):  # reads the IDs alone
        return []
    rows: list[dict[str, Any]] = shard.to_table(columns=there, filter=chosen).to_pylist()
    return rows


def _reasons(shard: ds.Dataset, term: str, slots: pa.Array) -> list[str]:
    """Of each row that has the term, or is one of the slots, why it was rejected."""
    table = shard.to_table(columns=[name for name in ("terms", "slot_id", "reason") if name in shard.schema.names])
    chosen = np.zeros(len(table), bool)
    if "terms" in table.column_names:
        terms = table["terms"].combine_chunks()
        same = pc.equal(pc.utf8_lower(pc.list_flatten(terms)), pc.utf8_lower(term))
        chosen[pc.list_parent_indices(terms).filter(same)] = True
    if len(slots):
        chosen |= np.asarray(pc.is_in(table["slot_id"], value_set=slots))
    if "reason" not in table.column_names:
        return [""] * int(chosen.sum())
    return [reason or "" for reason in table["reason"].filter(pa.array(chosen)).to_pylist()]


def _some_are_unwritten(shard: ds.Dataset) -> bool:
    columns = {"transcript_id", "slot_id"}
    return columns <= set(shard.schema.names) and shard.count_rows(filter=ds.field("transcript_id").is_null()) > 0


def _missing(what: Use | str) -> str:
    replaced = isinstance(what, Use) and what.key is not None
    why = "not found, or made anew since" if replaced else "not published in any folder that was looked in"
    return f"{what} ({why})"


def _names(version: RegisteredModel) -> list[str]:
    return [
        version.name,
        f"{version.name}:{version.version}",
        *(f"{version.name}@{alias}" for alias in version.aliases),
    ]


def _served(version: RegisteredModel) -> str:
    aliases = f" ({', '.join(version.aliases)})" if version.aliases else ""
    return f"model {version.name}:{version.version}{aliases}"
