"""Traces tell how long what took, and nothing of what was said."""

import asyncio
from pathlib import Path

import httpx
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from rayapp.audio.codec import encode_flac
from serve import tracing
from serve.api import build_api
from serve.config import ServeConfig
from serve.metrics import IngressMetrics
from serve.models import Catalogue


@pytest.fixture
def spans(monkeypatch):
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(tracing, "_tracer", provider.get_tracer("tests"))
    return exporter.get_finished_spans


class Faulty:
    async def transcribe(self, *_):
        raise RuntimeError("losartan")


def test_neither_trace_nor_log_tells_of_a_faults_message(spans, spoken, caplog):
    config = ServeConfig(models=[{"name": "medical-asr", "source": "model.nemo"}], allow_unreleased=True)
    api = build_api(config, Catalogue(config, Path()), Faulty(), IngressMetrics())

    async def main():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://test") as client:
            return await client.post(
                "/v1/audio/transcriptions",
                files={"file": ("ann-smith.flac", encode_flac(spoken().audio))},
                data={"model": "medical-asr", "prompt": "losartan"},
            )

    with caplog.at_level("INFO", "ray.serve"):
        answer = asyncio.run(main())
    assert answer.status_code == 500
    told = caplog.text + "".join(span.to_json() for span in spans())
    assert {span.name for span in spans()} == {"decode", "piece"}
    assert "RuntimeError" in told
    assert not [word for word in ("losartan", "ann-smith") if word in told]


def test_what_is_over_has_the_times_that_it_took(spans):
    tracing.note_span("queue", 3.0, 1.0)
    (span,) = spans()
    assert (span.end_time - span.start_time) / 1e9 == pytest.approx(2.0, abs=1e-3)


def test_opentelemetrys_own_variables_say_whether_there_are_traces(monkeypatch):
    assert not tracing.tracing_config()["enabled"]
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.25")
    assert tracing.tracing_config() == {
        "enabled": True,
        "exporter_import_path": "serve.tracing:span_processors",
        "sampling_ratio": 0.25,
    }
