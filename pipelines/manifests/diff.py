"""What two manifests do not have in common."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from rayapp.errors import UserError
from rayapp.manifest import Manifest

_ROWS = 8192
_IDENTITY_SCHEMA = pa.schema([(name, pa.string()) for name in ("slot_id", "utterance_id", "audio_hash")])


@dataclass(frozen=True)
class Difference:
    """Rows are named by their `slot_id`; by their `utterance_id` where they come from no plan."""

    only_in_first: list[str]
    only_in_second: list[str]
    filled_otherwise: list[str]
    """The same slot, with another sentence, voice or transform: another `utterance_id`."""
    sounding_otherwise: list[str]
    """The same utterance, with another audio hash."""
    alike: int
    """Rows that are the same in both."""


def diff(first: Manifest, second: Manifest) -> Difference:
    """Compare two manifests by their metadata; rejected rows count as not there.

    Holds some 60 bytes a row. Raises `UserError` for rows without any ID.
    """
    both = _identities(first).join(
        _identities(second), "name", join_type="full outer", right_suffix="_second", coalesce_keys=True
    )
    in_first, in_second = pc.is_valid(both["there"]), pc.is_valid(both["there_second"])
    shared = both.filter(pc.and_(in_first, in_second))
    same_id = _same(shared["utterance_id"], shared["utterance_id_second"])
    same_audio = _same(shared["audio_hash"], shared["audio_hash_second"])
    return Difference(
        only_in_first=_names(both.filter(pc.invert(in_second))),
        only_in_second=_names(both.filter(pc.invert(in_first))),
        filled_otherwise=_names(shared.filter(pc.invert(same_id))),
        sounding_otherwise=_names(shared.filter(pc.and_(same_id, pc.invert(same_audio)))),
        alike=pc.sum(pc.and_(same_id, same_audio)).as_py() or 0,
    )


def _identities(manifest: Manifest) -> pa.Table:
    """One row per utterance: its name, `utterance_id` and `audio_hash`."""
    tables = [
        pa.Table.from_batches([batch]).cast(_IDENTITY_SCHEMA)
        for split in manifest.splits
        for batch in manifest.batches(split, _IDENTITY_SCHEMA.names, _ROWS)
    ]
    rows = pa.concat_tables([_IDENTITY_SCHEMA.empty_table(), *tables])
    names = pc.coalesce(rows["slot_id"], rows["utterance_id"])
    if names.null_count:
        raise UserError(
            f"manifest {manifest.location} has {names.null_count} rows with neither slot_id nor utterance_id; "
            "they cannot be compared"
        )
    return pa.table(
        {
            "name": names,
            "utterance_id": rows["utterance_id"],
            "audio_hash": rows["audio_hash"],
            "there": pa.array([True] * rows.num_rows, pa.bool_()),
        }
    )


def _same(left: pa.ChunkedArray, right: pa.ChunkedArray) -> pa.ChunkedArray:
    """What neither tells is the same."""
    return pc.equal(pc.fill_null(left, ""), pc.fill_null(right, ""))


def _names(rows: pa.Table) -> list[str]:
    return sorted(rows["name"].to_pylist())
