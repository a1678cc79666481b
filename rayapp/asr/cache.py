"""Copies of models on this machine's own disk."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from filelock import FileLock

from rayapp.ids import content_id
from rayapp.ray_session import cache_folder
from rayapp.storage import COMPLETE, key_of, published_folder


def kept(key: Sequence[str], fetch: Callable[[Path], object]) -> Path:
    """The one file or folder that `fetch` put into the folder that it was given, from then on without it: whole, and
    once for all processes.

    key: what the content depends on.
    """
    name = content_id(list(key))
    folder = cache_folder() / "models" / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if key_of(folder) is None:
            with published_folder(folder, name) as staging:
                fetch(staging)
    (found,) = (path for path in folder.iterdir() if path.name != COMPLETE)
    return found


def local_copy(model: Path) -> Path:
    """A copy of a model that lies on storage that is shared; a new one where that has changed since."""
    files = sorted(model.rglob("*")) if model.is_dir() else [model]
    told = [(str(file.relative_to(model)), file.stat().st_size, file.stat().st_mtime_ns) for file in files]

    def copy(folder: Path) -> None:
        (shutil.copytree if model.is_dir() else shutil.copy2)(model, folder / model.name)

    return kept([str(model.absolute()), str(told)], copy)
