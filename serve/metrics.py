"""What the server counts: Ray's agent on each node tells it to Prometheus, and `/metrics` of all nodes together.

Ray writes `ray_` before each name, and `_total` after those of counters. No label and no value holds audio or text.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence

import httpx
import ray
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from ray.serve.metrics import Counter, Gauge, Histogram

CONTENT_TYPE = CONTENT_TYPE_LATEST
_PREFIX = "ray_rayapp_"
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
_COUNTS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
_PATIENCE_SECONDS = 5.0


class IngressMetrics:
    """Of uploads and answers."""

    def __init__(self) -> None:
        self.requests = Counter("rayapp_requests", "Requests that were answered.", ("path", "model", "status"))
        self.request_seconds = Histogram(
            "rayapp_request_seconds", "From the first byte to the last of the answer.", _SECONDS, ("path",)
        )
        self.open_requests = Gauge("rayapp_open_requests", "Requests that are being answered.")
        self.audio_seconds = Counter("rayapp_audio_seconds", "Audio that was answered with a text.", ("model",))
        self.stage_seconds = _stage_seconds()
        self.not_kept = Counter("rayapp_requests_not_kept", "Answered, but not kept for audits as they should be.")
        self.failed_updates = Counter(
            "rayapp_failed_model_updates", "Times that the registry was not reached, or a version of it not loaded."
        )
        self.lost_recognisers = Counter(
            "rayapp_lost_recognisers", "Pieces of audio whose recogniser was lost, and another one asked."
        )


class RecogniserMetrics:
    """Of what goes on before and on the device."""

    def __init__(self) -> None:
        self.stage_seconds = _stage_seconds()
        self.pending_seconds = Gauge("rayapp_pending_audio_seconds", "Audio that waits or is listened to.")
        self.batch_size = Histogram("rayapp_batch_size", "Pieces of audio in a batch.", _COUNTS, ("model",))
        self.padding_share = Histogram("rayapp_batch_padding_share", "Share of a batch.", _SHARES, ("model",))
        self.device_seconds = Counter("rayapp_device_seconds", "For which the device was busy.", ("model",))
        self.device_audio_seconds = Counter(
            "rayapp_device_audio_seconds", "Audio that the device listened to.", ("model",)
        )
        self.word_confidence = Histogram("rayapp_word_confidence", "Of the words heard.", _SHARES, ("model",))


def _stage_seconds() -> Histogram:
    return Histogram(
        "rayapp_stage_seconds", "upload and decode: of a request; queue and listen: of a piece.", _SECONDS, ("stage",)
    )


async def exposition() -> bytes:
    """Ours of all nodes, as Prometheus reads it. What is new takes some 10 seconds to get there."""
    nodes = [node for node in await asyncio.to_thread(ray.nodes) if node["Alive"] and node.get("MetricsExportPort")]
    async with httpx.AsyncClient(timeout=_PATIENCE_SECONDS) as http:
        texts = await asyncio.gather(
            *(_of_node(http, node["NodeManagerAddress"], node["MetricsExportPort"]) for node in nodes)
        )
    return generate_latest(_Collected(texts))


async def _of_node(http: httpx.AsyncClient, address: str, port: int) -> str:
    """Empty where the node does not answer: it may just be leaving."""
    try:
        return (await http.get(f"http://{address}:{port}/metrics")).raise_for_status().text
    except httpx.HTTPError:
        return ""


class _Collected(Collector):
    """What several texts tell of the same metrics, together."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = texts

    def collect(self) -> Iterable[Metric]:
        families: dict[str, Metric] = {}
        for text in self._texts:
            for family in text_string_to_metric_families("\n".join(_ours(text)) + "\n"):
                known = families.setdefault(family.name, family)
                if known is not family:
                    known.samples.extend(family.samples)
        return families.values()


def _ours(text: str) -> Iterator[str]:
    """Of the thousands of lines that Ray tells of itself, those that are not."""
    for line in text.splitlines():
        name = line.split(" ", 3)[2] if line.startswith("# ") else line
        if name.startswith(_PREFIX):
            yield line
