import asyncio
import datetime
import json
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
import yaml
from typer.testing import CliRunner

from rayapp.cli.main import app
from rayapp.errors import UserError
from serve.api import build_api
from serve.config import ServeConfig
from serve.errors import ApiError
from serve.keys import new_key, read_keys
from serve.metrics import IngressMetrics
from serve.models import Catalogue


@pytest.fixture
def keys(tmp_path):
    """A file with one entry, and its key."""

    def make(**limits):
        key, digest = new_key()
        file = tmp_path / "keys.yaml"
        file.write_text(yaml.safe_dump([{"name": "ward-3", "sha256": digest, **limits}]))
        return file, f"Bearer {key}"

    return make


def test_a_key_lets_in_and_its_owner_is_known_by_name(keys):
    file, header = keys()
    with read_keys(file).admitted(header) as name:
        assert name == "ward-3"


@pytest.mark.parametrize(
    ("header", "code"),
    [
        (None, "missing_api_key"),
        ("", "missing_api_key"),
        ("Basic abc", "missing_api_key"),
        ("Bearer ", "missing_api_key"),
    ]
    + [(f"Bearer {text}", "invalid_api_key") for text in ("rk-wrong", "ward-3", "ключ", "0" * 64)],
)
def test_whoever_has_none_is_turned_away(keys, header, code):
    file, _ = keys()
    with pytest.raises(ApiError) as turned, read_keys(file).admitted(header):
        pass
    assert (turned.value.status, turned.value.code) == (401, code)


def test_the_hash_of_a_key_is_no_key(keys):
    file, _ = keys()
    digest = yaml.safe_load(file.read_text())[0]["sha256"]
    with pytest.raises(ApiError, match="not known"), read_keys(file).admitted(f"Bearer {digest}"):
        pass


def test_a_key_expires(keys):
    today = datetime.datetime.now(datetime.UTC).date()
    file, header = keys(expires=today)
    with pytest.raises(ApiError, match="expired on"), read_keys(file).admitted(header):
        pass
    file, header = keys(expires=today + datetime.timedelta(days=1))
    with read_keys(file).admitted(header):
        pass


def test_a_key_has_so_many_requests_at_a_time_and_a_minute(keys, monkeypatch):
    file, header = keys(concurrent=1, requests_per_minute=2)
    known = read_keys(file)
    with known.admitted(header), pytest.raises(ApiError, match="1 requests at a time"), known.admitted(header):
        pass
    with known.admitted(header):
        pass
    with pytest.raises(ApiError, match="2 requests a minute") as turned, known.admitted(header):
        pass
    assert 0 < int(turned.value.headers["retry-after"]) <= 60
    now = time.monotonic()
    monkeypatch.setattr("serve.keys.time.monotonic", lambda: now + 61)
    with known.admitted(header):
        pass


def test_a_request_without_a_key_is_turned_away_before_its_upload_is_taken_in(keys):
    file, header = keys()
    taken = 0

    async def upload():
        nonlocal taken
        for _ in range(100):
            taken += 1
            yield bytes(10_000)

    class Nobody:
        async def is_ready(self):
            return True

    async def main():
        models = ({"name": "medical-asr", "source": "model.nemo"},)
        config = ServeConfig(keys_file=file, models=models, allow_unreleased=True)
        api = build_api(config, Catalogue(config, Path()), Nobody(), IngressMetrics())
        async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://test") as client:
            form = {"content-type": "multipart/form-data; boundary=b"}
            refused = await client.post("/v1/audio/transcriptions", content=upload(), headers=form)
            models = await client.get("/v1/models", headers={"authorization": header})
            return refused, models, await client.get("/healthz")

    refused, models, health = asyncio.run(main())
    assert (refused.status_code, refused.json()["error"]["type"]) == (401, "authentication_error")
    assert refused.headers["x-request-id"]
    assert taken == 0
    assert (models.status_code, health.status_code) == (200, 200)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "must be a list of entries"),
        ("name: x", "must be a list of entries"),
        ("[{name: a}]", "sha256: Field required"),
        ("[{name: a, sha256: rk-secret}]", "sha256: String should match"),
        (f"[{{name: a, sha256: {'a' * 64}}}, {{name: a, sha256: {'b' * 64}}}]", "has name a twice"),
        ("[", "cannot be read"),
    ],
)
def test_a_bad_file_is_named_and_shows_no_secret(tmp_path, content, message):
    (tmp_path / "keys.yaml").write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        read_keys(tmp_path / "keys.yaml")
    assert "rk-secret" not in str(caught.value)


def test_listening_beyond_this_machine_needs_keys(tmp_path):
    with pytest.raises(ValueError, match=r"host 0\.0\.0\.0 is reached from other machines: set keys_file"):
        ServeConfig(host="0.0.0.0")
    assert ServeConfig(host="0.0.0.0", allow_anonymous=True).host == "0.0.0.0"


def test_the_command_makes_a_key_and_its_entry(tmp_path):
    answer = subprocess.run(
        [sys.executable, "-m", "rayapp.cli", "api-key", "ward-3", "--json"], capture_output=True, text=True, check=True
    )
    told = json.loads(answer.stdout)
    (tmp_path / "keys.yaml").write_text(yaml.safe_dump([told["entry"]]))
    with read_keys(tmp_path / "keys.yaml").admitted(f"Bearer {told['key']}") as name:
        assert name == "ward-3"
    assert CliRunner().invoke(app, ["api-key", "ward 3"]).exit_code == 2
