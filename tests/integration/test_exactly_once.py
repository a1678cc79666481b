"""A run that is killed anywhere, and started again, makes the same rows as one that was left alone."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from pipelines.config import SynthesisConfig
from pipelines.lexicon.config import LexiconConfig
from pipelines.manifests.config import ManifestsConfig, SizesConfig
from pipelines.synthesize import synthesize
from rayapp.manifest import Manifest
from rayapp.storage import join, list_files, open_filesystem

pytestmark = pytest.mark.slow
_PATIENCE_SECONDS = 120


@pytest.fixture(scope="module")
def config():
    sizes = SizesConfig.model_validate(dict.fromkeys(SizesConfig.model_fields, 0) | {"train_everyday": 320, "test": 32})
    return SynthesisConfig(lexicon=LexiconConfig(take=4), manifests=ManifestsConfig(sizes=sizes))


@pytest.fixture(scope="module")
def left_alone(ray, config, tmp_path_factory):
    """The rows of a run that nothing happened to."""
    output = tmp_path_factory.mktemp("alone") / "speech"
    synthesize(config.model_copy(update={"output": str(output)}))
    return rows(output)


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
def start(config, tmp_path):
    """Starts `rayapp synthesize` as a process; whatever still runs at the end is killed."""
    file = tmp_path / "config.json"
    started = []

    def begin(output):
        file.write_text(config.model_copy(update={"output": output}).model_dump_json())
        command = [sys.executable, "-m", "rayapp.cli", "synthesize", str(file), "--json"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)
        started.append(process)
        return process

    yield begin
    for process in started:
        for child in _family(process.pid):
            child.kill()


def _family(pid):
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def until(condition):
    """Poll; fails where it does not come true in time."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not (value := condition()):
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)
    return value


def shards(output):
    """How many the staging location beside `output` has."""
    filesystem, path = open_filesystem(output)
    parent, _, name = path.rpartition("/")
    from pyarrow import fs

    for info in filesystem.get_file_info(fs.FileSelector(parent, allow_not_found=True)):
        if info.base_name.startswith(f".{name}.") and info.base_name.endswith(".partial"):
            return len(list_files(join(output.replace(path, info.path), "blocks", "round-00"), ".parquet"))
    return 0


def test_a_run_whose_worker_and_then_driver_are_killed_goes_on_to_the_same_rows(start, left_alone, s3):
    output = s3("killed/speech")
    run = start(output)
    until(lambda: shards(output) >= 1)
    workers = [p for p in _family(run.pid) if "_Worker" in " ".join(p.cmdline())]
    assert workers
    os.kill(workers[0].pid, signal.SIGKILL)
    before = shards(output)
    until(lambda: shards(output) >= before + 3)
    family = _family(run.pid)
    os.kill(run.pid, signal.SIGKILL)
    until(lambda: not any(process.is_running() and process.status() != "zombie" for process in family))
    assert 0 < shards(output) < 11

    again = start(output)
    told, _ = again.communicate(timeout=_PATIENCE_SECONDS)
    result = json.loads(told)
    assert again.returncode == 0
    assert result["resumed"] >= 32
    assert result["total_utterances"] == len(left_alone)
    assert rows(output) == left_alone
