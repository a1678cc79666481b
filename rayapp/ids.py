"""IDs that come from contents, so that the same thing has the same name wherever it is made."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


def content_id(*parts: object) -> str:
    """16 hex digits that depend on nothing but the parts, and on their order.

    >>> content_id("losartan", 1) == content_id("losartan", 1)
    True
    >>> content_id("losartan", 1) == content_id("losartan", 2)
    False
    """
    return hashlib.blake2b(json.dumps(parts, default=str).encode(), digest_size=8).hexdigest()


def path_id(path: Path) -> str:
    """16 hex digits that depend on what a file holds, or all files of a folder by their names there.

    Of a file over 16 MB, its size and samples count, evenly spread from its first bytes to its last: gigabytes of
    weights take a moment. A stretch of changes longer than 1/255 of the file is always noticed, as is a new header;
    training changes all of it. Hidden files do not count, nor does the folder's own path where a file names it.

    Raises `FileNotFoundError` where there is neither.
    """
    if not path.is_dir():
        return content_id(_file_contents(path, b""))
    names = sorted(file.relative_to(path) for file in path.rglob("*") if file.is_file())
    shown = [name for name in names if not any(part.startswith(".") for part in name.parts)]
    own = bytes(path.absolute())
    return content_id([(name.as_posix(), _file_contents(path / name, own)) for name in shown])


_WHOLE_BYTES = 16 << 20
_SAMPLES, _SAMPLE_BYTES = 256, 16 << 10


def _file_contents(path: Path, left_out: bytes) -> str:
    """Digest of a file; of a large one, of samples. `left_out` does not count where a small one holds it."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= _WHOLE_BYTES:
            content = file.read()
            return hashlib.blake2b(content.replace(left_out, b"") if left_out else content, digest_size=8).hexdigest()
        digest = hashlib.blake2b(str(size).encode(), digest_size=8)
        for number in range(_SAMPLES):
            file.seek((size - _SAMPLE_BYTES) * number // (_SAMPLES - 1))
            digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def content_share(*parts: object) -> float:
    """A number in [0, 1) that depends on the parts alone: for decisions by hash, such as splits."""
    return int(content_id(*parts), 16) / 2**64


def evenly_by_category(items: Iterable[T], category: Callable[[T], str], rank: Callable[[T], Any]) -> list[T]:
    """The items in an order whose every prefix has the categories in the whole's proportions.

    rank: what decides the order within a category, from an item.

    >>> evenly_by_category(["a2", "a1", "b2", "b1"], lambda item: item[0], lambda item: item[1])
    ['a1', 'b1', 'a2', 'b2']
    """
    groups: dict[str, list[T]] = {}
    for item in sorted(items, key=lambda item: (rank(item), category(item))):
        groups.setdefault(category(item), []).append(item)
    placed = [
        ((index + 0.5) / len(group), name, item) for name, group in groups.items() for index, item in enumerate(group)
    ]
    return [item for _, _, item in sorted(placed, key=lambda entry: entry[:2])]
