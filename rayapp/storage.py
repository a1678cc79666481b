"""Folders on local disk, FSx or S3, through pyarrow's filesystems; written aside, then published whole."""

from __future__ import annotations

import errno
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyarrow import fs

from rayapp.config import StepConfig, config_fingerprint
from rayapp.errors import UserError
from rayapp.ids import content_id

COMPLETE = "_COMPLETE"
"""A published folder holds this file, with the key of what made it; a reader refuses a folder without it."""


def open_filesystem(location: str | Path) -> tuple[fs.FileSystem, str]:
    """The filesystem of a path or URI (`/fsx/runs`, `s3://bucket/runs`), and the path within it."""
    text = str(location)
    if "://" in text:
        return fs.FileSystem.from_uri(text)
    return fs.LocalFileSystem(), str(Path(text).absolute())


def key_of(location: str | Path) -> str | None:
    """The key that a folder was published under; None where it was not, or is not there."""
    filesystem, path = open_filesystem(location)
    if filesystem.get_file_info(f"{path}/{COMPLETE}").type != fs.FileType.File:
        return None
    with filesystem.open_input_stream(f"{path}/{COMPLETE}") as stream:
        return str(stream.read().decode())


def step_key(config: StepConfig, *inputs: str | Path) -> str:
    """Names what a step makes: its settings and the folders it reads. Alike keys mean alike outputs."""
    return content_id(type(config).__name__, config_fingerprint(config), [key_of(folder) for folder in inputs])


def require_complete(location: str | Path, what: str) -> None:
    """Raises `UserError` unless the folder was published."""
    filesystem, path = open_filesystem(location)
    if filesystem.get_file_info(path).type == fs.FileType.NotFound:
        raise UserError(f"{what} {location} does not exist")
    if key_of(location) is None:
        raise UserError(f"{what} {location} is not complete: whatever wrote it did not finish; run that again")


@contextmanager
def published_folder(location: Path, key: str, *, resume: bool = False) -> Iterator[Path]:
    """A staging folder that becomes `location` when the block ends well, and not otherwise.

    It lies beside `location`, so that publishing is a rename. An earlier folder at `location` is
    replaced once the new one is whole.

    key: see `step_key`. With `resume` the staging folder keeps what an interrupted run with the same
        key left in it, until something else is published there (so no two runs at a time into one folder);
        otherwise it starts empty, and is removed when the block fails.

    Raises `UserError` where the disk is full or may not be written.
    """
    location = location.absolute()
    if location.exists() and key_of(location) is None and (not location.is_dir() or any(location.iterdir())):
        raise UserError(f"{location} exists and was not made by rayapp; it would be replaced: choose another folder")
    staging = location.with_name(f".{location.name}.{key}.partial")
    try:
        if not resume:
            shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True, exist_ok=True)
        yield staging
        (staging / COMPLETE).write_text(key)
        if location.exists():
            replaced = location.with_name(f".{location.name}.replaced")
            shutil.rmtree(replaced, ignore_errors=True)
            location.rename(replaced)
            staging.rename(location)
            shutil.rmtree(replaced, ignore_errors=True)
        else:
            staging.rename(location)
        _remove_superseded(location)
    except OSError as error:
        raise _explain(error, location) from error
    finally:
        if not resume:
            shutil.rmtree(staging, ignore_errors=True)


def _remove_superseded(location: Path) -> None:
    """What interrupted runs with other settings left; not what belongs to a `location.other`."""
    ours = re.compile(rf"\.{re.escape(location.name)}\.[^.]+\.partial")
    for folder in location.parent.iterdir():
        if ours.fullmatch(folder.name):
            shutil.rmtree(folder, ignore_errors=True)


def require_writable(folder: Path, free_gb: float = 0.0) -> None:
    """Raises `UserError` unless `folder` can be made, written to, and has so much room."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.write_bytes(b"x")
        probe.unlink()
    except OSError as error:
        raise _explain(error, folder) from error
    free = shutil.disk_usage(folder).free / 1e9
    if free < free_gb:
        raise UserError(
            f"{folder} has {free:.1f} GB free; {free_gb:g} GB are needed. Free some, or choose another folder"
        )


def _explain(error: OSError, location: Path) -> UserError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(f"the disk is full while writing {location}; free some room and run this again")
    return UserError(f"{location} cannot be written: {error.strerror or error}; choose another folder")
