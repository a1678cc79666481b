"""A run that is killed anywhere, and started again, makes the same rows as one that was left alone."""

import hashlib
import json
import os
import re
import subprocess
import sys
import time

import psutil
import pytest

from pipelines.config import SynthesisConfig
from pipelines.lexicon.config import LexiconConfig
from pipelines.manifests.config import ManifestsConfig, SizesConfig
from pipelines.synthesize import synthesize
from pipelines.transcripts.config import ChecksConfig, OpenAIConfig, TranscriptsConfig
from rayapp.manifest import Manifest
from rayapp.plan import count_pieces
from rayapp.storage import join, list_files, open_filesystem

pytestmark = [pytest.mark.slow, pytest.mark.alone]
_PATIENCE_SECONDS = 300


def rows(location):
    manifest = Manifest(location)
    told = [
        (row["slot_id"], row["utterance_id"], row["audio_hash"], row["text"])
        for split in manifest.splits
        for row in manifest.read(split, ["slot_id", "utterance_id", "audio_hash", "text"]).to_pylist()
    ]
    assert len(told) == len(set(told))
    return set(told)


@pytest.fixture
def start(tmp_path):
    """Starts `rayapp synthesize` as a process; whatever still runs at the end is killed."""
    file = tmp_path / "config.json"
    started = []

    def begin(config, output, **environment):
        file.write_text(config.model_copy(update={"output": output}).model_dump_json())
        process = subprocess.Popen(
            [sys.executable, "-m", "rayapp.cli", "synthesize", str(file), "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env=os.environ | environment,
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.wait()


def running(name):
    """Processes that were started from this one and have a name in their command line, which a zombie has not."""
    ours = {process.pid for process in psutil.Process().children(recursive=True)}
    named = [p for p in psutil.process_iter(["cmdline"]) if name in " ".join(p.info["cmdline"] or [])]
    return [process for process in named if process.pid in ours]


def until(condition):
    """Poll; fails where it does not come true in time."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not (value := condition()):
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)
    return value


def shards(output, folder="blocks/round-00"):
    """How many a folder of the staging location beside `output` has."""
    filesystem, path = open_filesystem(output)
    parent, _, name = path.rpartition("/")
    from pyarrow import fs

    for info in filesystem.get_file_info(fs.FileSelector(parent, allow_not_found=True)):
        if info.base_name.startswith(f".{name}.") and info.base_name.endswith(".partial"):
            return len(list_files(join(output.replace(path, info.path), folder), ".parquet"))
    return 0


def writer(body, _tries):
    """A language model that writes the same to the same request, and often what it wrote to another."""
    drawn = int(hashlib.sha256(f"{body['seed']} {body['messages']}".encode()).hexdigest(), 16)
    term = (re.search(r'the term "(.+?)"', body["messages"][-1]["content"]) or ["", "coffee"])[1]
    sentences = [f"We gave {term} to room {(drawn >> shift) % 40}." for shift in range(0, 48, 8)]
    content = json.dumps({"sentences": sentences})
    return 200, {}, {"choices": [{"index": 0, "message": {"role": "assistant", "content": content}}]}


@pytest.fixture
def config(serve):
    """Settings of a run in two groups of workers, one of which asks a server, and in several rounds."""
    sizes = SizesConfig.model_validate(dict.fromkeys(SizesConfig.model_fields, 0) | {"train_per_term": 60})
    return SynthesisConfig(
        lexicon=LexiconConfig(take=4),
        transcripts=TranscriptsConfig(
            generator="openai",
            openai=OpenAIConfig(base_url=serve(writer).url, model="small"),
            checks=ChecksConfig(max_near_duplicates=1),
            rounds=2,
        ),
        manifests=ManifestsConfig(sizes=sizes),
        workers=2,
    )


def test_a_run_whose_worker_driver_node_and_driver_again_are_killed_has_the_same_rows(
    ray, start, config, cluster, s3, tmp_path
):
    alone, output = str(tmp_path / "alone"), s3("killed/speech")
    result = synthesize(config.model_copy(update={"output": alone}))
    assert result.rounds == 2

    run = start(config, output, RAY_ADDRESS=cluster.address)
    until(lambda: shards(output) >= 1)
    running("MapBatches(Worker)")[0].kill()
    until(lambda: shards(output) >= 3)
    run.kill()
    assert shards(output) < count_pieces(f"{alone}/plan/round-00")

    run = start(config, output, RAY_ADDRESS=cluster.address)
    until(lambda: shards(output, "blocks/round-01") >= 1)
    cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
    cluster.add_node(num_cpus=1)
    until(lambda: shards(output, "data") >= 1 or run.poll() is not None)  # the end is near, or there
    run.kill()

    run = start(config, output, RAY_ADDRESS=cluster.address)
    told, _ = run.communicate(timeout=_PATIENCE_SECONDS)
    assert run.returncode == 0
    assert json.loads(told)["total_utterances"] == result.kept
    assert rows(output) == rows(alone)
