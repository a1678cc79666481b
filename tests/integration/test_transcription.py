"""`rayapp transcribe` on many recordings: stopped anywhere, it goes on, and each has one transcript."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipelines.transcription.config import TranscriptionConfig
from pipelines.transcription.transcribe import transcribe
from rayapp.audio.codec import encode_flac
from rayapp.errors import UserError
from rayapp.ids import path_id
from rayapp.manifest import Manifest

pytestmark = pytest.mark.slow

MANY = 200
PATIENCE_SECONDS = 240


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    from pipelines.speech.espeak import speak

    folder = tmp_path_factory.mktemp("recordings")
    for day, sentence in enumerate(["please start losartan", "come back today", "he takes nothing else"]):
        path = folder / f"day-{day}" / "note.flac"
        path.parent.mkdir()
        path.write_bytes(encode_flac(speak(sentence, "en-us+m3", rate_wpm=160, pitch=50).audio))
    (folder / "broken.wav").write_bytes(b"RIFF")
    return folder


def config(place, output, small_model, **settings):
    model = str(small_model / "model.nemo")
    return TranscriptionConfig(places=(str(place),), output=str(output), model=model, **settings)


def test_a_second_run_hears_what_is_new_and_what_failed(ray, recordings, small_model, tmp_path):
    told = []
    settings = config(recordings, tmp_path / "out", small_model, format="srt")
    first = transcribe(settings, tmp_path, lambda done, total: told.append((done, total)))
    assert (first.transcribed, first.earlier, [each.name for each in first.failures]) == (3, 0, ["broken.wav"])
    assert told[-1] == (4, 4)
    assert json.loads((tmp_path / "out/_failed.jsonl").read_text())["name"] == "broken.wav"
    assert (tmp_path / "out/day-0/note.srt").is_file()
    second = transcribe(settings, tmp_path)
    assert (second.transcribed, second.earlier, len(second.failures)) == (0, 3, 1)


def test_transcripts_of_two_models_or_places_are_not_mixed(recordings, small_model, tmp_path):
    (tmp_path / "out").mkdir()
    origin = tmp_path / "out/_origin.json"
    model = {"model": path_id(small_model / "model.nemo")}
    for before, message in (
        ({"model": "other", "places": []}, "holds transcripts of another model"),
        (model | {"places": ["/monday"]}, "holds transcripts of /monday; choose another folder"),
    ):
        origin.write_text(json.dumps(before))
        with pytest.raises(UserError, match=message):
            transcribe(config(recordings, tmp_path / "out", small_model), tmp_path)


def test_a_manifest_is_heard_as_its_audio(ray, small_manifest, small_model, tmp_path):
    outcome = transcribe(config(small_manifest, tmp_path / "out", small_model, format="parquet", workers=2), tmp_path)
    manifest = Manifest(small_manifest)
    names = [name for split in manifest.splits for name in manifest.read(split)["utterance_id"].to_pylist()]
    assert outcome.transcribed == len(names)
    assert Counter(pq.read_table(tmp_path / "out")["name"].to_pylist()) == Counter(names)


def test_a_run_that_is_killed_goes_on_and_nothing_is_there_twice(recordings, small_model, tmp_path):
    audio = (recordings / "day-0/note.flac").read_bytes()
    (tmp_path / "many").mkdir()
    for number in range(MANY):
        (tmp_path / f"many/{number:03}.flac").write_bytes(audio)
    output, model = tmp_path / "out", str(small_model / "model.nemo")
    command = [sys.executable, "-m", "rayapp.cli", "transcribe", str(tmp_path / "many"), "--json"]
    command += ["--model", model, "--output", str(output)]
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    ends = time.monotonic() + PATIENCE_SECONDS
    while not list(output.glob("transcripts-*.jsonl")):
        assert time.monotonic() < ends
        assert run.poll() is None
        time.sleep(0.02)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    before = rows(output)
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    after = rows(output)
    assert 0 < len(before) < MANY
    assert json.loads(told.stdout)["earlier"] >= len(before)  # a worker may outlive its driver by a chunk
    assert Counter(row["name"] for row in after) == Counter(f"{number:03}.flac" for number in range(MANY))
    assert len({row["text"] for row in after}) == 1


def rows(folder: Path):
    lines = (line for shard in folder.glob("transcripts-*.jsonl") for line in shard.read_text().splitlines())
    return [json.loads(line) for line in lines]
