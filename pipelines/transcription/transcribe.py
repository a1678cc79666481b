"""Any number of recordings to text over Ray Data. A run that was killed goes on, and no transcript is there twice."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipelines.transcription.config import TranscriptionConfig
from pipelines.transcription.listen import Failure, Transcript, listen
from pipelines.transcription.recordings import Recording, find_recordings
from pipelines.transcription.write import remaining, write_transcripts
from rayapp.asr.resolve import resolve_recogniser
from rayapp.errors import UserError
from rayapp.ids import path_id
from rayapp.ray_session import require_room
from rayapp.storage import join, open_filesystem, remove_file, write_file

FAILED = "_failed.jsonl"
"""What could not be listened to, and why; tried again by the next run. Readers of folders pass over such names."""
_ORIGIN = "_origin.json"
"""Which model made the transcripts of a folder, and of what: they are known by names within the places."""
_MOST_DEATHS = 2
"""Of workers, that a chunk survives."""
_CHUNK_RECORDINGS, _CHUNK_BYTES = 64, 64 << 20
"""Of a shard, and of what a worker that dies has done for nothing."""


@dataclass(frozen=True)
class Transcribed:
    """What became of the recordings."""

    transcribed: int
    earlier: int
    """Had a transcript from an earlier run."""
    failures: tuple[Failure, ...]
    seconds: float
    """Of the audio that was listened to."""


def transcribe(
    config: TranscriptionConfig, home: Path, progress: Callable[[int, int], None] = lambda done, total: None
) -> Transcribed:
    """Write a transcript of each recording that has none in the output yet.

    home: folder of the registry. progress: is told how many recordings are done, of how many.

    Raises `UserError` for places without recordings, a model that cannot be had, an output that another model made, or
    that is of other places, and more workers than this machine has room for.
    """
    import ray

    config = config.model_copy(update={"places": tuple(map(_whole, config.places)), "output": _whole(config.output)})
    model = resolve_recogniser(config.model, home).absolute()
    recordings = find_recordings(config.places)
    _claim(config.output, {"model": path_id(model), "places": list(config.places)})
    left = remaining(recordings, config.output, config.format)
    earlier, failures, seconds = len(recordings) - len(left), list[Failure](), 0.0
    done = earlier
    if left:
        require_room(config.workers, config.workers * config.gpus_per_worker, f"lower workers ({config.workers})")
        chunks = [{"recordings": json.dumps([asdict(each) for each in chunk])} for chunk in _chunks(left)]
        with warnings.catch_warnings():
            # Ray Data has no other way to say `max_task_retries`, and deprecates this one.
            warnings.simplefilter("ignore")
            receipts = ray.data.from_items(chunks, override_num_blocks=len(chunks)).map_batches(
                Worker,
                fn_constructor_args=(model, config),
                batch_size=1,
                compute=ray.data.ActorPoolStrategy(size=min(config.workers, len(chunks))),
                num_cpus=1,
                num_gpus=config.gpus_per_worker,
                accelerator_type=config.gpu_type if config.gpus_per_worker else None,
                max_task_retries=_MOST_DEATHS,
            )
        progress(done, len(recordings))
        for receipt in receipts.iter_rows():
            failures += [Failure(*each) for each in json.loads(receipt["failures"])]
            seconds += receipt["seconds"]
            done += receipt["recordings"]
            progress(done, len(recordings))
    _tell(config.output, failures)
    return Transcribed(done - earlier - len(failures), earlier, tuple(failures), seconds)


class Worker:
    """Has a copy of the model; its rows are chunks of recordings, and become receipts."""

    def __init__(self, model: Path, config: TranscriptionConfig) -> None:
        from rayapp.asr.open import open_recogniser

        self._recogniser = open_recogniser(model, "cuda" if config.gpus_per_worker else "cpu")
        self._config = config

    def __call__(self, chunk: Mapping[str, Any]) -> dict[str, list[Any]]:
        (text,) = chunk["recordings"]
        recordings = [Recording(**each) for each in json.loads(text)]
        outcomes = list(listen(self._recogniser, recordings, self._config.max_batch_seconds))
        transcripts = [each for each in outcomes if isinstance(each, Transcript)]
        write_transcripts(transcripts, recordings, self._config.output, self._config.format)
        failures = [each for each in outcomes if isinstance(each, Failure)]
        return {
            "recordings": [len(recordings)],
            "seconds": [sum(each.seconds for each in transcripts)],
            "failures": [json.dumps(failures)],
        }


def _chunks(recordings: Sequence[Recording]) -> Iterator[list[Recording]]:
    chunk, there = list[Recording](), 0
    for recording in recordings:
        if chunk and (len(chunk) == _CHUNK_RECORDINGS or there + recording.size_bytes > _CHUNK_BYTES):
            yield chunk
            chunk, there = [], 0
        chunk.append(recording)
        there += recording.size_bytes
    if chunk:
        yield chunk


def _whole(location: str) -> str:
    """Workers start elsewhere: a relative path would mean another folder there."""
    return location if "://" in location else str(Path(location).absolute())


def _claim(output: str, origin: Mapping[str, Any]) -> None:
    """Note the origin in a folder that has none. Raises `UserError` for one of another."""
    filesystem, path = open_filesystem(join(output, _ORIGIN))
    try:
        with filesystem.open_input_stream(path) as stream:
            before = json.loads(stream.read().decode())
    except FileNotFoundError:
        write_file(join(output, _ORIGIN), json.dumps(origin).encode())
        return
    if before != origin:
        other = "of another model" if before["model"] != origin["model"] else f"of {', '.join(before['places'])}"
        raise UserError(f"{output} holds transcripts {other}; choose another folder")


def _tell(output: str, failures: Sequence[Failure]) -> None:
    if failures:
        lines = (json.dumps(each._asdict(), ensure_ascii=False) + "\n" for each in failures)
        write_file(join(output, FAILED), "".join(lines).encode())
    else:
        remove_file(join(output, FAILED))
