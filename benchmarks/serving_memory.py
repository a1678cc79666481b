"""Whether the server's memory stays what it is: over thousands of requests, and over one file of hours.

The clips are those of `benchmarks.serving`, 2–6 s long, from 32 clients; the file is speech without end, as FLAC. Told
is resident memory: `*_growth` is that of the last tenth of the time over that of the second tenth (in the first, what
is done once is done), `*_mb` the mean of each tenth.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import soundfile

from benchmarks.serving import CLIENTS, clips, load

_PROCESSES = {"ingress": "Ingress", "recogniser": "RecogniserReplica"}
_SAMPLE_SECONDS = 0.5
_CLIPS, _LONGEST_SECONDS = 256, 6


class Watched:
    """Samples the memory of the server's processes."""

    def __init__(self) -> None:
        mine = psutil.Process().children(recursive=True)
        self._processes = {
            name: next(process for process in mine if mark in " ".join(process.cmdline()))
            for name, mark in _PROCESSES.items()
        }
        self.samples: dict[str, list[float]] = {name: [] for name in _PROCESSES}

    @contextmanager
    def watching(self) -> Iterator[None]:
        over = threading.Event()

        def sample() -> None:
            while not over.wait(_SAMPLE_SECONDS):
                for name, process in self._processes.items():
                    self.samples[name].append(process.memory_info().rss / 1e6)

        thread = threading.Thread(target=sample)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def told(self, kind: str) -> dict[str, Any]:
        tenth = {name: max(len(samples) // 10, 1) for name, samples in self.samples.items()}
        return {
            f"{kind}_growth": {
                name: float(np.mean(samples[-tenth[name] :]) / np.mean(samples[tenth[name] : 2 * tenth[name]]))
                for name, samples in self.samples.items()
            },
            f"{kind}_mb": {
                name: [round(float(part.mean())) for part in np.array_split(samples, 10)]
                for name, samples in self.samples.items()
            },
        }


def measure(model: Path, requests: int, hours: float) -> dict[str, Any]:
    from rayapp.ray_session import ray_session
    from serve.config import ModelConfig, ServeConfig
    from serve.run import free_port, serving

    files = clips(_CLIPS, 2, _LONGEST_SECONDS, 1)
    config = ServeConfig(
        models=(ModelConfig(name="medical-asr", source=str(model)),),
        allow_unreleased=True,
        port=free_port(),
        max_upload_mb=2000,
        max_audio_seconds=3600 * hours + _CLIPS * _LONGEST_SECONDS,
    )
    with ray_session("local"), tempfile.TemporaryDirectory() as home, serving(config, Path(home)) as url:
        many = Watched()
        with many.watching():
            _, _, failed = asyncio.run(load(url, [files[n % len(files)] for n in range(requests)], CLIENTS))
        long = Watched()
        began = time.perf_counter()
        with long.watching():
            answer = httpx.post(
                f"{url}/audio/transcriptions",
                files={"file": ("long.flac", _endless(files, hours))},
                data={"model": "medical-asr"},
                timeout=None,
            )
        seconds = time.perf_counter() - began
    return {
        **many.told("requests"),
        **long.told("file"),
        "failed": failed + (answer.status_code != 200),
        "file_words": len(answer.json().get("text", "").split()),
        "file_rtfx": 3600 * hours / seconds,
        "conditions": {
            "requests": requests,
            "clients": CLIENTS,
            "file_hours": hours,
            "cores": os.cpu_count(),
            "model": str(model),
        },
    }


def _endless(files: list[bytes], hours: float) -> bytes:
    """FLAC of so many hours; the clips again and again."""
    audio = [soundfile.read(io.BytesIO(content), dtype="int16") for content in files]
    rate, buffer, there = audio[0][1], io.BytesIO(), 0
    with soundfile.SoundFile(buffer, "w", rate, 1, format="FLAC") as out:
        while there < 3600 * hours * rate:
            for samples, _ in audio:
                out.write(samples)
                there += len(samples)
    return buffer.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--model", type=Path, required=True, help="a small .nemo model, such as the quickstart's")
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--hours", type=float, default=2.0)
    arguments = parser.parse_args()
    report = measure(arguments.model, arguments.requests, arguments.hours)
    sys.stdout.write(json.dumps(report) + "\n" if arguments.json else "".join(f"{k}: {v}\n" for k, v in report.items()))


if __name__ == "__main__":
    main()
