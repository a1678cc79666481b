import asyncio
import threading

import numpy as np
import pytest

from rayapp.asr.recogniser import Heard
from rayapp.records import SAMPLE_RATE_HZ
from serve.batcher import Batcher, OverloadError
from serve.config import BatchingConfig
from serve.metrics import RecogniserMetrics


class Device:
    """Runs a batch when it is let, and remembers which."""

    def __init__(self):
        self.short = False
        self.batches, self.threads, self.free, self.busy = [], set(), threading.Semaphore(0), threading.Event()

    def __call__(self, audio, contexts):
        assert len(contexts) == len(audio)
        self.threads.add(threading.get_ident())
        self.busy.set()
        assert self.free.acquire(timeout=10)
        self.busy.clear()
        self.batches.append([len(a) / SAMPLE_RATE_HZ for a in audio])
        if any(not len(a) for a in audio):
            raise ValueError("nothing to hear")
        told = [Heard(f"{len(a) / SAMPLE_RATE_HZ:g}") for a in audio]
        return told[1:] if self.short and len(self.batches) > 1 else told


def clip(seconds):
    return np.zeros(int(seconds * SAMPLE_RATE_HZ), np.float32)


def run(scenario, **settings):
    """scenario: a coroutine function of (batcher, device)."""

    async def main():
        device = Device()
        try:
            return await asyncio.wait_for(
                scenario(Batcher(BatchingConfig(**settings).on("cuda"), RecogniserMetrics()), device), 20
            )
        finally:
            device.free.release(1000)

    return asyncio.run(main())


async def ask(batcher, device, *clips):
    """Requests that queue up while the device is busy with another one."""
    tasks = []
    for stream, seconds in clips:
        tasks.append(asyncio.create_task(batcher.transcribe(device, clip(seconds), stream)))
        await asyncio.sleep(0)
    return tasks


async def occupy(batcher, device):
    task = asyncio.create_task(batcher.transcribe(device, clip(1), "first"))
    await asyncio.to_thread(device.busy.wait, 10)
    return task


def test_what_queued_up_while_the_device_was_busy_is_one_batch_of_one_thread():
    async def scenario(batcher, device):
        first = await occupy(batcher, device)
        tasks = await ask(batcher, device, *((f"r{n}", 2.0) for n in range(9)))
        device.free.release(2)
        heard = await asyncio.gather(first, *tasks)
        assert device.batches == [[1.0], [2.0] * 9]
        assert len(device.threads) == 1
        return [each.text for each in heard]

    assert run(scenario) == ["1"] + ["2"] * 9


def test_batches_keep_to_their_length_and_padding():
    async def scenario(batcher, device):
        first = await occupy(batcher, device)
        tasks = await ask(
            batcher, device, *((f"r{n}", seconds) for n, seconds in enumerate([2, 30, 2.5, 28, 2.2, 29, 30]))
        )
        device.free.release(100)
        await asyncio.gather(first, *tasks)
        return device.batches[1:]

    batches = run(scenario, max_batch_seconds=90)
    assert batches[0] == [2, 2.2, 2.5]
    assert all(max(batch) * len(batch) <= 90 for batch in batches)
    assert sorted(seconds for batch in batches for seconds in batch) == [2, 2.2, 2.5, 28, 29, 30, 30]
    assert len(batches) == 3


def test_a_long_file_in_pieces_does_not_keep_a_short_clip_waiting():
    async def scenario(batcher, device):
        first = await occupy(batcher, device)
        tasks = await ask(batcher, device, *[("lecture", 30.0)] * 8, ("note", 3.0))
        device.free.release(100)
        await asyncio.gather(first, *tasks)
        return device.batches[1]

    assert run(scenario, max_batch_seconds=60) == [3.0]


def test_who_has_waited_too_long_is_next():
    async def scenario(batcher, device):
        first = await occupy(batcher, device)
        tasks = await ask(batcher, device, ("lecture", 30.0), ("note", 3.0))
        device.free.release(100)
        await asyncio.gather(first, *tasks)
        return device.batches[1]

    assert run(scenario, max_wait_seconds=0) == [30.0]


def test_a_batch_is_of_one_model_and_all_of_them_share_the_thread():
    async def scenario(batcher, device):
        other = Device()
        other.free.release(100)
        first = await occupy(batcher, device)
        tasks = await ask(batcher, device, ("a", 2.0))
        tasks += await ask(batcher, other, ("b", 2.0), ("c", 2.0))
        tasks += await ask(batcher, device, ("d", 2.0))
        device.free.release(100)
        await asyncio.gather(first, *tasks)
        assert device.threads == other.threads
        return device.batches[1:], other.batches

    assert run(scenario) == ([[2.0, 2.0]], [[2.0, 2.0]])


def test_who_hangs_up_is_not_heard():
    async def scenario(batcher, device):
        first = await occupy(batcher, device)
        gone, stays = await ask(batcher, device, ("a", 2.0), ("b", 2.0))
        gone.cancel()
        await asyncio.sleep(0)
        assert batcher.queued_seconds == 2.0
        device.free.release(2)
        await asyncio.gather(first, stays)
        return device.batches

    assert run(scenario) == [[1.0], [2.0]]


def test_one_that_fails_costs_no_other():
    async def scenario(batcher, device):
        first = await occupy(batcher, device)
        tasks = await ask(batcher, device, ("a", 0.0), ("b", 0.0), ("c", 0.0))
        tasks += await ask(batcher, device, ("d", 2.0))
        device.free.release(100)
        heard = await asyncio.gather(first, *tasks, return_exceptions=True)
        return [each.text if isinstance(each, Heard) else str(each) for each in heard]

    assert run(scenario, max_padding_share=0.99) == ["1"] + ["nothing to hear"] * 3 + ["2"]


def test_a_device_that_answers_too_little_fails_the_batch_and_the_next_is_heard():
    async def scenario(batcher, device):
        first = await occupy(batcher, device)
        device.short = True
        tasks = await ask(batcher, device, ("a", 2.0))
        device.free.release(2)
        heard = await asyncio.gather(first, *tasks, return_exceptions=True)
        device.short = False
        device.free.release(1)
        return [type(each) for each in [*heard, await batcher.transcribe(device, clip(1), "b")]], batcher.failures

    assert run(scenario) == ([Heard, ValueError, Heard], 0)


def test_a_full_queue_turns_new_requests_away_and_says_when_to_come_again():
    async def scenario(batcher, device):
        first = await occupy(batcher, device)
        (waits,) = await ask(batcher, device, ("a", 9.0))
        with pytest.raises(OverloadError) as turned:
            await batcher.transcribe(device, clip(2), "b")
        more = asyncio.create_task(batcher.transcribe(device, clip(2), "a", admitted=True))
        await asyncio.sleep(0)
        device.free.release(100)
        await asyncio.gather(first, waits, more)
        return turned.value.retry_after_seconds

    assert run(scenario, max_queued_seconds=10) > 0
