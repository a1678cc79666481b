"""A rank's batches, read, decoded and tokenised by Ray's tasks while the rank learns.

Every rank streams what is planned for it: its batches are alike in length to those of the other ranks, where the
shares of a dataset (`ray.train.get_dataset_shard`) hand out rows as they come and drop what does not divide; and where
a run goes on is known only in the worker, which reads the checkpoint. A task prepares a window of an epoch, batch by
batch, and waits once it is a few ahead. It works out the plan by itself, from the metadata of all utterances, which
lies once on each node in Ray's object store.

A Ray Data dataset for each rank did the same at the price of a third of a core each, for the process that runs its
executor: beside two ranks on two cores, training took twice as long. The tasks ask for no CPU: where ranks take all of
a machine's, they would never be scheduled.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections import Counter, deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

import numpy as np
import pyarrow as pa

from pipelines.training.mixture import Mixture, SetAside, Shard, read_texts
from pipelines.training.planning import EpochPlan, PlannedStep, PlanSettings, Position, windows_per_epoch
from pipelines.training.relay import unwrapped
from rayapp.audio.codec import decode
from rayapp.errors import RejectedError, UserError
from rayapp.records import PHONEMES_TYPE, SAMPLE_RATE_HZ, Audio, short_reason

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rayapp.asr.recogniser import SpeechBatch, Tokeniser


class Augment(Protocol):
    """Changes an utterance's sound, and not its length."""

    identity: str
    """Of what it reads; its settings are the run's."""

    def __call__(self, audio: Audio, rng: np.random.Generator) -> Audio: ...


_FULL_SCALE = 1 << 15
_WINDOWS_AT_ONCE = 2
"""The next window is read while the batches of one are used up."""
_BATCHES_AHEAD = 3
"""A task prepares so many before the first is taken."""
_RETRIES = 3
"""Of a task whose worker dies."""
_BATCH_SCHEMA = pa.schema(
    [
        ("position", pa.string()),  # JSON
        ("epochs_done", pa.float64()),
        ("imbalance", pa.float64()),
        ("utterance_ids", pa.list_(pa.string())),
        ("audio", pa.large_binary()),  # (batch, samples) int16: what 16-bit FLAC holds, in half the room
        ("audio_lengths", pa.list_(pa.int64())),
        ("tokens", pa.list_(pa.list_(pa.int32()))),
        ("phonemes", pa.list_(PHONEMES_TYPE)),  # as they are: what makes slices of them would bring torch to each task
        ("set_aside", pa.list_(pa.struct([("utterance_id", pa.string()), ("reason", pa.string())]))),
    ]
)


@dataclass(frozen=True)
class Preparation:
    """What a rank's data tasks have to know; light, for it travels with each."""

    mixture: Any
    """Reference to a `Mixture` in Ray's object store: the driver puts it there once, for all ranks."""
    plan: PlanSettings
    tokeniser: Tokeniser
    max_seconds: float
    """Longer audio is set aside, whatever its manifest says."""
    max_labels: int | None = None
    """So are texts of more tokens."""
    phonemes: Mapping[str, int] = field(default_factory=dict)
    """The number of each phoneme to learn; empty where none are."""
    augment: Augment | None = None


@dataclass(frozen=True)
class StreamedBatch:
    """What a rank learns from in one step."""

    batch: SpeechBatch
    utterance_ids: list[str]
    set_aside: list[SetAside]
    """Those of the planned utterances that are not in the batch. Where none was left, it is another batch again."""
    position: Position
    """Where the run stands once the step is taken."""
    epochs_done: float
    """See `PlannedStep`."""
    imbalance: float
    """Of the step: by how much the padded seconds of the largest batch of all ranks exceed their mean, as a share."""


@dataclass
class InputFigures:
    """How well the input kept up, and what it cost; over some steps of one rank, or of all."""

    steps: int = 0
    wait_seconds: float = 0.0
    """That the rank waited for its batches; of several, the one that waited longest."""
    samples: int = 0
    padded_samples: int = 0
    """With the padding."""
    imbalance: float = 0.0
    """Summed over the steps."""
    set_aside: list[SetAside] = field(default_factory=list)
    started: float = field(default_factory=time.perf_counter)

    def add(self, streamed: StreamedBatch) -> None:
        self.steps += 1
        self.samples += int(streamed.batch.audio_lengths.sum())
        self.padded_samples += streamed.batch.audio.numel()
        self.imbalance += streamed.imbalance
        self.set_aside += streamed.set_aside

    @classmethod
    def of_ranks(cls, ranks: Sequence[InputFigures], started: float) -> Self:
        """started: as the clock of this process tells it."""
        return cls(
            steps=ranks[0].steps,
            wait_seconds=max(rank.wait_seconds for rank in ranks),
            samples=sum(rank.samples for rank in ranks),
            padded_samples=sum(rank.padded_samples for rank in ranks),
            imbalance=ranks[0].imbalance,
            set_aside=[each for rank in ranks for each in rank.set_aside],
            started=started,
        )

    def summary(self) -> dict[str, float]:
        """Shares, speed, and how many utterances were set aside."""
        seconds = max(time.perf_counter() - self.started, 1e-9)
        return {
            "audio_seconds_per_second": self.samples / SAMPLE_RATE_HZ / seconds,
            "wait_share": self.wait_seconds / seconds,
            "padding_share": 1 - self.samples / max(self.padded_samples, 1),
            "rank_imbalance": self.imbalance / max(self.steps, 1),
            "set_aside": len(self.set_aside),
        }


class BatchStream:
    """One rank's batches from a position to the end of the run.

    They are prepared from the moment that the stream is made.

        with BatchStream(preparation, position, rank, ranks, epochs) as stream:
            for streamed in stream:
                ...

    Raises `UserError` where nothing can be learnt from; what a task raises (a shard that cannot be read) comes as Ray
    wraps it.
    """

    def __init__(self, preparation: Preparation, position: Position, rank: int, ranks: int, epochs: int) -> None:
        self.figures = InputFigures()
        """Of the steps since this was last replaced by new ones."""
        self._batches = _never_empty(_arriving(preparation, position, rank, ranks, epochs))
        self._pool = ThreadPoolExecutor(1)
        self._next = self._pool.submit(next, self._batches, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()
        self._batches.close()

    def __iter__(self) -> Iterator[StreamedBatch]:
        while (streamed := self._wait()) is not None:
            self._next = self._pool.submit(next, self._batches, None)
            self.figures.add(streamed)
            yield streamed

    def _wait(self) -> StreamedBatch | None:
        asked = time.perf_counter()
        streamed = self._next.result()
        self.figures.wait_seconds += time.perf_counter() - asked
        return streamed


def _arriving(
    preparation: Preparation, position: Position, rank: int, ranks: int, epochs: int
) -> Generator[StreamedBatch, None, None]:
    """The rank's batches, in order, from tasks that each prepare a window; the next one begins ahead of its turn."""
    import ray

    mixture: Mixture = ray.get(preparation.mixture)
    windows = windows_per_epoch(mixture.utterances_per_epoch, preparation.plan)
    whole = [(epoch, window) for epoch in range(position.epoch, epochs) for window in range(windows)]
    todo = deque(whole[position.window :])
    prepare = ray.remote(prepare_window).options(
        num_cpus=0,
        num_returns="streaming",
        _generator_backpressure_num_objects=_BATCHES_AHEAD,
        max_retries=_RETRIES,
        scheduling_strategy="SPREAD",
    )
    begun: deque[Any] = deque()
    try:
        while todo or begun:
            while todo and len(begun) < _WINDOWS_AT_ONCE:
                begun.append(prepare.remote(*todo.popleft(), preparation, position, rank, ranks))
            for batch in begun[0]:
                yield _streamed(ray.get(batch), preparation.phonemes)
            begun.popleft()
    finally:
        for task in begun:
            ray.cancel(task)


def prepare_window(
    epoch: int, window: int, preparation: Preparation, start: Position, rank: int, ranks: int
) -> Iterator[pa.Table]:
    """The rank's batches of a window, a row each; none where the window was joined with the one before it."""
    plan, mixture = _plan(preparation.mixture, preparation.plan, epoch)
    position = start if start.epoch == epoch else Position(epoch)
    while position.epoch == epoch and position.window < window:
        position = plan.next_start(position, ranks)
    if (position.epoch, position.window) != (epoch, window):
        return
    steps = list(plan.steps(position, ranks))
    batches = deque(_read(mixture, [plan.rows[step.batches[rank]] for step in steps], preparation))
    for step in steps:
        seeds = [[4, preparation.plan.seed, plan.epoch, place] for place in step.batches[rank].tolist()]
        yield _row(step, batches.popleft(), seeds, preparation)  # taken out, so that they are forgotten


@lru_cache(maxsize=1)
def _plan(mixture: Any, settings: PlanSettings, epoch: int) -> tuple[EpochPlan, Mixture]:
    """mixture: a reference."""
    import ray

    metadata: Mixture = ray.get(mixture)
    rows = metadata.epoch_rows(epoch, settings.seed)
    return EpochPlan(epoch, rows, metadata.groups_of(rows), metadata.seconds[rows], settings), metadata


class _Utterance(NamedTuple):
    """What is kept of a row until its batch is asked for."""

    utterance_id: str
    flac: bytes | None
    text: str | None
    phonemes: list[dict[str, Any]] | None


def _read(mixture: Mixture, batches: list[NDArray[np.int64]], preparation: Preparation) -> list[list[_Utterance]]:
    """batches: the numbers of the utterances of each."""
    columns = ["utterance_id", "audio", "text", *(["phonemes"] if preparation.phonemes else [])]
    found: dict[int, _Utterance] = {}
    for numbers, table in mixture.read(np.concatenate(batches), columns):
        for number, row in zip(numbers.tolist(), table.to_pylist(), strict=True):
            found[number] = _Utterance(
                row["utterance_id"] or mixture.place(number),
                row["audio"] and row["audio"]["bytes"],
                row["text"],
                row.get("phonemes"),
            )
    return [[found[number] for number in batch.tolist()] for batch in batches]


def _row(step: PlannedStep, utterances: list[_Utterance], seeds: list[list[int]], preparation: Preparation) -> pa.Table:
    """seeds: of each utterance, whoever prepares it."""
    kept: list[tuple[_Utterance, NDArray[np.int16], list[int]]] = []
    set_aside: list[SetAside] = []
    for utterance, seed in zip(utterances, seeds, strict=True):
        try:
            tokens = _tokens(utterance, preparation.tokeniser, preparation.max_labels)
            kept.append((utterance, _samples(utterance, seed, preparation), tokens))
        except RejectedError as error:
            set_aside.append(SetAside(utterance.utterance_id, str(error)))
    audio = np.zeros((len(kept), max((len(samples) for _, samples, _ in kept), default=0)), np.int16)
    for line, (_, samples, _) in zip(audio, kept, strict=True):
        line[: len(samples)] = samples
    row = {
        "position": json.dumps(dataclasses.asdict(step.after)),
        "epochs_done": step.epochs_done,
        "imbalance": step.imbalance,
        "utterance_ids": [utterance.utterance_id for utterance, _, _ in kept],
        "audio": audio.tobytes(),
        "audio_lengths": [len(samples) for _, samples, _ in kept],
        "tokens": [tokens for _, _, tokens in kept],
        "phonemes": [utterance.phonemes for utterance, _, _ in kept],
        "set_aside": [each._asdict() for each in set_aside],
    }
    return pa.Table.from_pylist([row], schema=_BATCH_SCHEMA)


def _samples(utterance: _Utterance, seed: list[int], preparation: Preparation) -> NDArray[np.int16]:
    if utterance.flac is None:
        raise RejectedError("it has no audio")
    try:
        audio = decode(utterance.flac, name="its audio", max_seconds=preparation.max_seconds)
    except UserError as error:
        raise RejectedError(str(error)) from error
    if preparation.augment:
        audio = preparation.augment(audio, np.random.default_rng(seed))
    return np.clip(np.rint(audio * _FULL_SCALE), -_FULL_SCALE, _FULL_SCALE - 1).astype(np.int16)


def _tokens(utterance: _Utterance, tokeniser: Tokeniser, max_labels: int | None) -> list[int]:
    tokens = tokeniser.encode(utterance.text or "")
    if not tokens:
        raise RejectedError("its text has no tokens")
    if max_labels is not None and len(tokens) > max_labels:
        raise RejectedError(f"its text has {len(tokens)} tokens; {max_labels} is the most")
    return tokens


def _streamed(table: pa.Table, phonemes: Mapping[str, int]) -> StreamedBatch:
    """From a row to tensors. phonemes: the number of each that is learnt."""
    import torch

    from rayapp.asr.phonemes import UNKNOWN, phoneme_slices
    from rayapp.asr.recogniser import SpeechBatch

    [row], audio = table.drop_columns(["audio"]).to_pylist(), table["audio"][0].as_buffer()
    lengths = row["audio_lengths"]
    samples = np.frombuffer(audio, np.int16).reshape(len(lengths), max(lengths, default=0))
    slices: list[Sequence[int] | NDArray[np.int64]] = [
        phoneme_slices(told, length / SAMPLE_RATE_HZ, phonemes) if phonemes else []
        for told, length in zip(row["phonemes"], lengths, strict=True)
    ]
    batch = SpeechBatch(
        torch.from_numpy(np.multiply(samples, np.float32(1 / _FULL_SCALE), dtype=np.float32)),
        torch.tensor(lengths),
        torch.from_numpy(_padded(row["tokens"], 0)),
        torch.tensor([len(tokens) for tokens in row["tokens"]]),
        torch.from_numpy(_padded(slices, UNKNOWN)),
    )
    return StreamedBatch(
        batch,
        row["utterance_ids"],
        [SetAside(**each) for each in row["set_aside"]],
        Position.from_json(json.loads(row["position"])),
        row["epochs_done"],
        row["imbalance"],
    )


def _padded(lists: Sequence[Sequence[int] | NDArray[np.int64]], value: int) -> NDArray[np.int64]:
    """(lists, the longest one's entries)"""
    padded = np.full((len(lists), max(map(len, lists), default=0)), value, np.int64)
    for line, each in zip(padded, lists, strict=True):
        line[: len(each)] = each
    return padded


def _never_empty(batches: Iterable[StreamedBatch]) -> Generator[StreamedBatch, None, None]:
    """The same, with another batch in place of one of which nothing can be used: all ranks take all steps together.

    Raises `UserError` where nothing can be used of any.
    """
    usable: StreamedBatch | None = None
    empty: list[StreamedBatch] = []
    for streamed in batches:
        if streamed.utterance_ids:
            usable = streamed
        if usable is None:
            empty.append(streamed)
            continue
        for each in (*empty, streamed):
            yield dataclasses.replace(each, batch=usable.batch, utterance_ids=usable.utterance_ids)
        empty = []
    if empty:
        reasons = Counter(short_reason(each.reason) for streamed in empty for each in streamed.set_aside)
        told = "; ".join(f"{reason} ({count})" for reason, count in reasons.most_common(3))
        raise UserError(f"no utterance of this rank can be learnt from: {told}; make the manifests again")


@dataclass(frozen=True)
class Inexpressible:
    """What a tokeniser has no tokens for."""

    characters: dict[str, int]
    """In how many utterances each occurs, the most frequent first."""
    share: float
    """Of the utterances, that have such a character."""


def find_inexpressible(mixture: Mixture, tokeniser: Tokeniser) -> Inexpressible:
    """Go through the texts of the sources once, in a Ray task per shard."""
    import ray

    shared = ray.put(tokeniser)
    count = ray.remote(_count_inexpressible)
    try:
        counted = ray.get([count.remote(shard, shared) for shard in dict.fromkeys(mixture.shards)])
    except UserError as error:
        raise unwrapped(error) from None
    characters: Counter[str] = sum((each for each, _, _ in counted), Counter())
    affected, utterances = (sum(each[column] for each in counted) for column in (1, 2))
    return Inexpressible(dict(characters.most_common()), affected / utterances)


def _count_inexpressible(shard: Shard, tokeniser: Tokeniser) -> tuple[Counter[str], int, int]:
    """Characters, the utterances that have some, and all utterances."""
    texts = read_texts(shard)
    lacking = [characters for text in texts if (characters := tokeniser.inexpressible(text))]
    return Counter(character for characters in lacking for character in characters), len(lacking), len(texts)
