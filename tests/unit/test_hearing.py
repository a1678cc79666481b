import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.evaluation import silence
from pipelines.evaluation.hearing import (
    HEARD_SCHEMA,
    SilenceSpeech,
    SplitSpeech,
    Workers,
    _Hearing,
    _places,
    _require_readable,
    hear,
)
from rayapp.errors import UserError
from rayapp.storage import published_folder


@pytest.fixture
def speech(tmp_path):
    rows = [{"utterance_id": "u1", "audio": {"bytes": b"no audio", "path": "a.flac"}, "audio_hash": "h1"}]
    with published_folder(tmp_path / "speech", "speech") as staging:
        (staging / "data").mkdir()
        pq.write_table(pa.Table.from_pylist(rows), staging / "data" / "test-00000-of-00001.parquet")
    return SplitSpeech(str(tmp_path / "speech"), "test")


def test_audio_that_cannot_be_read_is_told_by_its_utterance_and_loses_no_other(speech):
    (told,) = speech.audio([0])
    assert "the audio of u1" in told


def test_a_set_with_audio_that_cannot_be_read_is_refused(speech):
    table = pa.Table.from_pylist([{"row": 0, "problem": speech.audio([0])[0]}], schema=HEARD_SCHEMA)
    with pytest.raises(UserError, match=r"set test: the audio of u1 .*`rayapp manifest validate` lists all such rows"):
        _require_readable(_Hearing("after", "test"), table)


def test_speech_is_known_by_what_its_audio_holds(speech, tmp_path):
    assert speech.speech_id == SplitSpeech(speech.location, "test").speech_id
    assert SilenceSpeech(10).speech_id != SilenceSpeech(5).speech_id


def test_ten_minutes_of_nothing_are_quiet_to_loud_and_always_the_same():
    assert SilenceSpeech(10).count == 40
    clips = SilenceSpeech(10).audio(range(10))
    assert [len(clip) for clip in clips] == [240_000] * 10
    assert not clips[0].any()
    loudest = [float((clip**2).mean() ** 0.5) for clip in clips[1:5]]
    assert loudest == pytest.approx([10 ** (db / 20) for db in (-50, -40, -30, -60)], rel=1e-3)
    assert all((clip == silence.clip(number)).all() for number, clip in enumerate(clips))
    assert max(abs(clip).max() for clip in clips) <= 1.0


def test_what_is_kept_is_read_without_any_worker(tmp_path, speech):
    (tmp_path / "model.nemo").write_bytes(b"weights")
    models, workers = {"after": tmp_path / "model.nemo"}, Workers(str(tmp_path / "heard"), 1, 0)
    ((_, place),) = _places(models, {"test": speech}, workers).items()
    (tmp_path / "heard").mkdir()
    kept = pa.Table.from_pylist([{"row": 0, "text": "start losartan", "words": []}], schema=HEARD_SCHEMA)
    pq.write_table(kept, place)
    heard = hear(models, {"test": speech}, workers, lambda done, total: None)
    assert heard["after", "test"]["text"].to_pylist() == ["start losartan"]
