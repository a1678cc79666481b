"""Does a run of 100,000 rows cost its driver more memory than one of 10,000, and does a row take longer?

Short audio that costs next to nothing to make goes the whole way: planned, streamed in two rounds, as one utterance in
fifty repeats another, and gathered to a manifest. Each size runs in a process of its own. `driver_memory_ratio` and
`object_store_ratio` are the peaks of the large run over those of the small one; `time_linearity` is the time per row of
the large run over that of the small one, from the plan to the manifest, without starting Ray and its workers.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Self


class Peaks:
    """Watches this process and the object store while the block runs."""

    def __init__(self) -> None:
        self.driver_mb = self.object_store_mb = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        import psutil
        from ray import get_runtime_context
        from ray._private.internal_api import get_memory_info_reply, get_state_from_address

        state = get_state_from_address(get_runtime_context().gcs_address)
        while not self._stop.wait(0.2):
            self.driver_mb = max(self.driver_mb, psutil.Process().memory_full_info().uss / 1e6)
            store = get_memory_info_reply(state).store_stats
            self.object_store_mb = max(self.object_store_mb, store.object_store_bytes_used / 1e6)


def measure(rows: int) -> dict[str, float]:
    """One run, in this process."""
    from benchmarks.stages import Hum, Humming
    from pipelines.manifests.gather import gather_shards
    from pipelines.manifests.rows import manifest_table
    from pipelines.rounds import Rounds
    from pipelines.transcripts.config import ChecksConfig
    from rayapp.execution import Group
    from rayapp.ray_session import available_cpus, ray_session

    seen: list[tuple[float, int, int]] = []
    with tempfile.TemporaryDirectory() as folder, ray_session("local"), Peaks() as peaks:
        started = time.perf_counter()
        rounds = Rounds(folder, Humming(rows), ChecksConfig(max_near_duplicates=0.9), most=2)
        result = rounds.fill(
            [Group([Hum], available_cpus())],
            manifest_table,
            max_rejected_share=0.0,
            progress=lambda done, total, _: seen.append((time.perf_counter(), done, total)),
        )
        streamed = time.perf_counter()
        gather_shards(rounds.blocks, folder, 512, rounds.set_aside)
        ended = time.perf_counter()
    starting = sum(_starting(seen, total) for total in {total for _, _, total in seen})
    return {
        "rows": rows,
        "kept": result.kept,
        "rounds": result.rounds,
        "seconds": round(ended - started - starting, 2),
        "rounds_seconds": round(streamed - started - starting, 2),
        "gather_seconds": round(ended - streamed, 2),
        "driver_mb": round(peaks.driver_mb, 1),
        "object_store_mb": round(peaks.object_store_mb, 2),
    }


def _starting(seen: list[tuple[float, int, int]], total: int) -> float:
    """Seconds from when a round was planned until its first shard was committed."""
    told = [(when, done) for when, done, of in seen if of == total]
    return next(when for when, done in told if done > told[0][1]) - told[0][0]


def _in_a_process_of_its_own(rows: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.synthesis_scale", "--measure", str(rows)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--small", type=int, default=10_000)
    parser.add_argument("--large", type=int, default=100_000)
    parser.add_argument("--measure", type=int, help="only one run, of so many rows, in this process")
    arguments = parser.parse_args()
    if arguments.measure:
        sys.stdout.write(json.dumps(measure(arguments.measure)) + "\n")
        return
    small, large = (_in_a_process_of_its_own(rows) for rows in (arguments.small, arguments.large))
    report: dict[str, Any] = {
        "driver_memory_ratio": round(large["driver_mb"] / small["driver_mb"], 3),
        "object_store_ratio": round(large["object_store_mb"] / small["object_store_mb"], 3),
        "time_linearity": round(large["seconds"] / large["rows"] / (small["seconds"] / small["rows"]), 3),
        "small": small,
        "large": large,
    }
    sys.stdout.write(json.dumps(report) + "\n" if arguments.json else "".join(f"{k}: {v}\n" for k, v in report.items()))


if __name__ == "__main__":
    main()
