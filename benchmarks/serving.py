"""The server beside the same model called directly, and beside a plain server that calls the model for each request.

The clips are sentences of espeak-ng, one after the other to a length that is drawn uniformly, as FLAC. All arms run the
recogniser on core 0 with one thread; clients, ingress, and HAProxy as Ray Serve's proxy have the other cores.

- `of_offline_limit`: clips of 2–30 s from 32 clients at a time; audio seconds in a second over those of
  `transcribe_all` on the same clips, decoded beforehand and sorted into the best of several batch sizes.
- `over_naive`: clips of 2–6 s from 32 clients; over FastAPI and uvicorn with `model.transcribe([file])` in the route.
- `latency_*`: one client; `asked_ms` is 1.3 times the direct call, plus 15 ms.
- `p95_over_p50`: of the latencies of the 32 clients on the short clips, which are alike in length.
- `failed`: requests that had no 200.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import numpy as np
import psutil
from fastapi import FastAPI, UploadFile

RECOGNISER_CORE = 0
CLIENTS = 32
_BATCH_SECONDS = (30, 60, 120, 240)


def clips(count: int, low: float, high: float, seed: int) -> list[bytes]:
    """FLAC of speech, each between so many seconds long."""
    from pipelines.speech.espeak import speak
    from pipelines.transcripts.grammar import load_grammar
    from rayapp.audio.codec import encode_flac
    from rayapp.records import SAMPLE_RATE_HZ

    rng, grammar = np.random.default_rng(seed), load_grammar("everyday_en")
    patterns = list(grammar.patterns)
    spoken = [
        np.concatenate(
            [
                speak(grammar.write(patterns[n % len(patterns)], None, rng).text, voice, rate_wpm=165, pitch=50).audio,
                gap,
            ]
        )
        for n, voice in zip(range(64), itertools.cycle(["en-us+m3", "en-gb-x-rp+f1", "en+john"]), strict=False)
        for gap in [np.zeros(int(0.2 * SAMPLE_RATE_HZ), np.float32)]
    ]
    made = []
    for length in rng.uniform(low, high, count):
        parts: list[np.ndarray] = []
        while sum(map(len, parts)) < length * SAMPLE_RATE_HZ:
            parts.append(spoken[int(rng.integers(len(spoken)))])
        made.append(encode_flac(np.concatenate(parts)[: int(length * SAMPLE_RATE_HZ)]))
    return made


def offline(model: Path, folder: Path) -> dict[str, Any]:
    """In a process of its own on the recogniser's core: audio seconds in a second, and milliseconds of single calls."""
    _alone()
    from rayapp.asr.batching import transcribe_all
    from rayapp.asr.open import open_recogniser
    from rayapp.audio.codec import decode
    from rayapp.records import SAMPLE_RATE_HZ

    recogniser = open_recogniser(model, "cpu")
    found: dict[str, Any] = {}
    for kind in ("long", "short"):
        audio = [decode(path) for path in sorted(folder.glob(f"{kind}-*.flac"))]
        seconds = sum(map(len, audio)) / SAMPLE_RATE_HZ
        transcribe_all(recogniser, audio[:16], times=True)
        rates = {}
        for size in _BATCH_SECONDS:
            began = time.perf_counter()
            transcribe_all(recogniser, audio, times=True, max_batch_seconds=size)
            rates[size] = seconds / (time.perf_counter() - began)
        found[kind] = max(rates.values())
        single = []
        for samples in audio[:40]:
            began = time.perf_counter()
            recogniser.transcribe([samples], times=True)
            single.append(1000 * (time.perf_counter() - began))
        found[f"{kind}_ms"] = median(single)
    return found


def naive(model: Path, port: int) -> None:
    """A server as it is often written: each request is a file, and a call of NeMo's `transcribe`."""
    _alone()
    import uvicorn
    from nemo.collections.asr.models import ASRModel
    from omegaconf import open_dict

    recogniser = ASRModel.restore_from(str(model), map_location="cpu")
    recogniser.eval()
    with open_dict(recogniser.cfg):
        recogniser.cfg.setdefault("validation_ds", {})  # NeMo's `transcribe` reads it
    api = FastAPI()

    @api.post("/v1/audio/transcriptions")
    async def transcribe(file: UploadFile) -> dict[str, str]:
        with tempfile.NamedTemporaryFile(suffix=".flac") as copy:
            copy.write(await file.read())
            copy.flush()
            (heard,) = recogniser.transcribe([copy.name], batch_size=1, verbose=False)
        return {"text": heard.text}

    @api.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    uvicorn.run(api, host="127.0.0.1", port=port, log_level="error")


def _alone() -> None:
    import torch

    os.sched_setaffinity(0, {RECOGNISER_CORE})
    torch.set_num_threads(1)


async def load(url: str, files: Sequence[bytes], clients: int) -> tuple[float, list[float], int]:
    """Seconds in all, milliseconds of each request, and how many failed."""
    waiting, latencies, failed = list(files)[::-1], list[float](), 0

    async def client(http: httpx.AsyncClient) -> None:
        nonlocal failed
        while waiting:
            file, began = waiting.pop(), time.perf_counter()
            answer = await http.post(
                f"{url}/audio/transcriptions",
                files={"file": ("a.flac", io.BytesIO(file))},
                data={"model": "medical-asr", "response_format": "json"},
            )
            latencies.append(1000 * (time.perf_counter() - began))
            failed += answer.status_code != 200

    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(timeout=600, limits=limits) as http:
        began = time.perf_counter()
        await asyncio.gather(*(client(http) for _ in range(clients)))
        return time.perf_counter() - began, latencies, failed


@contextlib.contextmanager
def our_server(model: Path) -> Iterator[str]:
    from rayapp.ray_session import ray_session
    from serve.config import ModelConfig, ServeConfig
    from serve.run import free_port, serving

    models = (ModelConfig(name="medical-asr", source=str(model)),)
    config = ServeConfig(models=models, allow_unreleased=True, port=free_port())
    os.environ["RAY_SERVE_ENABLE_HA_PROXY"] = "1"  # as on a cluster: Ray's own proxy takes twice the time of a request
    with ray_session("local"), tempfile.TemporaryDirectory() as home, serving(config, Path(home)) as url:
        for name in ("ProxyActor", "haproxy", "HAProxyManager", "ServeController", "raylet", "gcs_server"):
            pin(name, _others())
        pin("Ingress", _others(), at_least=1)
        pin("RecogniserReplica", {RECOGNISER_CORE}, at_least=1)
        yield url


@contextlib.contextmanager
def naive_server(model: Path) -> Iterator[str]:
    from serve.run import free_port

    port = free_port()
    command = [sys.executable, "-m", "benchmarks.serving", "--arm", "naive", "--model", str(model), "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 180
        while True:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"http://127.0.0.1:{port}/healthz").status_code == 200:
                    break
            if time.monotonic() > until or process.poll() is not None:
                raise RuntimeError("the plain server did not start")
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(30)


def pin(name: str, cores: set[int], *, at_least: int = 0) -> None:
    """Every thread of our processes that are called so. Raises `RuntimeError` where there are too few."""
    mine = psutil.Process().children(recursive=True)
    found = [process for process in mine if name in " ".join(process.cmdline())]
    if len(found) < at_least:
        raise RuntimeError(f"no process is called {name}")
    for process in found:
        for thread in Path(f"/proc/{process.pid}/task").iterdir():
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(int(thread.name), cores)


def _others() -> set[int]:
    return set(range(os.cpu_count() or 1)) - {RECOGNISER_CORE} or {RECOGNISER_CORE}


def measure(model: Path, requests: int) -> dict[str, Any]:
    from rayapp.audio.codec import decode
    from rayapp.records import SAMPLE_RATE_HZ

    with tempfile.TemporaryDirectory() as folder:
        files = {"long": clips(requests, 2, 30, 0), "short": clips(requests, 2, 6, 1)}
        for kind, made in files.items():
            for number, content in enumerate(made):
                (Path(folder) / f"{kind}-{number:04d}.flac").write_bytes(content)
        seconds = {kind: sum(len(decode(f)) for f in made) / SAMPLE_RATE_HZ for kind, made in files.items()}
        os.sched_setaffinity(0, _others())
        direct = [_offline(model, folder)]
        with our_server(model) as url:
            asyncio.run(load(url, files["short"][:64], CLIENTS))  # whatever is slow once
            long_wall, long_ms, failed_long = asyncio.run(load(url, files["long"], CLIENTS))
            short_wall, short_ms, failed_short = asyncio.run(load(url, files["short"], CLIENTS))
            _, alone_ms, failed_alone = asyncio.run(load(url, files["short"][:40], 1))
        direct.append(_offline(model, folder))
        with naive_server(model) as url:
            asyncio.run(load(url, files["short"][:4], 1))
            few = files["short"][: max(requests // 4, CLIENTS)]
            naive_wall, _, failed_naive = asyncio.run(load(url, few, CLIENTS))
    limit = {name: sum(each[name] for each in direct) / len(direct) for name in direct[0]}
    few_seconds = sum(len(decode(f)) for f in few) / SAMPLE_RATE_HZ
    rates = {
        "long": seconds["long"] / long_wall,
        "short": seconds["short"] / short_wall,
        "naive": few_seconds / naive_wall,
    }
    return {
        "of_offline_limit": rates["long"] / limit["long"],
        "over_naive": rates["short"] / rates["naive"],
        "latency_ms": median(alone_ms),
        "latency_direct_ms": limit["short_ms"],
        "latency_asked_ms": 1.3 * limit["short_ms"] + 15,
        "p95_over_p50": float(np.percentile(short_ms, 95) / np.percentile(short_ms, 50)),
        "p95_over_p50_long": float(np.percentile(long_ms, 95) / np.percentile(long_ms, 50)),
        "failed": failed_long + failed_short + failed_alone,
        "failed_naive": failed_naive,
        "audio_seconds_per_second": {**rates, "offline": limit["long"], "offline_short": limit["short"]},
        "conditions": {
            "requests": requests,
            "clients": CLIENTS,
            "mean_seconds": {kind: total / requests for kind, total in seconds.items()},
            "cores": os.cpu_count(),
            "model": str(model),
        },
    }


def _offline(model: Path, folder: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.serving", "--arm", "offline", "--model", str(model), "--clips", folder]
    told = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True).stdout
    found: dict[str, Any] = json.loads(told.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--model", type=Path, required=True, help="a small .nemo model, such as the quickstart's")
    parser.add_argument("--requests", type=int, default=256)
    parser.add_argument("--arm", choices=("offline", "naive"), help=argparse.SUPPRESS)
    parser.add_argument("--clips", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.arm == "naive":
        naive(arguments.model, arguments.port)
        return
    if arguments.arm == "offline":
        sys.stdout.write(json.dumps(offline(arguments.model, arguments.clips)) + "\n")
        return
    report = measure(arguments.model, arguments.requests)
    sys.stdout.write(json.dumps(report) + "\n" if arguments.json else "".join(f"{k}: {v}\n" for k, v in report.items()))


if __name__ == "__main__":
    main()
