"""Our stream against a plain `multiprocessing` script that does the same work with the same functions.

Both take the same plan, in pieces of the same size, with as many processes as there are cores, and write the same
shards. `ratio` is their throughputs in steady state, ours over the script's: from the first shard to the last, so
that starting up does not count (`startup_seconds` tells what that took). `utilisation` is the share of the cores'
time that was busy meanwhile. With verification, a small recogniser hears each utterance in the same processes.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.config import SynthesisConfig
from pipelines.lexicon.config import LexiconConfig
from pipelines.lexicon.terms import open_lexicon
from pipelines.manifests.config import ManifestsConfig, SizesConfig
from pipelines.manifests.rows import manifest_table
from pipelines.plan import Planner
from pipelines.synthesize import groups
from pipelines.verification.config import SignalConfig, VerificationConfig
from rayapp.execution import Group, run_plan
from rayapp.plan import count_pieces, read_piece, write_plan
from rayapp.ray_session import ray_session
from rayapp.records import Utterance
from rayapp.stage import run_stages

_TERMS = 50


@dataclass
class Run:
    """What one way of making the utterances took."""

    rows_per_second: float
    startup_seconds: float
    utilisation: float
    rejected: int


def settings(utterances: int, recogniser: str | None, workers: int) -> SynthesisConfig:
    empty = dict.fromkeys(SizesConfig.model_fields, 0)
    sizes = SizesConfig.model_validate(empty | {"train_everyday": utterances})
    kept = SignalConfig(max_silence_share=1, max_words_per_second=99, max_characters_per_second=999)
    return SynthesisConfig(
        lexicon=LexiconConfig(take=_TERMS),
        manifests=ManifestsConfig(sizes=sizes),
        # An untrained recogniser hears nothing right: every utterance has to go the whole way all the same.
        verification=VerificationConfig(
            enabled=recogniser is not None, recogniser=recogniser, max_rest_wer=1e9, signal=kept
        ),
        workers=workers,
    )


def ours(config: SynthesisConfig, plan: str, shards: str) -> Run:
    started = time.perf_counter()
    with ray_session("local"):
        return _measured(started, ((s.committed, s.rejections.total()) for s in run_plan(
            plan, groups(config), shards, manifest_table
        ) if s.committed))  # fmt: skip


def script(config: SynthesisConfig, plan: str, shards: str, workers: int) -> Run:
    """What somebody would write in an afternoon: a pool, a function for each piece, a file for each result."""
    started = time.perf_counter()
    context = multiprocessing.get_context("spawn")
    Path(shards).mkdir()
    with context.Pool(workers, initializer=_load, initargs=(config, plan, shards)) as pool:
        done = pool.imap_unordered(_make, range(count_pieces(plan)))
        return _measured(started, _added(done))


_loaded: dict[str, Any] = {}


def _load(config: SynthesisConfig, plan: str, shards: str) -> None:
    (group,) = (group for group in groups(config) if isinstance(group, Group))
    _loaded.update(stages=[make() for make in group.stages], plan=plan, shards=shards)


def _make(number: int) -> tuple[int, int]:
    import pyarrow.parquet as pq

    slots = read_piece(_loaded["plan"], number)
    utterances = run_stages(_loaded["stages"], [Utterance(slot) for slot in slots])
    pq.write_table(manifest_table(utterances), f"{_loaded['shards']}/{number}.parquet")
    return len(utterances), sum(utterance.status != "ok" for utterance in utterances)


def _added(receipts: Iterator[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    rows = rejected = 0
    for more, more_rejected in receipts:
        rows, rejected = rows + more, rejected + more_rejected
        yield rows, rejected


def _measured(started: float, progress: Iterator[tuple[int, int]]) -> Run:
    """From the first shard to the last. Near the end workers run out of work one by one, in both ways alike."""
    import psutil

    seen = [(time.perf_counter(), _busy_seconds(), *told) for told in progress]
    (first, busy, first_rows, _), (last, last_busy, rows, rejected) = seen[0], seen[-1]
    elapsed = last - first
    return Run(
        rows_per_second=round((rows - first_rows) / elapsed, 2),
        startup_seconds=round(first - started, 1),
        utilisation=round((last_busy - busy) / elapsed / psutil.cpu_count(), 3),
        rejected=rejected,
    )


def _busy_seconds() -> float:
    import psutil

    times = psutil.cpu_times()
    return float(times.user + times.system + times.nice)


def compare(utterances: int, recogniser: str | None, workers: int, folder: Path) -> dict[str, Any]:
    """Both ways, in turns: the script on one half of the plan before ours, on the other half after it."""
    config = settings(utterances, recogniser, workers)
    plan = str(folder / "plan")
    write_plan(Planner(config, open_lexicon(config.lexicon)).first(), plan)
    theirs = [script(config, plan, str(folder / "theirs-0"), workers)]
    mine = ours(config, plan, str(folder / "ours"))
    theirs.append(script(config, plan, str(folder / "theirs-1"), workers))
    rate = sum(run.rows_per_second for run in theirs) / len(theirs)
    return {
        "ratio": round(mine.rows_per_second / rate, 3),
        "utilisation": mine.utilisation,
        "startup_seconds": mine.startup_seconds,
        "rows_per_second": mine.rows_per_second,
        "script": [vars(run) for run in theirs],
        "utterances": utterances,
        "rejected": mine.rejected,
    }


def _untrained_recogniser(folder: Path) -> str:
    """The quickstart's small model with random weights: it costs what a trained one costs."""
    from rayapp.asr.nemo import NemoRecogniser
    from rayapp.asr.recipes import fastconformer_tdt_small, train_tokenizer

    texts = [term.text for term in open_lexicon(LexiconConfig()).taught]
    train_tokenizer(texts, folder / "tokenizer", 128)
    NemoRecogniser.build(fastconformer_tdt_small(folder / "tokenizer")).save(folder / "recogniser.nemo")
    return str(folder / "recogniser.nemo")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--utterances", type=int, default=5000)
    parser.add_argument("--verified", type=int, default=5000, help="utterances of the comparison with verification")
    arguments = parser.parse_args()
    workers = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as folder:
        (plain := Path(folder) / "plain").mkdir()
        report: dict[str, Any] = compare(arguments.utterances, None, workers, plain)
        if arguments.verified:
            (verified := Path(folder) / "verified").mkdir()
            told = compare(arguments.verified, _untrained_recogniser(verified), workers, verified)
            report |= {"ratio_verified": told["ratio"], "verified": told}
    report["conditions"] = {"cores": workers, "machine": platform.machine(), "python": platform.python_version()}
    if arguments.json:
        sys.stdout.write(json.dumps(report) + "\n")
        return
    for name, value in report.items():
        sys.stdout.write(f"{name}: {value}\n")


if __name__ == "__main__":
    main()
