import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipelines.transcription.listen import Failure, Transcript, listen
from pipelines.transcription.recordings import Recording, find_recordings
from pipelines.transcription.write import remaining, write_transcripts
from rayapp.asr.recogniser import Heard, Word
from rayapp.audio.codec import encode_flac
from rayapp.errors import UserError
from rayapp.records import SAMPLE_RATE_HZ
from rayapp.storage import write_file


class Seconds:
    """Hears a word for each second, and remembers how much it was given at a time."""

    def __init__(self):
        self.batches = []

    def transcribe(self, audio, *, times=False, contexts=()):
        self.batches.append(sum(map(len, audio)) / SAMPLE_RATE_HZ)
        told = []
        for samples in audio:
            words = tuple(Word(f"w{n}", n + 0.1, n + 0.9) for n in range(round(len(samples) / SAMPLE_RATE_HZ)))
            told.append(Heard(" ".join(word.text for word in words), words))
        return told


@pytest.fixture
def record(spoken, tmp_path):
    """Writes a recording of so many seconds of speech; returns its path."""

    def make(name, seconds=2.0):
        path = tmp_path / "recordings" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_flac(np.resize(spoken().audio, int(seconds * SAMPLE_RATE_HZ))))
        return path

    return make


def test_a_folder_is_searched_and_what_is_named_is_taken(record, tmp_path):
    record("monday/note.flac")
    record("tuesday.WAV")
    record(".trash/old.wav")
    alone = record("strange.dat")
    (tmp_path / "recordings/readme.txt").write_text("notes")
    names = [each.name for each in find_recordings([str(tmp_path / "recordings"), str(alone)])]
    assert names == ["monday/note.flac", "tuesday.WAV", "strange.dat"]


@pytest.mark.parametrize(
    ("places", "message"),
    [
        (["nowhere"], "nowhere does not exist"),
        (["empty"], "has no recordings"),
        (["a", "b"], "two recordings are called"),
    ],
)
def test_places_without_recordings_and_names_that_are_there_twice_are_refused(places, message, record, tmp_path):
    (tmp_path / "recordings/empty").mkdir(parents=True)
    for folder in "ab":
        record(f"{folder}/note.flac")
    with pytest.raises(UserError, match=message):
        find_recordings([str(tmp_path / "recordings" / place) for place in places])


def test_pieces_of_many_recordings_are_batched_and_each_has_its_own_words(record, tmp_path):
    lengths = {"a.flac": 3.0, "b.flac": 70.0, "c.flac": 2.0, "d.flac": 9.0}
    for name, seconds in lengths.items():
        record(name, seconds)
    record("bad.flac").write_bytes(b"not audio")
    recogniser = Seconds()
    recordings = find_recordings([str(tmp_path / "recordings")])
    outcomes = {each.name: each for each in listen(recogniser, recordings, 40.0)}
    assert list(outcomes) == ["a.flac", "b.flac", "bad.flac", "c.flac", "d.flac"]
    assert isinstance(outcomes["bad.flac"], Failure)
    assert outcomes["bad.flac"].reason.startswith("bad.flac ")
    for name, seconds in lengths.items():
        told = outcomes[name]
        assert told.seconds == pytest.approx(seconds, abs=0.01)
        ends = [word.end_seconds for word in told.heard.words]
        assert ends == sorted(ends)
        assert ends[-1] == pytest.approx(seconds, abs=1.5)
    assert max(recogniser.batches) <= 40


def test_an_hour_is_never_held_as_a_whole(spoken, monkeypatch):
    from pipelines.transcription import listen as module

    second, held = np.resize(spoken().audio, SAMPLE_RATE_HZ), []

    def decoded(_file, name):
        yield from (second for _ in range(3600))

    real = module.transcribe_all

    def watched(recogniser, audio, **settings):
        held.append(sum(map(len, audio)) / SAMPLE_RATE_HZ)
        return real(recogniser, audio, **settings)

    monkeypatch.setattr(module, "decoded", decoded)
    monkeypatch.setattr(module, "transcribe_all", watched)
    (told,) = listen(Seconds(), [Recording("hour", __file__, 0, __file__)], 30.0)
    assert told.seconds == 3600
    assert told.heard.words[-1].end_seconds == pytest.approx(3600, abs=1)
    assert max(held) <= 4 * 30.0 + 30.0


WORDS = (Word("Take", 0.1, 0.4, 0.9), Word("losartan.", 0.4, 1.0))
TRANSCRIPTS = [
    Transcript(
        "monday/note.flac", Heard("Take losartan.", (Word("Take", 0.1, 0.4, 0.9), Word("losartan.", 0.4, 1))), 2.0
    ),
    Transcript("silence.wav", Heard(""), 3.0),
]
RECORDINGS = [Recording(name, "", 1) for name in ("monday/note.flac", "silence.wav", "new.mp3")]


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "text", "srt", "vtt"])
def test_what_is_written_need_not_be_heard_again(kind, tmp_path):
    write_transcripts(TRANSCRIPTS, RECORDINGS[:2], str(tmp_path), kind)
    assert [each.name for each in remaining(RECORDINGS, str(tmp_path), kind)] == ["new.mp3"]
    files = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    if kind == "jsonl":
        rows = [json.loads(line) for line in Path(tmp_path, *files).read_text().splitlines()]
        assert [row["text"] for row in rows] == ["Take losartan.", ""]
        assert rows[0]["words"][0] == {"word": "Take", "start": 0.1, "end": 0.4, "confidence": 0.9}
    elif kind == "parquet":
        assert pq.read_table(tmp_path / files[0]).to_pylist()[0]["words"][1]["confidence"] is None
    else:
        suffix = {"text": "txt"}.get(kind, kind)
        assert files == [f"monday/note.{suffix}", f"silence.{suffix}"]
        assert "losartan" in (tmp_path / files[0]).read_text()


def test_recordings_and_transcripts_may_lie_on_s3(record, s3):
    names = ["50 % of it.flac", "monday/note #1?.flac"]
    for name in names:
        write_file(s3("calls"), record("note.flac").read_bytes(), name=name)
    recordings = find_recordings([s3("calls")])
    assert [recording.name for recording in recordings] == names
    told = list(listen(Seconds(), recordings, 40.0))
    assert [len(each.heard.words) for each in told] == [2, 2]
    for kind in ("jsonl", "parquet", "srt"):
        write_transcripts(told, recordings, s3(f"texts-{kind}"), kind)
        assert remaining(recordings, s3(f"texts-{kind}"), kind) == []


def test_a_shard_that_is_written_again_replaces_what_it_had(tmp_path):
    write_transcripts(TRANSCRIPTS[:1], RECORDINGS[:2], str(tmp_path), "jsonl")
    write_transcripts(TRANSCRIPTS, RECORDINGS[:2], str(tmp_path), "jsonl")
    (shard,) = tmp_path.iterdir()
    assert len(shard.read_text().splitlines()) == 2


def test_what_the_model_cannot_hear_costs_no_other(record, tmp_path):
    class Faulty(Seconds):
        def transcribe(self, audio, **settings):
            if any(len(samples) < 2 * SAMPLE_RATE_HZ for samples in audio):
                raise RuntimeError("out of memory")
            return super().transcribe(audio, **settings)

    for name, seconds in {"a.flac": 3.0, "b.flac": 1.5, "c.flac": 4.0}.items():
        record(name, seconds)
    outcomes = list(listen(Faulty(), find_recordings([str(tmp_path / "recordings")]), 40.0))
    assert [type(each) for each in outcomes] == [Transcript, Failure, Transcript]
    assert outcomes[1].reason == "RuntimeError: out of memory"


def test_a_text_may_hold_any_character(tmp_path):
    odd = Transcript("a\u2028b.wav", Heard("one\x85two\u2028three"), 1.0)
    write_transcripts([odd], [Recording(odd.name, "", 1)], str(tmp_path), "jsonl")
    assert remaining([Recording(odd.name, "", 1)], str(tmp_path), "jsonl") == []


def test_two_recordings_do_not_write_one_file(tmp_path):
    both = [Recording("note.wav", "", 1), Recording("note.mp3", "", 1)]
    with pytest.raises(UserError, match=r"note.wav and note.mp3 would both be written to note.srt"):
        remaining(both, str(tmp_path), "srt")
    assert remaining(both, str(tmp_path), "jsonl") == both
