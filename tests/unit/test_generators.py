"""What every generator of sentences keeps to, and when a run is another run."""

import http.server
import json
import os
import subprocess
import sys
import threading
import typing

import pytest

from pipelines.config import SynthesisConfig
from pipelines.speech.config import SpeechConfig
from pipelines.synthesize import groups, run_key
from pipelines.transcripts.config import JudgeConfig, OpenAIConfig, TranscriptsConfig, VllmConfig
from pipelines.transcripts.generators import GENERATORS, make_generator
from pipelines.transcripts.styles import all_styles

COMMIT = "0123456789abcdef" * 2 + "01234567"


def test_the_settings_name_each_generator_that_there_is():
    named = typing.get_args(TranscriptsConfig.model_fields["generator"].annotation)
    assert set(named) == set(GENERATORS)


@pytest.mark.parametrize("name", GENERATORS)
def test_a_generator_says_what_goes_into_the_stream_and_what_its_sentences_depend_on(name):
    config = TranscriptsConfig(generator=name)
    generator = make_generator(config, [])
    assert generator.steps()
    assert set(map(repr, all_styles(config))) <= set(generator.identity())


@pytest.mark.parametrize("name", GENERATORS)
def test_a_judge_follows_whichever_generator_in_workers_that_hold_no_cpu(name):
    judge = JudgeConfig(base_url="http://127.0.0.1:9/v1", model="small")
    config = SynthesisConfig(transcripts=TranscriptsConfig(generator=name, judge=judge))
    written, judging, *_ = groups(config)
    assert [stage.func.name for stage in judging.stages] == ["judge"]
    assert judging.resources.cpus == 0
    assert all(stage.func.name == "transcript" for stage in getattr(written, "stages", []))


def key_of(**settings):
    return run_key(SynthesisConfig(**settings))


def test_the_key_of_a_run_changes_with_the_styles_and_the_server_that_write_it():
    transcripts = [
        TranscriptsConfig(),
        TranscriptsConfig(styles={"dialogue_en": 1}),
        TranscriptsConfig(generator="openai"),
        TranscriptsConfig(generator="openai", openai=OpenAIConfig(model="other")),
        TranscriptsConfig(generator="openai", openai=OpenAIConfig(base_url="http://elsewhere/v1")),
    ]
    assert len({key_of(transcripts=config) for config in transcripts}) == len(transcripts)


@pytest.fixture
def language_model(tmp_path):
    """Settings of a model, an adapter and a chat template, which are files of a few bytes."""
    for folder, files in {"model": ["config.json", "model.safetensors"], "adapter": ["adapter_config.json"]}.items():
        (tmp_path / folder).mkdir()
        for file in files:
            (tmp_path / folder / file).write_text('{"r": 8}')
    (tmp_path / "template.jinja").write_text("{{ messages }}")
    paths = {"model": "model", "lora": "adapter", "chat_template": "template.jinja"}
    return VllmConfig(**{name: str(tmp_path / path) for name, path in paths.items()})


@pytest.mark.parametrize(
    "file", ["model/config.json", "model/model.safetensors", "adapter/adapter_config.json", "template.jinja"]
)
def test_the_key_of_a_run_changes_with_what_a_model_its_adapter_and_its_template_hold(language_model, tmp_path, file):
    transcripts = TranscriptsConfig(generator="vllm", vllm=language_model)
    before = key_of(transcripts=transcripts)
    assert key_of(transcripts=transcripts) == before
    (tmp_path / file).write_text('{"r": 16}')
    assert key_of(transcripts=transcripts) != before


def test_the_key_of_a_run_does_not_change_with_how_many_engines_write_it(language_model):
    more = language_model.model_copy(update={"workers": 4, "gpus": 0.0, "batch_size": 8})
    keys = [key_of(transcripts=TranscriptsConfig(generator="vllm", vllm=config)) for config in (language_model, more)]
    assert keys[0] == keys[1]


def test_a_model_of_the_hub_is_known_by_its_commit_where_the_cache_has_it(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    generator = make_generator(TranscriptsConfig(generator="vllm", vllm=VllmConfig(model="small/llama")), [])
    assert COMMIT not in generator.identity()
    repository = tmp_path / "models--small--llama"
    for path, text in {"refs/main": COMMIT, f"snapshots/{COMMIT}/config.json": "{}"}.items():
        (repository / path).parent.mkdir(parents=True)
        (repository / path).write_text(text)
    assert COMMIT in generator.identity()


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub as hands out the settings of one model."""

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        known = self.path.startswith("/small/llama/")
        self.send_response(200 if known else 404)
        for name, value in ({"X-Repo-Commit": COMMIT} if known else {"X-Error-Code": "RepoNotFound"}).items():
            self.send_header(name, value)
        self.send_header("ETag", '"1"')
        self.send_header("Content-Length", "2")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(b"{}")

    def log_message(self, *_):
        pass


def test_the_hub_is_asked_for_a_model_that_is_not_here_and_one_it_lacks_is_refused(tmp_path):
    """In a process of its own, since the hub's client reads the environment once."""
    script = (
        "import sys\n"
        "from pipelines.transcripts.config import TranscriptsConfig, VllmConfig\n"
        "from pipelines.transcripts.generators import make_generator\n"
        "from rayapp.errors import UserError\n"
        "for model in sys.argv[1:]:\n"
        "    generator = make_generator(TranscriptsConfig(generator='vllm', vllm=VllmConfig(model=model)), [])\n"
        "    try:\n"
        "        generator.check()\n"
        "        print(generator.identity()[-3])\n"
        "    except UserError as error:\n"
        "        print(error)\n"
    )
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")} | {
            "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
            "HF_HUB_OFFLINE": "0",
            "HF_HOME": str(tmp_path),
        }
        command = [sys.executable, "-c", script, "small/llama", "small/lama"]
        said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        server.shutdown()
    there, missing = said.stdout.splitlines()
    assert there == COMMIT
    assert missing.startswith(
        "vllm.model: the hub does not give small/lama (RepositoryNotFoundError); correct the name"
    )


@pytest.fixture
def coqui(tmp_path):
    """Settings of a Coqui model and a vocoder, which are files of a few bytes, and of recordings to clone."""
    for folder in ("model", "vocoder"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "config.json").write_text(json.dumps({"model": folder}))
        (tmp_path / folder / "model_file.pth").write_bytes(b"weights")
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "ann.wav").write_bytes(b"RIFF")
    return {
        "model": str(tmp_path / "model"),
        "vocoder": str(tmp_path / "vocoder" / "model_file.pth"),
        "reference_clips": str(tmp_path / "clips"),
    }


@pytest.mark.parametrize(
    "file",
    ["model/config.json", "model/model_file.pth", "vocoder/config.json", "vocoder/model_file.pth", "clips/a.wav"],
)
def test_the_key_of_a_run_changes_with_what_its_voices_are_made_of(coqui, tmp_path, file):
    speech = SpeechConfig.model_validate({"engine": "coqui", "coqui": coqui})
    before = key_of(speech=speech)
    assert key_of(speech=speech) == before
    (tmp_path / file).write_text('{"other": true}')
    assert key_of(speech=speech) != before
