"""Folders on local disk, FSx or S3, through pyarrow's filesystems; written aside, then published whole."""

from __future__ import annotations

import contextlib
import errno
import re
import shutil
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from rayapp.config import StepConfig, config_fingerprint
from rayapp.errors import UserError
from rayapp.ids import content_id
from rayapp.inside import require_location_inside

_S3_OPTIONS = "allow_delayed_open=true"
"""A file that fits into one request is written by one, and not by three."""
_ONE_REQUEST_BYTES = 8 * 2**20
"""What does: Arrow's parts have 10 MiB."""
_COPIES_AT_ONCE = 16
COMPLETE = "_COMPLETE"
"""A published folder holds this file, with the key of what made it; a reader refuses a folder without it."""


def open_filesystem(location: str | Path) -> tuple[fs.FileSystem, str]:
    """The filesystem of a path or URI (`/fsx/runs`, `s3://bucket/runs`), and the path within it.

    An S3 store other than Amazon's is named in the URI (`s3://bucket/runs?endpoint_override=host:9000&scheme=http`);
    credentials come from the environment or the machine's role.

    Raises `UserError` for a URI of no known kind, or of a store that `rayapp.inside` refuses.
    """
    text = str(location)
    require_location_inside(text)
    if "://" in text:
        if text.startswith("s3://"):
            text += f"{'&' if '?' in text else '?'}{_S3_OPTIONS}"
        try:
            return fs.FileSystem.from_uri(text)
        except (pa.ArrowInvalid, OSError) as error:
            raise UserError(
                f"{location} is no location that can be opened ({error}); give a folder or s3://…"
            ) from None
    return fs.LocalFileSystem(), str(Path(text).absolute())


def key_of(location: str | Path) -> str | None:
    """The key that a folder was published under; None where it was not, or is not there.

    Raises `UserError` where the storage refuses.
    """
    filesystem, path = open_filesystem(location)
    try:
        if filesystem.get_file_info(f"{path}/{COMPLETE}").type != fs.FileType.File:
            return None
        with filesystem.open_input_stream(f"{path}/{COMPLETE}") as stream:
            return str(stream.read().decode())
    except OSError as error:
        raise UserError(f"{location} cannot be read: {error.strerror or error}") from error


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
    """`published_location` for what needs a real folder: a staging folder on a disk of this machine."""
    with published_location(location, key, resume=resume) as staging:
        yield Path(staging)


@contextmanager
def published_location(
    location: str | Path, key: str, *, resume: bool = False, scratch: Sequence[str] = ()
) -> Iterator[str]:
    """A staging location that becomes `location` when the block ends well, and not otherwise.

    It lies beside `location`. On a disk publishing is a rename; an object store cannot rename, so the objects are
    copied and marked complete last: who looks in between is told that it is not, and a killed run publishes again
    from the staging location, which is removed at the very end. An earlier folder at `location` is replaced once
    the new one is whole.

    key: see `step_key`. With `resume` the staging location keeps what an interrupted run with the same
        key left in it, until something else is published there (so no two runs at a time into one folder);
        otherwise it starts empty, and is removed when the block fails.
    scratch: folders of the staging location that are not published.

    Raises `UserError` where the disk is full or may not be written.
    """
    filesystem, _, staging = _staging(location, key)
    try:
        require_replaceable(location)
        if not resume:
            _delete(filesystem, staging)
        filesystem.create_dir(staging)
        yield _beside(location, staging)
        with filesystem.open_output_stream(f"{staging}/{COMPLETE}") as stream:
            stream.write(key.encode())
        finish_publishing(location, key, scratch)
    except OSError as error:
        # What a Ray task raises is an OSError too, but without its number: the cause has it.
        raise _explain(getattr(error, "cause", error), location) from error
    finally:
        if not resume:
            with contextlib.suppress(OSError):  # what went wrong is on its way to the caller
                _delete(filesystem, staging)


def finish_publishing(location: str | Path, key: str, scratch: Sequence[str] = ()) -> bool:
    """Publish what a run completed; False where there is nothing to publish. A run may be killed in the midst of it."""
    filesystem, path, staging = _staging(location, key)
    if filesystem.get_file_info(f"{staging}/{COMPLETE}").type != fs.FileType.File:
        return False
    for folder in scratch:
        _delete(filesystem, f"{staging}/{folder}")
    _publish(filesystem, staging, path)
    _remove_superseded(filesystem, path)
    return True


def _staging(location: str | Path, key: str) -> tuple[fs.FileSystem, str, str]:
    """The filesystem, the path of the location, and that of its staging location."""
    filesystem, path = open_filesystem(location)
    parent, _, name = path.rpartition("/")
    return filesystem, path, f"{parent}/.{name}.{key}.partial"


def require_replaceable(location: str | Path) -> None:
    """Raises `UserError` where `location` holds something that was not published by us."""
    filesystem, path = open_filesystem(location)
    info = filesystem.get_file_info(path)
    if info.type == fs.FileType.NotFound or key_of(location) is not None:
        return
    if info.type == fs.FileType.Directory:
        found = filesystem.get_file_info(fs.FileSelector(path))
        if not found or _publishing(filesystem, path):
            return
    raise UserError(f"{location} exists and was not made by rayapp; it would be replaced: choose another folder")


def join(location: str | Path, *parts: str) -> str:
    """A location within a location.

    >>> join("s3://bucket/runs?endpoint_override=localhost:9000", "plan", "a.parquet")
    's3://bucket/runs/plan/a.parquet?endpoint_override=localhost:9000'
    """
    base, question, query = str(location).partition("?")
    return "/".join([base.rstrip("/"), *parts]) + question + query


def name_of(location: str | Path) -> str:
    """The last part of a location.

    >>> name_of("s3://bucket/runs?endpoint_override=localhost:9000")
    'runs'
    """
    return str(location).partition("?")[0].rstrip("/").rpartition("/")[2]


def write_file(location: str | Path, data: bytes | pa.Buffer, *, name: str = "") -> None:
    """Write a whole file: under another name first, unless one request does it, so that it is complete or absent.

    name: of the file in the folder `location`, where it may hold characters that mean something in a URI.
    """
    filesystem, path = open_filesystem(location)
    path = f"{path}/{name}" if name else path
    parent, _, name = path.rpartition("/")
    aside = f"{parent}/.{name}.{uuid.uuid4().hex[:8]}.tmp"  # two writers of one file do not meet
    if _has_folders(filesystem):
        filesystem.create_dir(parent)
    elif len(data) <= _ONE_REQUEST_BYTES:
        with filesystem.open_output_stream(path) as stream:
            stream.write(data)
        return
    # A stream that fails in the middle is closed all the same, and what it has is an object then.
    with filesystem.open_output_stream(aside) as stream:
        stream.write(data)
    filesystem.move(aside, path)


def open_output(location: str | Path) -> pa.NativeFile:
    """A stream into a file of a folder that need not be there, and that nobody reads before it is published."""
    filesystem, path = open_filesystem(location)
    if _has_folders(filesystem):
        filesystem.create_dir(path.rpartition("/")[0])
    return filesystem.open_output_stream(path)


def list_files(location: str | Path, suffix: str) -> list[str]:
    """Names of the files of a folder that end so, sorted; none where there is no folder. Hidden ones are not told."""
    filesystem, path = open_filesystem(location)
    infos = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))
    names = (info.base_name for info in infos if info.type == fs.FileType.File)
    return sorted(name for name in names if name.endswith(suffix) and not name.startswith("."))


def remove_location(location: str | Path) -> None:
    """Delete a folder with all that it holds; nothing happens where there is none."""
    _delete(*open_filesystem(location))


def remove_file(location: str | Path) -> None:
    """Delete a file; nothing happens where there is none."""
    _delete_file(*open_filesystem(location))


def _beside(location: str | Path, path: str) -> str:
    """The location that has `path` within the same filesystem."""
    text = str(location)
    if "://" not in text:
        return path
    scheme, _, rest = text.partition("://")
    _, question, query = rest.partition("?")
    return f"{scheme}://{path.lstrip('/') if scheme != 'file' else path}{question}{query}"


def _publishing(filesystem: fs.FileSystem, path: str) -> bool:
    """Whether a run that was killed while it copied left this: its staging location is still there, complete."""
    parent, _, name = path.rpartition("/")
    found = filesystem.get_file_info(fs.FileSelector(parent or "/", allow_not_found=True))
    staging = [info.path for info in found if _is_partial(info.base_name, name)]
    return any(filesystem.get_file_info(f"{p}/{COMPLETE}").type == fs.FileType.File for p in staging)


def _publish(filesystem: fs.FileSystem, staging: str, path: str) -> None:
    if _has_folders(filesystem):
        if Path(path).exists():
            parent, _, name = path.rpartition("/")
            replaced = f"{parent}/.{name}.replaced"
            _delete(filesystem, replaced)
            filesystem.move(path, replaced)
            filesystem.move(staging, path)
            _delete(filesystem, replaced)
        else:
            filesystem.move(staging, path)
        return
    _delete_file(filesystem, f"{path}/{COMPLETE}")
    _delete(filesystem, path)
    infos = filesystem.get_file_info(fs.FileSelector(staging, recursive=True))
    files = [info.path.removeprefix(f"{staging}/") for info in infos if info.type == fs.FileType.File]
    files = [file for file in files if file != COMPLETE and not file.endswith(".tmp")]  # of writers that were killed
    with ThreadPoolExecutor(_COPIES_AT_ONCE) as pool:
        copies = [pool.submit(filesystem.copy_file, f"{staging}/{file}", f"{path}/{file}") for file in files]
        try:
            for copy in as_completed(copies):
                copy.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    filesystem.copy_file(f"{staging}/{COMPLETE}", f"{path}/{COMPLETE}")
    _delete(filesystem, staging)


def _remove_superseded(filesystem: fs.FileSystem, path: str) -> None:
    """What interrupted runs with other settings left; not what belongs to a `location.other`."""
    parent, _, name = path.rpartition("/")
    for info in filesystem.get_file_info(fs.FileSelector(parent or "/")):
        if _is_partial(info.base_name, name):
            _delete(filesystem, info.path)


def _has_folders(filesystem: fs.FileSystem) -> bool:
    """As disks have, and object stores have not: there, each made one costs a request for each of its parents."""
    return isinstance(filesystem, fs.LocalFileSystem)


def _is_partial(name: str, published: str) -> bool:
    return bool(re.fullmatch(rf"\.{re.escape(published)}\.[^.]+\.partial", name))


def _delete(filesystem: fs.FileSystem, path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        filesystem.delete_dir(path)


def _delete_file(filesystem: fs.FileSystem, path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        filesystem.delete_file(path)


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


def _explain(error: OSError, location: str | Path) -> UserError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(f"the disk is full while writing {location}; free some room and run this again")
    return UserError(f"{location} cannot be written: {error.strerror or error}; choose another folder")
