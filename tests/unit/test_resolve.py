"""From what a recogniser is called to its file; the hub is a server on loopback, asked by `huggingface_hub` itself."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipelines.config import SynthesisConfig
from pipelines.lexicon.config import LexiconConfig
from pipelines.synthesize import prepared
from pipelines.verification.config import VerificationConfig
from pipelines.verification.verify import resolved
from rayapp.asr.resolve import resolve_recogniser
from rayapp.errors import UserError
from rayapp.registry import Registry

SHA = "0123456789abcdef" * 2 + "01234567"
FILES = {
    "nvidia/parakeet": {"README.md": b"# Parakeet", "parakeet.nemo": b"weights of a small bird"},
    "openai/whisper": {"model.safetensors": b"weights of another kind"},
    "nvidia/pair": {"a.nemo": b"one", "more/b.nemo": b"other"},
    "nvidia/gated": {"gated.nemo": b"not for everyone"},
    "openai/whisper-tiny": {
        "config.json": b'{"model_type": "whisper"}',
        "model.safetensors": b"weights",
        "model.fp32-00001-of-00002.safetensors": b"more of them",
        "onnx/model.safetensors": b"for others",
        "pytorch_model.bin": b"a pickle",
        "tf_model.h5": b"for others",
        "flax_model.msgpack": b"for others",
        "tokenizer.json": b"{}",
        "merges.txt": b"",
    },
    "openai/whisper-old": {"config.json": b'{"model_type": "whisper"}', "pytorch_model.bin": b"a pickle"},
    "ward/adapter": {"adapter_config.json": b"{}", "adapter_model.safetensors": b"a little"},
    "facebook/wav2vec": {"config.json": b'{"model_type": "wav2vec2"}', "model.safetensors": b"weights"},
}


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub as tells of a repository and hands out its files."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = self.path.partition("?")[0].strip("/").split("/")
        is_api = parts[:2] == ["api", "models"]
        owner, name, *rest = parts[2:] if is_api else parts
        files = FILES.get(f"{owner}/{name}")
        if files is None:
            self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif not is_api and name == "gated":
            self.answer(403, b"{}", {"X-Error-Code": "GatedRepo"})
        elif not is_api:
            self.answer(200, files["/".join(rest[2:])], {"X-Repo-Commit": SHA})
        elif rest[:1] == ["tree"]:
            tree = [{"type": "file", "path": p, "size": len(data), "oid": _oid(data)} for p, data in files.items()]
            self.answer(200, json.dumps(tree).encode())
        else:
            self.answer(200, json.dumps({"id": f"{owner}/{name}", "sha": SHA, "siblings": []}).encode())

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for header, value in {"ETag": f'"{_oid(body)}"', **(headers or {})}.items():
            self.send_header(header, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def _oid(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


Ask = Callable[..., str]


@pytest.fixture
def ask(tmp_path: Path) -> Iterator[Ask]:
    """Resolves a name in a process of its own, since the hub's client reads the environment once; says what came."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    script = (
        "import sys; from rayapp.asr.resolve import *\n"
        "try: found = resolve_recogniser(sys.argv[1]); "
        "print(found.read_text() if found.is_file() else ' '.join(sorted(p.name for p in found.iterdir())))\n"
        "except UserError as error: print(error)"
    )

    def run(name: str, **environment: str) -> str:
        hub = {
            "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
            "HF_HOME": str(tmp_path / "cache"),
            "HF_HUB_OFFLINE": "0",
            "NO_PROXY": "127.0.0.1",
        }
        done = subprocess.run(
            [sys.executable, "-c", script, name],
            capture_output=True,
            text=True,
            env=os.environ | hub | environment,
            check=True,
        )
        return done.stdout.strip()

    yield run
    server.shutdown()
    server.server_close()


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    """The home of a registry in which `ward` has two versions, the older of them the champion."""
    home = tmp_path / "tracking"
    for key, text in (("1", "older"), ("2", "newer")):
        (tmp_path / "model.nemo").write_text(text)
        version = Registry(home).publish("ward", tmp_path / "model.nemo", "model", {}, [], key, tmp_path)
        Registry(home).promote("ward", version, {"1": "champion", "2": "challenger"}[version])
    return home


def test_a_path_is_taken_as_it_is(tmp_path):
    model = tmp_path / "my model@home.nemo"
    model.touch()
    assert resolve_recogniser(str(model)) == model


def test_a_name_in_the_registry_is_the_version_that_its_alias_has(registry):
    assert resolve_recogniser("ward@challenger", registry).read_text() == "newer"
    assert resolve_recogniser("ward@champion", registry).read_text() == "older"
    assert resolve_recogniser("ward", registry).read_text() == "older"


def test_a_name_that_the_registry_does_not_have_gets_those_that_it_has(registry):
    with pytest.raises(UserError, match="no model word@champion; known: ward@cha"):
        resolve_recogniser("word@champion", registry)


def test_a_version_whose_file_is_gone_is_said(registry):
    resolve_recogniser("ward", registry).unlink()
    with pytest.raises(UserError, match=r"ward@champion at .*model\.nemo, where no model is"):
        resolve_recogniser("ward", registry)


def test_no_registry_is_made_where_there_is_none(tmp_path):
    with pytest.raises(UserError, match=r"ward@champion .* there is none in .*tracking: set MLFLOW_TRACKING_URI"):
        resolve_recogniser("ward", tmp_path / "tracking")
    assert not (tmp_path / "tracking").exists()


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("missing.nemo", "does not exist"),
        ("nvidia/no/such", "is the name of no recogniser"),
        ("s3://bucket/model", "is the name of no recogniser"),
        ("tests/unit", "is a folder without a model"),
    ],
)
def test_what_is_no_name_is_told_which_there_are(name, what):
    with pytest.raises(UserError, match=rf"{name} {what}; give the path .*registry .*Hugging Face's hub"):
        resolve_recogniser(name)


def test_a_model_of_the_hub_is_fetched_once_and_taken_from_the_cache_without_a_network(ask, tmp_path):
    assert "HF_HUB_OFFLINE is set" in ask("nvidia/parakeet", HF_HUB_OFFLINE="1")
    assert ask("nvidia/parakeet") == "weights of a small bird"
    assert not list((tmp_path / "cache").rglob("snapshots/*/README.md"))
    assert ask("nvidia/parakeet", HF_HUB_OFFLINE="1") == "weights of a small bird"
    assert ask("nvidia/parakeet", HF_ENDPOINT="http://127.0.0.1:9") == "weights of a small bird"


def test_a_whisper_of_the_hub_is_its_folder_with_weights_as_safetensors_alone(ask):
    whole = "config.json merges.txt model.safetensors tokenizer.json"
    assert ask("openai/whisper-tiny") == whole
    assert ask("openai/whisper-tiny", HF_HUB_OFFLINE="1") == whole
    assert ask("ward/adapter") == "adapter_config.json adapter_model.safetensors"


def test_a_folder_with_a_whisper_or_an_adapter_is_taken_as_it_is(tmp_path):
    for folder, mark in ((tmp_path / "whole", "config.json"), (tmp_path / "part", "adapter_config.json")):
        folder.mkdir()
        (folder / mark).write_text('{"model_type": "whisper"}')
        assert resolve_recogniser(str(folder)) == folder
    (tmp_path / "config.json").write_text('{"epochs": 3}')
    with pytest.raises(
        UserError, match=r"is a folder without a model; give the path of a \.nemo file or of a folder with"
    ):
        resolve_recogniser(str(tmp_path))


class Catalogue(http.server.BaseHTTPRequestHandler):
    """NGC, with one model."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/v2/stt_en_bird/stt_en_bird.nemo" else 404)
        self.end_headers()
        self.wfile.write(b"weights of a listed bird")

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.slow
def test_a_name_that_nemo_lists_in_ngc_is_fetched_once(tmp_path):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Catalogue)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    script = f"""
from pathlib import Path
from nemo.collections.asr.models import EncDecCTCModelBPE
from nemo.core.classes.common import PretrainedModelInfo
from rayapp.asr.resolve import *

class Birds(EncDecCTCModelBPE):
    @classmethod
    def list_available_models(cls):
        base = "http://127.0.0.1:{server.server_port}/v2"
        return [PretrainedModelInfo(n, "a bird", f"{{base}}/{{n}}/{{n}}.nemo") for n in ("stt_en_bird", "stt_en_gone")]

for name in ("stt_en_bird", "stt_en_gone", "stt_en_unlisted", "stt_en_bird@champion"):
    try: print(resolve_recogniser(name, Path("nowhere")).read_text())
    except UserError as error: print(error)
input()
print(resolve_recogniser("stt_en_bird", Path("nowhere")).read_text())
print(*sorted(p.name for p in Path("cache").rglob("*") if p.is_file()))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"NEMO_CACHE_DIR": "cache", "NO_PROXY": "127.0.0.1"},
    )
    assert process.stdin
    assert process.stdout
    said = [process.stdout.readline().strip() for _ in range(4)]
    server.shutdown()
    server.server_close()
    rest, _ = process.communicate("\n")
    assert said[0] == "weights of a listed bird"
    assert "stt_en_gone cannot be fetched from http://127.0.0.1" in said[1]
    assert "stt_en_unlisted@champion is to be looked up in the registry" in said[2]
    assert "stt_en_bird@champion is to be looked up in the registry" in said[3]
    assert rest.split("\n")[:2] == ["weights of a listed bird", "stt_en_bird.nemo"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nvidia/parrot", "nvidia/parrot does not exist, or is private: correct the name (well-known are nvidia/"),
        ("nvidia/gated", "nvidia/gated must be asked for: accept its terms there, then set HF_TOKEN"),
        ("openai/whisper", "openai/whisper has no .nemo file"),
        ("facebook/wav2vec", "facebook/wav2vec has no .nemo file, and is no Whisper model"),
        ("openai/whisper-old", "openai/whisper-old has no weights as .safetensors"),
        ("nvidia/pair", "nvidia/pair has several .nemo files (a.nemo, more/b.nemo): give the path of one"),
    ],
)
def test_what_the_hub_cannot_give_is_said(ask, name, said):
    assert said in ask(name)


def test_a_hub_that_cannot_be_reached_says_what_to_do(ask):
    said = ask("nvidia/parakeet", HF_ENDPOINT="http://127.0.0.1:9")
    assert "http://127.0.0.1:9 cannot be reached" in said
    assert "copy its .nemo file here and give the path" in said


def test_verification_gets_a_path_and_names_its_setting(tmp_path, registry, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{registry / 'mlflow.db'}")
    config = resolved(VerificationConfig(enabled=True, recogniser="ward@challenger"))
    assert Path(config.recogniser).read_text() == "newer"
    with pytest.raises(UserError, match=r"verification\.recogniser: missing\.nemo does not exist"):
        resolved(VerificationConfig(enabled=True, recogniser="missing.nemo"))
    for unused in (VerificationConfig(recogniser="missing.nemo"), VerificationConfig(enabled=True)):
        assert resolved(unused) == unused


def test_the_driver_of_a_run_hands_its_workers_a_path(registry, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{registry / 'mlflow.db'}")
    config = SynthesisConfig(
        output=str(tmp_path / "speech"),
        lexicon=LexiconConfig(take=8, held_out=2),
        verification=VerificationConfig(enabled=True, recogniser="ward@challenger"),
    )
    ready, _ = prepared(config)
    assert Path(ready.verification.recogniser).read_text() == "newer"
