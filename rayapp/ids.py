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


def file_id(path: Path) -> str:
    """16 hex digits that depend on what a file holds, not on its name or age."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8)).hexdigest()


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
