"""A factory of small manifests that needs no Ray."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest


@pytest.fixture
def write_manifest(tmp_path: Path) -> Callable[..., str]:
    """Write utterances, or a table of rows, as a published manifest; returns its location."""
    from pipelines.manifests.rows import manifest_table
    from rayapp.storage import published_folder

    def make(rows: object, name: str = "manifest", row_group_size: int = 2) -> str:
        table = rows if isinstance(rows, pa.Table) else manifest_table(rows)  # type: ignore[arg-type]
        statuses, splits = (table[column].to_pylist() for column in ("status", "split"))
        shards: dict[str, list[int]] = {}
        for number, (status, split) in enumerate(zip(statuses, splits, strict=True)):
            shards.setdefault("rejected" if status == "rejected" else split, []).append(number)
        with published_folder(tmp_path / name, f"made-{name}") as folder:
            (folder / "data").mkdir()
            for split, numbers in shards.items():
                path = folder / "data" / f"{split}-00000-of-00001.parquet"
                pq.write_table(table.take(numbers), path, row_group_size=row_group_size)
        return str(tmp_path / name)

    return make


@pytest.fixture
def utterances(spoken: Callable[..., object]) -> list[object]:
    """Three to train on, one to validate, two tests, and one that was rejected."""
    from rayapp.records import Voice

    scottish = (Voice("espeak", "en-gb-scotland+f2", accent="en-gb-scotland"),)
    made = [
        spoken("please start losartan today", slot_id="a1", snr_db=12.0),
        spoken("we stopped losartan last week", slot_id="a2", seed=8, snr_db=13.5),
        spoken("take losartan with water", slot_id="a3", seed=9, snr_db=21.0, cast=scottish),
        spoken("she has losartan at night", slot_id="b1", seed=10, split="validation"),
        spoken("losartan was of no use", slot_id="c1", seed=11, split="test"),
        spoken("losartan again, please", slot_id="c2", seed=12, split="test_general", term=None),
        spoken("losartan that nobody heard", slot_id="d1", seed=13).rejected("verify: WER 0.62 is above 0.3"),
    ]
    return [utterance.with_step("noise", 2, snr_db=utterance.slot.snr_db) for utterance in made]
