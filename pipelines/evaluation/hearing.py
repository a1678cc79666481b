"""What recognisers hear in sets of speech, over all workers; nothing is heard twice."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from pipelines.evaluation.silence import CLIP_SECONDS, VERSION, clip, clips
from rayapp.asr.recogniser import Recogniser
from rayapp.errors import UserError
from rayapp.ids import content_id, path_id
from rayapp.manifest import Manifest
from rayapp.ray_session import require_room
from rayapp.records import SAMPLE_RATE_HZ, Audio
from rayapp.storage import join, key_of, open_filesystem, write_file

Progress = Callable[[int, int], None]
_ROWS_PER_TASK = 96
_VERSION = 1
"""Of what is kept: raise it when the same recogniser would be asked otherwise."""
HEARD_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("text", pa.string()),
        (
            "words",
            pa.list_(
                pa.struct(
                    [
                        ("text", pa.string()),
                        *((name, pa.float32()) for name in ("start_seconds", "end_seconds", "confidence")),
                    ]
                )
            ),
        ),
        ("compute_seconds", pa.float64()),
        ("problem", pa.string()),
    ]
)
"""What one recogniser heard in one set: a row for each of its utterances, in order."""


class Speech(Protocol):
    """A set of utterances to listen to."""

    @property
    def speech_id(self) -> str:
        """Changes when what is to be heard does."""
        ...

    @property
    def count(self) -> int: ...

    def audio(self, rows: Sequence[int]) -> list[Audio | str]:
        """The audio of some utterances; of one that cannot be read, why."""
        ...


@dataclass(frozen=True)
class SplitSpeech:
    """A split of a manifest."""

    location: str
    split: str

    @cached_property
    def manifest(self) -> Manifest:
        return Manifest(self.location)

    @property
    def speech_id(self) -> str:
        hashes = self.manifest.read(self.split, ["audio_hash"])["audio_hash"].to_pylist()
        return content_id(key_of(self.location), self.split, hashes)

    @property
    def count(self) -> int:
        return self.manifest.count(self.split)

    def audio(self, rows: Sequence[int]) -> list[Audio | str]:
        from rayapp.audio.codec import decode

        def decoded(row: Mapping[str, Any]) -> Audio | str:
            try:
                return decode((row["audio"] or {}).get("bytes") or b"", name=f"the audio of {row['utterance_id']}")
            except UserError as error:
                return str(error)

        return [*map(decoded, self.manifest.take(self.split, rows, ["utterance_id", "audio"]).to_pylist())]


@dataclass(frozen=True)
class SilenceSpeech:
    """Minutes in which nobody speaks."""

    minutes: float

    @property
    def speech_id(self) -> str:
        return content_id("silence", VERSION, CLIP_SECONDS, self.count)

    @property
    def count(self) -> int:
        return clips(self.minutes)

    def audio(self, rows: Sequence[int]) -> list[Audio | str]:
        return [clip(row) for row in rows]


class _Hearing(NamedTuple):
    """One recogniser and one set."""

    model: str
    speech: str


@dataclass(frozen=True)
class Workers:
    """Who listens, and where what they hear is kept."""

    folder: str
    count: int
    gpus_each: float
    gpu_type: str | None = None

    @property
    def device(self) -> str:
        return "cuda" if self.gpus_each else "cpu"


def hear(
    models: Mapping[str, Path], speech: Mapping[str, Speech], workers: Workers, progress: Progress
) -> dict[tuple[str, str], pa.Table]:
    """What each model hears in each set, by the names of both; needs a running Ray where something is new.

    Raises `UserError` that names utterances whose audio cannot be read: a figure must not depend on what can be.
    """
    hearings = [_Hearing(model, name) for model in models for name in speech]
    places = _places(models, speech, workers)
    new = [hearing for hearing in hearings if not _is_there(places[hearing])]
    heard = dict(_heard_by_ray(new, models, speech, workers, progress)) if new else {}
    for hearing, table in heard.items():
        if not table["problem"].drop_null():
            buffer = io.BytesIO()
            pq.write_table(table, buffer)
            write_file(places[hearing], buffer.getvalue())
    for hearing, table in heard.items():
        _require_readable(hearing, table)
    return {(model, name): _read(place) for (model, name), place in places.items()}


def _places(models: Mapping[str, Path], speech: Mapping[str, Speech], workers: Workers) -> dict[_Hearing, str]:
    """On a GPU and on a CPU not the same is heard as fast, and speed is kept, too."""
    model_ids = {name: path_id(path) for name, path in models.items()}
    speech_ids = {name: source.speech_id for name, source in speech.items()}
    return {
        _Hearing(model, name): join(
            workers.folder, f"{content_id(_VERSION, workers.device, model_ids[model], speech_ids[name])}.parquet"
        )
        for model in models
        for name in speech
    }


def _is_there(place: str) -> bool:
    filesystem, path = open_filesystem(place)
    return bool(filesystem.get_file_info(path).type == fs.FileType.File)


def _read(place: str) -> pa.Table:
    filesystem, path = open_filesystem(place)
    return pq.read_table(path, filesystem=filesystem)


def _heard_by_ray(
    hearings: Sequence[_Hearing],
    models: Mapping[str, Path],
    speech: Mapping[str, Speech],
    workers: Workers,
    progress: Progress,
) -> Iterator[tuple[_Hearing, pa.Table]]:
    """Workers are told which rows to read, and read them: separate reading tasks would need CPUs of their own, and
    wait for ever on a machine whose CPUs the workers have."""
    import ray

    wanted = {name: [h.model for h in hearings if h.speech == name] for name in speech}
    blocks = [
        pa.table({"speech": [name] * len(rows), "row": rows})
        for name, source in speech.items()
        if wanted[name]
        for rows in _slices(source.count)
    ]
    total = sum(block.num_rows for block in blocks)
    require_room(
        workers.count, workers.count * workers.gpus_each, f"lower the workers ({workers.count}) of the evaluation"
    )
    dataset = ray.data.from_arrow(blocks).map_batches(
        _Listener,
        fn_constructor_kwargs={
            "models": {name: path.absolute() for name, path in models.items()},
            "speech": dict(speech),
            "wanted": wanted,
            "device": workers.device,
        },
        batch_size=None,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=workers.count),
        num_cpus=1,
        num_gpus=workers.gpus_each or None,
        accelerator_type=workers.gpu_type if workers.gpus_each else None,
    )
    found: dict[_Hearing, list[pa.Table]] = {hearing: [] for hearing in hearings}
    done = 0
    for table in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
        name = table["speech"][0].as_py()
        for model in wanted[name]:
            mine = table.filter(pa.compute.equal(table["model"], model))
            found[_Hearing(model, name)].append(mine.select(HEARD_SCHEMA.names))
        done += table.num_rows // len(wanted[name])
        progress(done, total)
    for hearing, tables in found.items():
        yield hearing, pa.concat_tables([HEARD_SCHEMA.empty_table(), *tables]).sort_by("row")


def _slices(count: int) -> Iterator[list[int]]:
    for start in range(0, count, _ROWS_PER_TASK):
        yield list(range(start, min(start + _ROWS_PER_TASK, count)))


def _require_readable(hearing: _Hearing, table: pa.Table) -> None:
    problems = table["problem"].drop_null().to_pylist()
    if problems:
        more = f", and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise UserError(
            f"set {hearing.speech}: {'; '.join(problems[:3])}{more}; `rayapp manifest validate` lists all such rows"
        )


class _Listener:
    """All models in one worker: what they need is imported once, and each audio is decoded once."""

    def __init__(
        self,
        models: Mapping[str, Path],
        speech: Mapping[str, Speech],
        wanted: Mapping[str, Sequence[str]],
        device: str,
    ) -> None:
        self._models, self._speech, self._wanted, self._device = models, speech, wanted, device
        self._recognisers: dict[str, Recogniser] = {}

    def __call__(self, rows: pa.Table) -> pa.Table:
        """rows: `speech` (one for all of them) and `row`."""
        name, numbers = rows["speech"][0].as_py(), rows["row"].to_pylist()
        audio = self._speech[name].audio(numbers)
        readable = {row: samples for row, samples in zip(numbers, audio, strict=True) if not isinstance(samples, str)}
        problems = [
            {"row": row, "problem": why} for row, why in zip(numbers, audio, strict=True) if isinstance(why, str)
        ]
        tables = []
        for model in self._wanted[name]:
            heard = pa.Table.from_pylist([*self._heard(model, readable), *problems], schema=HEARD_SCHEMA)
            tables.append(heard.append_column("model", pa.array([model] * heard.num_rows, pa.string())))
        told = pa.concat_tables(tables)
        return told.append_column("speech", pa.array([name] * told.num_rows, pa.string()))

    def _heard(self, model: str, audio: Mapping[int, Audio]) -> Iterator[dict[str, Any]]:
        from rayapp.asr.batching import transcribe_all

        if not audio:
            return
        recogniser = self._open(model)
        started = time.perf_counter()
        heard = transcribe_all(recogniser, list(audio.values()), times=True)
        seconds = time.perf_counter() - started
        whole = sum(map(len, audio.values())) or 1
        for (row, samples), told in zip(audio.items(), heard, strict=True):
            yield {
                "row": row,
                "text": told.text,
                "words": [vars(word) for word in told.words],
                "compute_seconds": seconds * len(samples) / whole,
            }

    def _open(self, model: str) -> Recogniser:
        from rayapp.asr.open import open_recogniser

        if model not in self._recognisers:
            recogniser = self._recognisers[model] = open_recogniser(self._models[model], self._device)
            recogniser.transcribe([clip(1)[:SAMPLE_RATE_HZ]], times=True)  # what is compiled at first use is not timed
        return self._recognisers[model]
