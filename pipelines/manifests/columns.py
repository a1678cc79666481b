"""Whether the columns of a manifest, whoever made it, hold what ours mean."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pyarrow as pa

from rayapp.manifest import ESSENTIAL_COLUMNS
from rayapp.records import MANIFEST_SCHEMA

_FAMILIES: tuple[tuple[Callable[[pa.DataType], bool], ...], ...] = (
    (pa.types.is_string, pa.types.is_large_string, pa.types.is_dictionary),
    (pa.types.is_binary, pa.types.is_large_binary),
    (pa.types.is_floating, pa.types.is_integer),
)


def missing_columns(there: pa.Schema) -> list[str]:
    return [name for name in MANIFEST_SCHEMA.names if name not in there.names]


def column_problems(there: pa.Schema) -> Iterator[str]:
    """What keeps the rows from being read. Columns of other names are theirs to add."""
    yield from (f"no column {name}" for name in missing_columns(there) if name in ESSENTIAL_COLUMNS)
    for wanted in MANIFEST_SCHEMA:
        if wanted.name in there.names and not is_readable(found := there.field(wanted.name).type, wanted.type):
            yield f"{wanted.name} is {found}; {wanted.type} is read"


def is_readable(found: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether a column of one type can hold what another type means; precision and width do not matter.

    >>> is_readable(pa.float64(), pa.float32()), is_readable(pa.string(), pa.list_(pa.string()))
    (True, False)
    """
    if pa.types.is_null(found) or found == wanted:
        return True
    if pa.types.is_struct(wanted):
        names = {entry.name for entry in found} if pa.types.is_struct(found) else set()
        return all(e.name in names and is_readable(found.field(e.name).type, e.type) for e in wanted)
    if pa.types.is_list(wanted):
        is_list = pa.types.is_list(found) or pa.types.is_large_list(found)
        return is_list and is_readable(found.value_type, wanted.value_type)
    return any(any(is_of(found) for is_of in family) and any(is_of(wanted) for is_of in family) for family in _FAMILIES)
