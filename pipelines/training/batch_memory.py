"""How much audio a batch may have: by a table, and as measured on the device at hand.

A step is tried with ever larger batches of utterances of one length, until one does not fit. From the largest of each
length follow the two settings of `input`: `batch_seconds` and `quadratic_seconds`.
"""

from __future__ import annotations

import ctypes
import gc
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pipelines.training.config import TrainingConfig
from pipelines.training.mixture import Mixture
from pipelines.training.start import make_engine, starting_model
from rayapp.asr.recogniser import Recogniser, SpeechBatch, Tokeniser
from rayapp.errors import UserError
from rayapp.records import SAMPLE_RATE_HZ

if TYPE_CHECKING:
    from pipelines.training.engine import Engine

_ON_CPU = 40.0
_UTTERANCES = ((50e6, (64, 128, 256)), (300e6, (32, 64, 128)), (math.inf, (16, 32, 64)))
"""Of models of at most so many parameters, in GPUs of 8, 16 and 24 GB: NVIDIA's recommendation for NeMo Curator's ASR
stage (https://docs.nvidia.com/nemo/curator). That stage only transcribes; for training it is a guess."""
_SECONDS_EACH = 4.0
"""That an utterance of the table is taken to last."""
_SLACK = 0.06
"""Share of the memory that stays free: what libraries take later, and lengths between those that were tried."""
_BUCKETS = 5
_TEXTS = 2000
"""That are looked at for how many labels a second of speech has."""
_PRECISION = 1 / 16
"""Of the largest batch."""
_MOST = 4096
"""Utterances in a batch that is tried."""


def default_batch_seconds(parameters: int, device: torch.device) -> float:
    """What is likely to fit, where nobody measured.

    >>> default_batch_seconds(600_000_000, torch.device("cpu"))
    40.0
    """
    if device.type != "cuda":
        return _ON_CPU
    gigabytes = torch.cuda.get_device_properties(device).total_memory / 1e9
    small, medium, large = next(row for most, row in _UTTERANCES if parameters <= most)
    utterances = large * gigabytes / 24 if gigabytes >= 22 else medium if gigabytes >= 15 else small
    return utterances * _SECONDS_EACH


def is_memory_short(error: RuntimeError) -> bool:
    """On a CPU torch has no exception of its own for that."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


@dataclass(frozen=True)
class Bucket:
    """Utterances of about one length, and how many of them fit."""

    seconds: float
    labels: int
    """Of a text that is said in that time."""
    utterances: int = 0
    """In the largest batch that fits; 0 where not even one does."""


@dataclass(frozen=True)
class Limits:
    """The settings of `input` that keep batches of all lengths within what fits."""

    batch_seconds: float
    quadratic_seconds: float | None

    @classmethod
    def of(cls, buckets: Sequence[Bucket]) -> Limits:
        """Those that fill the buckets best, and none beyond what fits.

        A share of the memory is a·d + b·d² for an utterance of d seconds; a and b are the least that are true of all
        buckets.

        >>> Limits.of([Bucket(2, 10, 100), Bucket(10, 50, 20), Bucket(20, 100, 10)])
        Limits(batch_seconds=200.0, quadratic_seconds=None)
        """
        from scipy.optimize import linprog

        lengths = np.array([bucket.seconds for bucket in buckets])
        counts = np.array([bucket.utterances for bucket in buckets])
        shares = np.stack([lengths * counts, lengths**2 * counts], axis=1)  # of a full batch, with a = 1 or b = 1
        scale = shares.max(axis=0)
        a, b = linprog((shares / scale).sum(axis=0), A_ub=-shares / scale, b_ub=-np.ones(len(shares))).x / scale
        quadratic = max(round(float(a / b), 1), 0.1) if b * lengths.max() > 1e-3 * a else None
        seconds = float(min(counts * (lengths + (lengths**2 / quadratic if quadratic else 0))))
        return cls(math.floor(seconds * 10 + 1e-6) / 10, quadratic)


def buckets_of(mixture: Mixture, tokeniser: Tokeniser, max_seconds: float) -> list[Bucket]:
    """Lengths with as many utterances between each, up to the longest; with the labels of a fast speaker."""
    rows = np.concatenate(mixture.rows)
    seconds = mixture.seconds[rows]
    chosen = np.random.default_rng(0).permutation(rows)[:_TEXTS]
    rates = [
        len(tokeniser.encode(text or "")) / mixture.seconds[number]
        for numbers, table in mixture.read(chosen, ["text"])
        for number, text in zip(numbers.tolist(), table["text"].to_pylist(), strict=True)
    ]
    rate = float(np.quantile(rates, 0.99))
    longest = min(float(seconds.max()), max_seconds)
    edges = {*np.round(np.quantile(seconds, np.arange(1, _BUCKETS) / _BUCKETS), 1).tolist(), round(longest, 1)}
    return [Bucket(edge, max(1, math.ceil(edge * rate))) for edge in sorted(edges)]


def largest_batches(
    start: Callable[[], Engine], buckets: Sequence[Bucket], device: torch.device, memory_bytes: float
) -> list[Bucket]:
    """Try steps of each bucket. Raises `UserError` where the memory cannot be measured here.

    start: makes the model anew, and its engine: a step that broke off leaves an engine that cannot go on.
    memory_bytes: that the process may take, of the GPU or of the machine.
    """
    memory = _GPUMemory(device) if device.type == "cuda" else _ProcessMemory()
    limit = memory_bytes * (1 - _SLACK)
    engine: Engine | None = None

    def peak_of(bucket: Bucket, utterances: int) -> float:
        """Of a step, in bytes."""
        nonlocal engine
        if engine is None:
            engine = start()
            engine.backward_and_step(
                engine.loss(*_batch(buckets[0], 1).to(device)), 0.5
            )  # brings the optimizer's state
        memory.reset()
        try:
            engine.backward_and_step(engine.loss(*_batch(bucket, utterances).to(device)), 0.5)
            return memory.peak()
        except RuntimeError as error:
            if not is_memory_short(error):
                raise
            engine = None
            return math.inf
        finally:
            gc.collect()

    return [replace(bucket, utterances=largest(partial(peak_of, bucket), limit)) for bucket in buckets]


def _within(recogniser: Recogniser, bucket: Bucket) -> Bucket:
    """As much of it as the model takes; a training sets longer ones aside."""
    seconds = min(bucket.seconds, getattr(recogniser, "max_seconds", math.inf))
    labels = min(bucket.labels, getattr(recogniser, "max_labels", None) or bucket.labels)
    return replace(bucket, seconds=seconds, labels=labels)


def largest(peak: Callable[[int], float], limit: float) -> int:
    """The largest batch whose peak is within a limit, to about a sixteenth; 0 where there is none.

    What is bound to go far beyond it, by the two peaks before, is not tried: on a CPU that would kill the process.

    >>> largest(lambda batch: 100.0 + 7 * batch, limit=1000)
    128
    """
    fits, fails, peaks = 0, _MOST + 1, dict[int, float]()
    batch = 1
    while fails - fits > max(1, _PRECISION * fits) and batch <= _MOST:
        peaks[batch] = math.inf if _foreseen(peaks, batch) > limit else peak(batch)
        if peaks[batch] <= limit:
            fits = batch
        else:
            fails = batch
        batch = 2 * fits if fails > _MOST else (fits + fails) // 2
        if batch in peaks or not batch:
            break
    return fits


def _foreseen(peaks: dict[int, float], batch: int) -> float:
    """By a line through the two largest that were measured."""
    known = sorted((size, peak) for size, peak in peaks.items() if math.isfinite(peak))[-2:]
    if len(known) < 2:
        return 0.0
    (small, low), (large, high) = known
    return high + (high - low) / (large - small) * (batch - large)


def _batch(bucket: Bucket, utterances: int) -> SpeechBatch:
    samples = int(bucket.seconds * SAMPLE_RATE_HZ)
    generator = torch.Generator().manual_seed(0)
    return SpeechBatch(
        0.1 * torch.randn(utterances, samples, generator=generator),
        torch.full((utterances,), samples),
        torch.randint(1, 30, (utterances, bucket.labels), generator=generator),
        torch.full((utterances,), bucket.labels),
        torch.empty(utterances, 0, dtype=torch.int64),
    )


class _GPUMemory:
    """Of this process, as its allocator took it from the GPU."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def reset(self) -> None:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self._device)

    def peak(self) -> float:
        torch.cuda.synchronize(self._device)
        return float(torch.cuda.max_memory_reserved(self._device))


class _ProcessMemory:
    """Of this process, as Linux counts it."""

    def __init__(self) -> None:
        self._clear, self._status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
        if not self._clear.exists():
            raise UserError("this system does not tell a process's peak of memory: tune on Linux, or on a GPU")

    def reset(self) -> None:
        ctypes.CDLL(None).malloc_trim(0)
        self._clear.write_text("5")  # sets the peak to what is held now (proc(5))

    def peak(self) -> float:
        line = next(line for line in self._status.read_text().splitlines() if line.startswith("VmHWM"))
        return float(line.split()[1]) * 1024


def tune_on_this_rank(given: dict[str, Any]) -> None:
    """Runs in the one worker of a `TorchTrainer`.

    given: `config`, `start` and `phonemes` as the loop's `Setup` has them, `buckets`, `memory_bytes` (None for all of
        a GPU), and `relay`, an actor that takes what is found.
    """
    import ray
    import ray.train.torch

    device = ray.train.torch.get_device()
    config: TrainingConfig = given["config"]
    first: Recogniser | None = starting_model(config, given["start"], given["phonemes"], device)
    assert first
    buckets = list(dict.fromkeys(_within(first, bucket) for bucket in given["buckets"]))
    in_force: dict[str, Any] = {}

    def start() -> Engine:
        nonlocal first
        recogniser = first or starting_model(config, given["start"], given["phonemes"], device)
        first = None
        engine, freezing = make_engine(recogniser, config, expected_steps=1000)
        recogniser.module.train()
        if freezing:
            freezing.apply(1.0)  # when most learns
        in_force.update(engine.in_force())
        return engine

    memory_bytes = given["memory_bytes"] or torch.cuda.get_device_properties(device).total_memory
    found = largest_batches(start, buckets, device, memory_bytes)
    told = {"buckets": found, "device": device.type, "memory_bytes": memory_bytes}
    ray.get(given["relay"].put.remote(told | {"in_force": in_force}))
