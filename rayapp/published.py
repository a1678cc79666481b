"""What was published below a folder of any storage, and what its settings name: the ground that `lineage` stands on."""

from __future__ import annotations

import contextlib
import functools
import json
import os
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import fs

from rayapp.errors import UserError
from rayapp.storage import COMPLETE, join, name_of, open_filesystem

_SIGNS = {"model.nemo": "model", "figures.json": "evaluation", "data": "manifest"}
"""What a folder holds, and what it is then."""


@dataclass(frozen=True)
class Use:
    """What the settings of a folder name: another published folder, or a file in one."""

    text: str
    """As it stands in the settings."""
    place: str
    """See `place_of`."""
    setting: str
    """Such as `manifest` or `after`."""
    splits: frozenset[str] | None = None
    """Of a manifest, those that were read; None for all."""
    key: str | None = None
    """Under which it was published when it was read, where that is told."""
    section: str = ""
    """The outermost setting that it stands in, such as `sources`."""

    def __str__(self) -> str:
        return f"{'manifest' if self.setting == 'manifest' else 'model'} {self.text}"

    @property
    def certain(self) -> bool:
        """Whether it is a manifest or a model without doubt; other texts with a slash may be anything."""
        return self.setting == "manifest" or self.text.endswith(".nemo")


@dataclass(frozen=True, eq=False)
class Folder:
    """Something that was published: a manifest, a model, an evaluation."""

    location: str
    kind: str
    key: str
    names: frozenset[str]
    """Its own, and those of the folders that it lies in, up to where the search began."""
    uses: tuple[Use, ...]
    lexicon: str | None
    """What a manifest tells of its lexicon; None for one that was merged, and for other folders."""
    plan: str | None
    """Location of a manifest's plan, where it has one."""

    def __str__(self) -> str:
        return f"{self.kind} {self.location}"

    @property
    def place(self) -> str:
        return place_of(self.location)

    def is_called(self, name: str) -> bool:
        """Whether it has this name or key, or is or lies in a folder of this name or location."""
        if name == self.key or name.rstrip("/") in self.names:
            return True
        return "/" in name and place_of(name) in upwards(self.place)


def find_published(root: str | Path, pool: Executor) -> Iterator[Folder]:
    """The published folders of a tree, level by level; of all else no more than the names are read.

    Raises `UserError` where there is no such folder, or the storage refuses.
    """
    with readable(root):
        filesystem, top = open_filesystem(root)
        if filesystem.get_file_info(top).type == fs.FileType.NotFound:
            raise UserError(f"{root} does not exist; give a folder that holds manifests, models or evaluations")
        base = top if isinstance(filesystem, fs.LocalFileSystem) else str(root)
        visit = functools.partial(_visit, filesystem, top, base)
        level = [top]
        while level:
            visited = list(pool.map(visit, level))
            yield from (folder for folder, _ in visited if folder)
            level = [path for _, below in visited for path in below]


def published_around(path: Path) -> Folder | None:
    """The published folder that a file or folder lies in, or is; None where there is none."""
    for folder in (path, *path.absolute().parents):
        if (folder / COMPLETE).is_file():
            filesystem, place = open_filesystem(folder)
            return _open_folder(filesystem, place, str(folder), [], {file.name for file in folder.iterdir()})
    return None


def _visit(filesystem: fs.FileSystem, top: str, base: str, path: str) -> tuple[Folder | None, list[str]]:
    """What was published at `path`, or the paths of the folders in which to look further.

    Hidden folders are left out, and links on a disk: they may lead round in a circle.

    base: location of `top`, in which `path` lies.
    """
    infos = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))
    if any(info.base_name == COMPLETE for info in infos):
        parts = [part for part in path.removeprefix(top).split("/") if part]
        return _open_folder(filesystem, path, join(base, *parts), parts, {info.base_name for info in infos}), []
    local = isinstance(filesystem, fs.LocalFileSystem)
    return None, [
        info.path
        for info in infos
        if info.type == fs.FileType.Directory
        and not info.base_name.startswith(".")
        and not (local and Path(info.path).is_symlink())
    ]


def _open_folder(
    filesystem: fs.FileSystem, path: str, location: str, parts: Collection[str], files: Collection[str]
) -> Folder:
    def read(name: str) -> str:
        if name not in files:
            return ""
        with filesystem.open_input_stream(f"{path}/{name}") as stream:
            return str(stream.read().decode(errors="replace"))

    kind = next((kind for sign, kind in _SIGNS.items() if sign in files), "folder")
    settings, sources = _parsed(read("config.json")), _parsed(read("sources.json"))
    settings = settings if isinstance(settings, dict) else {}
    start = _working_folder(location, settings.pop("output", None))  # where it went is not what it read
    return Folder(
        location,
        kind,
        read(COMPLETE),
        frozenset(parts or [name_of(location)]),
        (*_uses(settings, start), *_uses(sources, start)),
        _lexicon(settings) if kind == "manifest" and not sources else None,
        join(location, "plan") if "plan" in files else None,
    )


def _parsed(text: str) -> Any:
    with contextlib.suppress(ValueError):
        return json.loads(text)
    return None


def _lexicon(settings: Mapping[str, Any]) -> str:
    if "lexicon" not in settings:
        return "lexicon unknown: the folder does not tell"
    return f"lexicon {settings['lexicon']['path'] or 'packaged with rayapp'}"


def _working_folder(location: str, output: object) -> str:
    """Where relative paths in the settings start: the folder that the run was started in.

    >>> _working_folder("s3://bucket/kim/runs/speech", "runs/speech")
    's3://bucket/kim'
    """
    place, tail = place_of(location), f"/{os.path.normpath(str(output))}"
    return place.removesuffix(tail) if place.endswith(tail) else ""


def _uses(
    value: object,
    start: str,
    setting: str = "",
    splits: frozenset[str] | None = None,
    key: str | None = None,
    section: str = "",
) -> Iterator[Use]:
    """Every text in the settings that may name a folder."""
    if isinstance(value, dict):
        told = value.get("splits") or ([value["split"]] if "split" in value else None)
        splits = frozenset(map(str, told)) if isinstance(told, list) else None
        for name, nested in value.items():
            told_key = value.get("key") if "manifest" in value else None
            yield from _uses(nested, start, name, splits, told_key, section or name)
    elif isinstance(value, list):
        for nested in value:
            yield from _uses(nested, start, setting, splits, key, section)
    elif isinstance(value, str) and ("/" in value or setting == "manifest"):
        yield Use(value, place_of(value, start), setting, splits, key, section)


def place_of(location: str | Path, start: str = "") -> str:
    """What all spellings of a location have in common.

    start: what a relative path starts from; without it, the current folder.

    >>> place_of("s3://bucket/runs/?region=eu-west-1")
    's3://bucket/runs'
    """
    text = str(location).removeprefix("file://")
    if "://" in start and "://" not in text and not text.startswith("/"):
        text = f"{start}/{text}"
    if "://" in text:
        return text.partition("?")[0].rstrip("/")
    return str(Path(start, text).resolve())


def upwards(place: str) -> Iterator[str]:
    """A place, and the folders that it lies in.

    >>> list(upwards("/fsx/runs"))
    ['/fsx/runs', '/fsx']
    """
    while "/" in place:
        yield place
        place = place.rpartition("/")[0]


@contextlib.contextmanager
def readable(what: str | Path) -> Iterator[None]:
    """Raises `UserError` for what the storage refuses, and for a file that is not what it should be."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{what} cannot be read: {error}") from error
