"""What the benchmarks of the stream run in place of real stages; here, so that workers can import it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa

from rayapp.records import SAMPLE_RATE_HZ, Slot, Transcript, Utterance, Voice
from rayapp.stage import Resources, Stage


class Sleep(Stage):
    """Takes its time, and says when."""

    name = "sleep"
    version = 1
    resources = Resources(cpus=0.1, memory_gb=0.1)

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __call__(self, utterance: Utterance) -> Utterance:
        started = time.time()
        time.sleep(self.seconds)
        return utterance.with_step(self.name, self.version, started=started, ended=time.time())


class Hum(Stage):
    """A few words, and a short tone for them: an utterance that costs next to nothing to make."""

    name = "hum"
    version = 1
    resources = Resources(cpus=1.0, memory_gb=0.1)

    def __call__(self, utterance: Utterance) -> Utterance:
        pitch_hz = 100 + utterance.slot.seed % 100
        text = " ".join(f"word{number}" for number in utterance.slot.rng("text").integers(1000, size=8))
        return utterance.with_transcript(Transcript(text, text, (), "en", self.name)).with_audio(
            0.1 * np.sin(np.arange(SAMPLE_RATE_HZ // 2) * 2 * np.pi * pitch_hz / SAMPLE_RATE_HZ)
        )


class Humming:
    """Plans rounds of hums: one in fifty repeats another of the first round, and is planned again."""

    def __init__(self, count: int) -> None:
        self.count = count

    def first(self) -> Iterator[Slot]:
        for index in range(self.count):
            yield self._slot(index, index - 1 if index % 50 == 1 else index)

    def again(self, short: Iterable[Slot], number: int) -> Iterator[Slot]:
        for slot in short:
            index = self.count * number + int(slot.slot_id, 16)
            yield self._slot(index, index)

    def _slot(self, index: int, seed: int) -> Slot:
        return Slot(f"{index:016x}", "train", "none", "none", None, (Voice("none", "none", "none"),), 0.0, seed)


def times_table(utterances: Sequence[Utterance]) -> pa.Table:
    """When `Sleep` began and ended with each utterance."""
    return pa.Table.from_pylist(
        [
            {
                "slot_id": utterance.slot.slot_id,
                "duration_seconds": 0.0,
                "status": utterance.status,
                "reason": utterance.reason,
                "started": min(step.params["started"] for step in utterance.steps),
                "ended": max(step.params["ended"] for step in utterance.steps),
            }
            for utterance in utterances
        ]
    )
