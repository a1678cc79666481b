"""Copies of models on this machine's own disk."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from filelock import FileLock

from rayapp.ids import content_id
from rayapp.ray_session import cache_folder


def kept(key: Sequence[str], fetch: Callable[[Path], Path]) -> Path:
    """What `fetch` put into the folder that it was given, from then on without it: whole, and once for all processes.

    key: what the content depends on. fetch: returns the file or folder that it made in the folder.
    """
    folder = cache_folder() / "models" / content_id(list(key))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=folder.parent) as aside:
                made = fetch(Path(aside))
                named = Path(aside, "named")
                named.mkdir()
                made.rename(named / made.name)
                named.rename(folder)
        (found,) = folder.iterdir()
    return found


def local_copy(model: Path) -> Path:
    """A copy of a model that lies on storage that is shared; a new one where that has changed since."""
    files = sorted(model.rglob("*")) if model.is_dir() else [model]
    told = [(str(file.relative_to(model)), file.stat().st_size, file.stat().st_mtime_ns) for file in files]

    def fetch(folder: Path) -> Path:
        copy = shutil.copytree if model.is_dir() else shutil.copy2
        return Path(copy(model, folder / model.name))

    return kept([str(model.absolute()), str(told)], fetch)
