"""Traces of requests by OpenTelemetry, from the ingress to the device.

Ray Serve makes a span of each request and each call between processes, and carries the trace from one to the other;
ours are inside of them. They tell how long what took, and of how much audio; never what was said.
"""

from __future__ import annotations

import os
import time
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.trace import Span

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor

_tracer = trace.get_tracer("rayapp")
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_NANOSECONDS = 1_000_000_000


def tracing_config() -> dict[str, Any]:
    """For `ray.serve.start`: what OpenTelemetry's own variables say."""
    return {
        "enabled": any(os.environ.get(name) for name in _ENDPOINTS),
        "exporter_import_path": f"{__name__}:{span_processors.__name__}",
        "sampling_ratio": float(os.environ.get("OTEL_TRACES_SAMPLER_ARG") or 1.0),
    }


def span_processors() -> list[SpanProcessor]:
    """To a collector that speaks OTLP by HTTP, or to Langfuse; see `docs/how-to/serve.md`. Ray Serve asks for it."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    return [BatchSpanProcessor(OTLPSpanExporter())]


def span(name: str, **attributes: float | str) -> AbstractContextManager[Span]:
    """A span for the length of a block. It keeps no error that leaves it: messages may tell of the audio."""
    return _tracer.start_as_current_span(
        name, attributes=attributes, record_exception=False, set_status_on_exception=False
    )


def note_span(name: str, began_ago: float, ended_ago: float) -> None:
    """A span that is over, in the current one. Times are seconds before now."""
    now = time.time()
    over = _tracer.start_span(name, start_time=int((now - began_ago) * _NANOSECONDS))
    over.end(int((now - ended_ago) * _NANOSECONDS))
