"""Scoring a hundred thousand utterances, with terms and bootstrap, and the report of ten thousand.

The sentences are those of the packaged grammar, each with its terms; what was heard is the same with a tenth of the
words wrong, lost or added, with times and confidences. `seconds` is from tables in memory to all figures with their
intervals, to slices and to the table of terms; `peak_memory_gb` that of the driver and of what it starts, without Ray's
own processes. The report is made of ten thousand of them, without audio, and opened, sorted and filtered in Chromium.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa


def sentences(count: int) -> Iterator[tuple[str, str, str]]:
    """Text, term and category."""
    from pipelines.lexicon.terms import read_terms
    from pipelines.transcripts.grammar import load_grammar

    grammar, terms = load_grammar("clinical_en"), read_terms()
    patterns = [pattern for pattern in grammar.patterns.values() if not pattern.companions]
    rng = np.random.default_rng(0)
    for number in range(count):
        term = terms[number % len(terms)]
        fitting = [p for p in patterns if p.category in (None, term.category)] or patterns
        pattern = fitting[int(rng.integers(len(fitting)))]
        yield grammar.write(pattern.pattern_id, term, rng).text, term.text, term.category


def tables(count: int) -> tuple[pa.Table, pa.Table]:
    """Rows of a manifest without audio, and what was heard in them."""
    from pipelines.evaluation.hearing import HEARD_SCHEMA
    from rayapp.records import MANIFEST_SCHEMA

    rng = np.random.default_rng(1)
    rows, heard = [], []
    for number, (text, term, category) in enumerate(sentences(count)):
        said, told = text.split(), list(_misheard(text, rng))
        rows.append(
            {
                "utterance_id": f"u{number}",
                "text": text,
                "terms": [term],
                "category": category,
                "language": "en",
                "duration_seconds": 0.4 * len(said),
                "words": _timed(said),
                "voice": f"voice {number % 50}",
                "accent": f"accent {number % 8}",
                "snr_db": float(rng.uniform(10, 25)),
                "style": "clinical_en",
                "generator": "grammar",
                "prompt": None,
            }
        )
        words = [word | {"confidence": float(rng.random())} for word in _timed(told)]
        heard.append({"row": number, "text": " ".join(told), "words": words, "compute_seconds": 0.01})
    schema = pa.schema([MANIFEST_SCHEMA.field(name) for name in rows[0]])
    return pa.Table.from_pylist(rows, schema=schema), pa.Table.from_pylist(heard, schema=HEARD_SCHEMA)


def _misheard(text: str, rng: np.random.Generator) -> Iterator[str]:
    """Every tenth word is wrong, lost, or another."""
    for word in text.lower().replace(",", "").split():
        if rng.random() > 0.1:
            yield word
        elif rng.random() > 0.3:
            yield word[:-1] + "o"


def _timed(words: Sequence[str]) -> list[dict[str, Any]]:
    return [{"text": w, "start_seconds": 0.4 * i, "end_seconds": 0.4 * i + 0.3} for i, w in enumerate(words)]


class Memory:
    """The most that this process and its own workers had, polled; Ray's servers do not count."""

    def __init__(self) -> None:
        self.peak = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        me = psutil.Process()
        while not self._stop.wait(0.1):
            total = me.memory_info().rss
            for child in me.children(recursive=True):
                try:
                    if "ray::" in " ".join(child.cmdline()) and "_score" in " ".join(child.cmdline()):
                        memory = child.memory_info()
                        total += memory.rss - memory.shared
                except psutil.Error:
                    continue
            self.peak = max(self.peak, total)


def measure(utterances: int) -> dict[str, Any]:
    from pipelines.evaluation.counts import Scorer
    from pipelines.evaluation.metrics import figures
    from pipelines.evaluation.resampling import Resampling
    from pipelines.evaluation.scoring import score_everywhere
    from pipelines.evaluation.slices import slices, term_slices
    from pipelines.evaluation.term_table import term_table
    from pipelines.evaluation.training_data import TrainingData
    from rayapp.ray_session import ray_session

    spoken, heard = tables(utterances)
    terms = {term for row in spoken["terms"].to_pylist() for term in row}
    seconds: dict[str, float] = {}

    def timed(name: str, started: float) -> None:
        seconds[name] = round(time.perf_counter() - started, 2)

    with ray_session("local"), Memory() as memory:
        began = started = time.perf_counter()
        counts = score_everywhere(Scorer(terms), spoken, {"after": heard})
        timed("scoring", started)
        started = time.perf_counter()
        figures(counts, Resampling(utterances, 2000, 0))
        timed("intervals", started)
        started = time.perf_counter()
        slices(spoken, counts, 2000, 0)
        rows = spoken.select(["terms", "category"]).to_pylist()
        categories = {row["terms"][0]: row["category"] for row in rows}
        term_slices(counts, categories, {term.casefold() for term in [*categories][::2]}, 2000, 0)
        timed("slices", started)
        started = time.perf_counter()
        term_table("test", counts, categories, TrainingData())
        timed("terms", started)
        whole = time.perf_counter() - began
    return {
        "seconds": round(whole, 1),
        "seconds_by_part": seconds,
        "peak_memory_gb": round(memory.peak / 1e9, 2),
        "report": _report(10_000),
    }


def _report(utterances: int) -> dict[str, float]:
    """The page of two recognisers, without audio, of which 8 MB at most are added: its size, and how long a browser
    takes to open it, to sort the utterances, and to filter them."""
    from types import SimpleNamespace

    from pipelines.evaluation.config import EvaluationConfig, TestSetConfig
    from pipelines.evaluation.counts import Scorer
    from pipelines.evaluation.metrics import calibration_bins, figures
    from pipelines.evaluation.report import write_reports
    from pipelines.evaluation.resampling import Resampling
    from pipelines.evaluation.slices import slices
    from pipelines.evaluation.term_table import term_table
    from pipelines.evaluation.training_data import TrainingData

    spoken, heard = tables(utterances)
    terms = {term for row in spoken["terms"].to_pylist() for term in row}
    both = {"before": heard, "after": heard}
    counted = Scorer(terms).score_tables(spoken, heard)
    counts = {"before": counted, "after": counted}
    result = SimpleNamespace(
        name="test",
        utterances=spoken,
        general=False,
        hours=1.0,
        heard=both,
        counts=counts,
        figures=figures(counts, Resampling(utterances, 200, 0)),
        slices=slices(spoken, counts, 800, 0),
        terms=term_table("test", counts, {}, TrainingData()),
        calibration={name: calibration_bins(counted) for name in both},
        overlap=None,
    )
    config = EvaluationConfig(sets={"test": TestSetConfig(manifest="none")}, after="none", examples=0)
    with tempfile.TemporaryDirectory() as folder:
        models = {name: {"path": "runs/model", "model_id": "0"} for name in both}
        write_reports(Path(folder), config, [result], models, TrainingData())  # type: ignore[list-item]
        page = Path(folder) / "report.html"
        return {"megabytes": round(page.stat().st_size / 1e6, 2), **_browsed(page)}


def _browsed(page: Path) -> dict[str, float]:
    """Milliseconds; none where there is no Chromium."""
    chromium = shutil.which("chromium")
    if chromium is None:
        return {}
    from playwright.sync_api import sync_playwright

    took = """(change) => { const from = performance.now(); change(); document.body.offsetHeight;
        return performance.now() - from; }"""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        tab = browser.new_page()
        started = time.perf_counter()
        tab.goto(page.as_uri())
        opened = time.perf_counter() - started
        select = "document.querySelector('select[data-{}]')"
        change = "() => {{ const s = {}; s.value = '{}'; s.onchange(); }}"
        sort = tab.evaluate(f"({took})({change.format(select.format('sort'), 'longest')})")
        choose = tab.evaluate(f"({took})({change.format(select.format('filter=accent'), 'accent 3')})")
        browser.close()
    return {"open": round(1000 * opened), "sort": round(sort), "filter": round(choose)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--utterances", type=int, default=100_000)
    arguments = parser.parse_args()
    report = measure(arguments.utterances) | {
        "conditions": {"utterances": arguments.utterances, "cores": os.cpu_count()}
    }
    sys.stdout.write(json.dumps(report) + "\n" if arguments.json else "".join(f"{k}: {v}\n" for k, v in report.items()))


if __name__ == "__main__":
    main()
