"""The files that a lexicon can lie in: CSV, TSV, a term a line, JSON lines and parquet, told apart by suffix."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from rayapp.errors import UserError
from rayapp.records import Term
from rayapp.storage import name_of, open_filesystem, write_file

COLUMNS = ("text", "category", "language", "pronunciation", "weight", "recall", "confused_with")
"""What a lexicon tells of a term; only the text must be there, and other columns are not read."""


class Row(NamedTuple):
    """One term as it stands in a file, not yet checked."""

    where: str
    """Such as `line 7`."""
    values: Mapping[str, Any]
    problem: str = ""
    """Why nothing could be read there."""


class Format(NamedTuple):
    """How one kind of file is read and written."""

    read: Callable[[bytes], Iterator[Row]]
    """Raises `ValueError` for what is no such file."""
    write: Callable[[Sequence[Term]], bytes]


def read_rows(location: str) -> list[Row]:
    """The rows of a file on any storage.

    Raises `UserError` for a file that is missing, of an unknown kind, broken, or without a text column.
    """
    kind = format_of(location)
    filesystem, path = open_filesystem(location)
    try:
        with filesystem.open_input_stream(path) as stream:
            data = stream.read()
    except FileNotFoundError:
        raise UserError(f"lexicon {location} does not exist") from None
    except OSError as error:
        raise UserError(f"lexicon {location} cannot be read: {error}") from None
    try:
        return list(kind.read(data))
    except ValueError as error:
        raise UserError(f"lexicon {location} {error}") from None


def write_terms(location: str, terms: Sequence[Term]) -> None:
    """Write a lexicon that `read_rows` reads; plain text keeps nothing but the texts.

    Raises `UserError` for an unknown kind of file, or a place that cannot be written.
    """
    data = format_of(location).write(terms)
    try:
        write_file(location, data)
    except OSError as error:
        raise UserError(f"lexicon {location} cannot be written: {error}; choose another place") from None


def format_of(location: str) -> Format:
    """Raises `UserError` for a suffix that is none of ours."""
    suffix = PurePosixPath(name_of(location)).suffix.lower()
    if suffix not in FORMATS:
        ending = f"ends in {suffix}" if suffix else "has no suffix"
        raise UserError(f"lexicon {location} {ending}, which says how it is read; known: {', '.join(FORMATS)}")
    return FORMATS[suffix]


def decode_lines(data: bytes) -> str:
    """UTF-8 text, with or without a byte order mark. Raises `ValueError` that names the lines that are none."""
    broken = []
    for number, line in enumerate(data.split(b"\n"), start=1):
        try:
            line.decode("utf-8")
        except UnicodeDecodeError as error:
            broken.append(f"line {number} (byte 0x{line[error.start]:02X})")
    if broken:
        more = f" and {len(broken) - 10} more" if broken[10:] else ""
        raise ValueError(f"cannot be read as UTF-8 text: {', '.join(broken[:10])}{more}; save it as UTF-8")
    return data.decode("utf-8-sig")


def _read_separated(data: bytes, delimiter: str) -> Iterator[Row]:
    rows = csv.DictReader(io.StringIO(decode_lines(data), newline=""), delimiter=delimiter)
    try:
        _require_text_column(rows.fieldnames)
        for values in rows:
            spare = values.pop(None, None)  # csv keeps fields beyond the header there
            problem = f"{spare[0]!r} stands beyond the last column; quote what holds a separator" if spare else ""
            yield Row(f"line {rows.line_num}", values, problem)
    except csv.Error as error:
        raise ValueError(f"cannot be read as a table at line {rows.line_num}: {error}") from None


def _write_separated(terms: Sequence[Term], delimiter: str) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, delimiter=delimiter, lineterminator="\n")
    writer.writeheader()
    writer.writerows(_values(term) for term in terms)
    return text.getvalue().encode()


def _read_lines(data: bytes) -> Iterator[Row]:
    for number, line in enumerate(decode_lines(data).split("\n"), start=1):
        if line.strip():
            yield Row(f"line {number}", {"text": line})


def _write_lines(terms: Sequence[Term]) -> bytes:
    return "".join(f"{term.text}\n" for term in terms).encode()


def _read_json_lines(data: bytes) -> Iterator[Row]:
    for number, line in enumerate(decode_lines(data).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield Row(f"line {number}", {}, f"is not JSON ({error})")
            continue
        problem = "" if isinstance(values, dict) else f"holds {line.strip()[:40]}, not an object with a text"
        yield Row(f"line {number}", {} if problem else values, problem)


def _write_json_lines(terms: Sequence[Term]) -> bytes:
    return "".join(json.dumps(_values(term), ensure_ascii=False) + "\n" for term in terms).encode()


def _read_parquet(data: bytes) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        _require_text_column(file.schema_arrow.names)
        columns = [name for name in file.schema_arrow.names if name in COLUMNS]
        rows = file.read(columns=columns).to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"is not parquet that can be read: {error}") from None
    for number, values in enumerate(rows, start=1):
        yield Row(f"row {number}", values)


def _write_parquet(terms: Sequence[Term]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = [pa.float64() if name in ("weight", "recall") else pa.string() for name in COLUMNS]
    schema = pa.schema(list(zip(COLUMNS, types, strict=True)))
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([_values(term) for term in terms], schema=schema), sink)
    return sink.getvalue().to_pybytes()


def _values(term: Term) -> dict[str, Any]:
    return {name: getattr(term, name) for name in COLUMNS} | {"confused_with": "; ".join(term.confused_with) or None}


def _require_text_column(names: Sequence[str] | None) -> None:
    if "text" not in (names or []):
        found = list(names) if names else "no lines at all"
        raise ValueError(f"needs a header with a column named text; it has {found}")


FORMATS = {
    ".csv": Format(lambda data: _read_separated(data, ","), lambda terms: _write_separated(terms, ",")),
    ".tsv": Format(lambda data: _read_separated(data, "\t"), lambda terms: _write_separated(terms, "\t")),
    ".txt": Format(_read_lines, _write_lines),
    ".jsonl": Format(_read_json_lines, _write_json_lines),
    ".parquet": Format(_read_parquet, _write_parquet),
}
"""By suffix."""
