"""`rayapp serve` as its operators see it: metrics, logs and traces, in which there is nothing of what was said."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from prometheus_client.parser import text_string_to_metric_families

from rayapp.audio.codec import encode_flac
from serve.run import free_port

pytestmark = [pytest.mark.slow, pytest.mark.alone]

PATIENCE_SECONDS = 240
REQUEST_ID = uuid.uuid4().hex
NOT_TOLD_HERE = {
    "ray_rayapp_requests_not_kept_total": "wants a request that retention should have kept, and could not",
    "ray_rayapp_failed_model_updates_total": "wants a registry that is away",
    "ray_rayapp_lost_recognisers_total": "wants a recogniser that dies",
    "ray_rayapp_word_confidence": "wants a word: a model of six steps hears none",
}
"""Beginnings of names, and why they are not looked for: Ray tells nothing of what was never counted."""


@pytest.fixture(scope="module")
def collector():
    """Takes traces by OTLP; yields its address and the spans that came so far."""
    spans = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            request = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["content-length"])))
            spans.extend(
                span for resource in request.resource_spans for scope in resource.scope_spans for span in scope.spans
            )
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", spans
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def observed(collector, small_model, tmp_path_factory):
    """A server that was asked once; its address, what it answered, and the folder of its logs."""
    from pipelines.speech.espeak import speak

    folder, port = tmp_path_factory.mktemp("ray"), free_port()
    models = json.dumps([{"name": "medical-asr", "source": str(small_model / "model.nemo")}])
    command = [sys.executable, "-m", "rayapp.cli", "serve", "--json"]
    for setting in (f"port={port}", f"models={models}", "allow_unreleased=true"):
        command += ["--set", setting]
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector[0],
        "OTEL_BSP_SCHEDULE_DELAY": "200",
        "RAY_metrics_report_interval_ms": "500",
    }
    with (folder / "out.json").open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=os.environ | environment)
    try:
        url = f"http://127.0.0.1:{port}"
        until(lambda: process.poll() is None and answered(f"{url}/readyz"))
        files = {
            "file": ("ann-smith.flac", encode_flac(speak("start losartan", "en-us", rate_wpm=160, pitch=50).audio))
        }
        answer = httpx.post(
            f"{url}/v1/audio/transcriptions",
            files=files,
            data={"model": "medical-asr", "keywords[]": "losartan"},
            headers={"x-request-id": REQUEST_ID},
            timeout=60,
        )
        assert answer.status_code == 200, answer.text
        yield url, answer
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0


def answered(url):
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False


def until(told):
    """What is told as soon as that is something."""
    ends = time.monotonic() + PATIENCE_SECONDS
    while not (found := told()):
        assert time.monotonic() < ends
        time.sleep(0.2)
    return found


def test_metrics_of_all_processes_are_at_one_address(observed):
    url, _ = observed

    def told():
        samples = [s for f in text_string_to_metric_families(httpx.get(f"{url}/metrics").text) for s in f.samples]
        stages = {s.labels["stage"] for s in samples if s.name == "ray_rayapp_stage_seconds_count"}
        return samples if stages == {"upload", "decode", "queue", "listen"} else None

    samples = until(told)
    (asked,) = [s for s in samples if s.name == "ray_rayapp_requests_total" and s.labels["path"].endswith("tions")]
    assert (asked.value, asked.labels["status"], asked.labels["model"]) == (1, "200", "medical-asr")


def test_prometheus_finds_what_the_dashboard_the_alerts_and_a_scaler_ask_for(
    observed, prometheus, monitoring, metric_names
):
    url, _ = observed
    watching = prometheus(static_configs=[{"targets": [url.removeprefix("http://")]}])
    expressions = monitoring.expressions("serving", "serving-alerts")
    asked = {metric for expression in expressions for metric in metric_names(expression)}
    manifest = (monitoring.folder.parent / "serving/rayservice.yaml").read_text()
    (of_a_scaler,) = re.findall(r"ray_rayapp_\w+", manifest)
    here = {metric for metric in {*asked, of_a_scaler} if not metric.startswith(tuple(NOT_TOLD_HERE))}
    assert len(here) > 10
    assert watching.missing(here) == set()


def test_a_request_is_one_line_of_the_log(observed):
    def told():
        files = Path("/tmp/ray").glob("session_2*/logs/serve/replica_rayapp_*")
        lines = [line for file in files for line in file.read_text().splitlines() if REQUEST_ID in line]
        return [each for each in map(json.loads, lines) if each.get("path") == "/v1/audio/transcriptions"]

    (line,) = until(told)
    assert {name: line[name] for name in ("method", "status", "model", "request_id")} == {
        "method": "POST",
        "status": 200,
        "model": "medical-asr",
        "request_id": REQUEST_ID,
    }
    assert 0 < line["audio_seconds"] < 5
    assert not [word for word in ("losartan", "ann-smith") if word in json.dumps(line)]


def test_a_trace_goes_from_the_request_to_the_device(observed, collector):
    _, spans = collector

    def told():
        traces = {span.trace_id: {} for span in spans}
        for span in spans:
            traces[span.trace_id][span.name] = span
        return next((each for each in traces.values() if {"decode", "piece", "queue", "listen"} <= set(each)), None)

    trace = until(told)
    handled = {f"replica_handle_request {name}" for name in ("_Ingress __call__", "RecogniserReplica transcribe")}
    assert handled <= set(trace)
    assert trace["piece"].start_time_unix_nano <= trace["listen"].start_time_unix_nano
    assert not [word for word in ("losartan", "ann-smith") if word in str(trace)]
