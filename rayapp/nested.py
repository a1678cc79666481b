"""Values within values: settings, and what YAML files hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel


def texts_in(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every text, with its path.

    >>> list(texts_in({"name": "a", "ports": [{"name": "b"}]}))
    [('name', 'a'), ('ports[0].name', 'b')]
    """
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from texts_in(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from texts_in(item, f"{path}[{number}]")
