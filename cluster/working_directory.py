"""What of this folder a job takes along, and whether all is there that it names."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from rayapp.errors import UserError
from rayapp.nested import texts_in

ALWAYS_EXCLUDED = (".git", ".venv", ".uv", "__pycache__", "*.egg-info", "node_modules", "runs", "mlruns")
_SHOWN = 5
_WRITTEN = ("output", "heard", "workdir", "folder", "page")
"""Settings and options that say where something goes, and may be there from a run on this machine."""


def packed_files(folder: Path, exclude: Sequence[str]) -> dict[Path, int]:
    """The files that Ray will send, by the rules that it sends them by, with their bytes.

    Raises `UserError` where they are more than it takes.
    """
    from ray._private.runtime_env.packaging import GCS_STORAGE_MAX_SIZE, _dir_travel, _get_excludes

    sizes: dict[Path, int] = {}

    def note(path: Path) -> None:
        if path.is_file():
            sizes[path.relative_to(folder)] = path.stat().st_size

    patterns = _get_excludes(folder, [*ALWAYS_EXCLUDED, *exclude])
    _dir_travel(folder, [patterns], note, include_gitignore=True, logger=logging.getLogger(__name__))
    total = sum(sizes.values())
    if total > GCS_STORAGE_MAX_SIZE:
        largest = sorted(sizes, key=lambda path: -sizes[path])[:_SHOWN]
        shown = ", ".join(f"{path} ({_mb(sizes[path])})" for path in largest)
        raise UserError(
            f"{folder} has {_mb(total)}, and Ray takes {_mb(GCS_STORAGE_MAX_SIZE)} along; the largest: {shown}. Name "
            "them in .rayignore or in the profile's exclude, and put data where the cluster finds it, on S3 or shared "
            "storage"
        )
    return sizes


def require_what_is_named(
    told: BaseModel | Mapping[str, Any], folder: Path, packed: Sequence[Path], shared: Sequence[str]
) -> None:
    """Raises `UserError` for a setting or option that names a file or folder which is here, and will not be on the
    cluster."""
    for key, value in texts_in(told):
        if key.rpartition(".")[2] in _WRITTEN or "://" in value or "\n" in value or len(value) > 1024:
            continue
        path = Path(value)
        if any(path.is_relative_to(each) for each in shared) or not value.strip() or not (folder / path).exists():
            continue
        try:
            inside = (folder / path).resolve().relative_to(folder.resolve())
        except ValueError:
            raise UserError(
                f"{key}: {value} is on this machine, and the cluster does not see it; put it on S3 or shared storage "
                f"(the profile's shared: {', '.join(shared) or 'none'}), or into {folder}"
            ) from None
        if path.is_absolute():
            raise UserError(f"{key}: {value} has another path on the cluster; give it as {inside}")
        if not any(inside in (file, *file.parents) for file in packed):
            raise UserError(
                f"{key}: {value} stays on this machine, as .gitignore, .rayignore or exclude name it; put it on S3 or "
                "shared storage"
            )


def _mb(size: int) -> str:
    return f"{size / 2**20:.0f} MiB"
