"""The records that flow through the platform, and how they lie in parquet.

Records are values: changing one returns a new one. A slot is planned first, then filled: it becomes
an utterance, which gains a transcript, then audio, then augmentations, then a row of a manifest.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rayapp.ids import content_id

SAMPLE_RATE_HZ = 16_000
Audio: TypeAlias = NDArray[np.floating[Any]]
"""(samples,) mono at 16 kHz, full scale is ±1."""
Status = Literal["ok", "rejected"]


@dataclass(frozen=True)
class Term:
    """A word or phrase that the recogniser should hear."""

    text: str
    category: str = "other"
    language: str = "en"
    pronunciation: str | None = None
    """What the voice is given instead of the text, such as `E eleven point nine` for `E11.9`."""
    weight: float = 1.0
    """How many sentences it should get, relative to the others."""
    recall: float | None = None
    """Share of its occurrences that the recogniser hears today, where that is known."""


@dataclass(frozen=True)
class Slot:
    """One utterance to be made: everything that is decided beforehand, and the seed of all the rest."""

    slot_id: str
    split: str
    style: str
    """`clinical` or `everyday`: which grammar or prompt set writes the sentence."""
    prompt: str
    """The sentence pattern (grammar) or prompt (LLM) to write from."""
    term: Term | None
    engine: str
    voice: str
    accent: str
    rate_wpm: int
    pitch: int
    """0–99, as espeak has it; 50 is the voice's own."""
    snr_db: float
    seed: int
    companions: tuple[Term, ...] = ()
    """Further terms in the same sentence, where the pattern lists several."""

    def rng(self, purpose: str) -> np.random.Generator:
        """A generator for one purpose: stages draw without disturbing one another."""
        return np.random.default_rng([self.seed, int(content_id(purpose), 16)])


@dataclass(frozen=True)
class Transcript:
    """A sentence: as the recogniser should write it, and as the voice is given it."""

    text: str
    spoken: str
    terms: tuple[str, ...]
    language: str
    generator: str

    @property
    def transcript_id(self) -> str:
        return content_id("transcript", self.text, self.language)


PAUSE = "_"
"""The phoneme where nothing is said."""


@dataclass(frozen=True)
class Phoneme:
    """One sound of an utterance; it lasts until the next one starts."""

    symbol: str
    """As the speech engine names it, without stress; `PAUSE` where nothing is said."""
    start_seconds: float


@dataclass(frozen=True)
class Step:
    """Something done to the audio: enough to do it again."""

    name: str
    version: int
    params: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Utterance:
    """A slot on its way to becoming a row of a manifest."""

    slot: Slot
    transcript: Transcript | None = None
    audio: Audio | None = None
    phonemes: tuple[Phoneme, ...] = ()
    """When which sound is made, from engines that tell."""
    steps: tuple[Step, ...] = ()
    status: Status = "ok"
    reason: str = ""

    @property
    def duration_seconds(self) -> float:
        return 0.0 if self.audio is None else len(self.audio) / SAMPLE_RATE_HZ

    @property
    def utterance_id(self) -> str:
        """Depends on what was said, by whom, how, and on the version of each stage that made it."""
        transcript = self.transcript.transcript_id if self.transcript else self.slot.slot_id
        return content_id("utterance", transcript, self.slot.voice, self.slot.seed, _steps_json(self.steps))

    def with_transcript(self, transcript: Transcript) -> Self:
        return dataclasses.replace(self, transcript=transcript)

    def with_audio(self, audio: Audio) -> Self:
        return dataclasses.replace(self, audio=np.ascontiguousarray(audio, dtype=np.float32))

    def with_phonemes(self, phonemes: Sequence[Phoneme]) -> Self:
        return dataclasses.replace(self, phonemes=tuple(phonemes))

    def with_step(self, name: str, version: int, **params: Any) -> Self:
        return dataclasses.replace(self, steps=(*self.steps, Step(name, version, params)))

    def rejected(self, reason: str) -> Self:
        """The same utterance, set aside; its audio is dropped, so that it costs nothing further on."""
        return dataclasses.replace(self, status="rejected", reason=reason, audio=None, phonemes=())


_TERM_FIELDS = [
    ("category", pa.string()),
    ("language", pa.string()),
    ("pronunciation", pa.string()),
    ("weight", pa.float64()),
]
PLAN_SCHEMA = pa.schema(
    [
        ("slot_id", pa.string()),
        ("split", pa.string()),
        ("style", pa.string()),
        ("prompt", pa.string()),
        ("term", pa.string()),  # the text; the four below belong to it
        *_TERM_FIELDS,
        ("companions", pa.list_(pa.struct([("text", pa.string()), *_TERM_FIELDS]))),
        ("engine", pa.string()),
        ("voice", pa.string()),
        ("accent", pa.string()),
        ("rate_wpm", pa.int32()),
        ("pitch", pa.int32()),
        ("snr_db", pa.float64()),
        ("seed", pa.int64()),
    ]
)
"""A plan: one row per slot."""

PHONEMES_TYPE = pa.list_(pa.struct([("symbol", pa.string()), ("start_seconds", pa.float32())]))
"""What a manifest tells of `Utterance.phonemes`."""

_IN_FLIGHT_SCHEMA = pa.schema(
    [
        *PLAN_SCHEMA,
        ("text", pa.string()),
        ("spoken_text", pa.string()),
        ("terms", pa.list_(pa.string())),
        ("transcript_language", pa.string()),
        ("generator", pa.string()),
        ("phonemes", PHONEMES_TYPE),
        ("steps", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("samples", pa.binary()),  # float32
    ]
)
"""What travels between stages: the plan's row and what has been filled in."""

MANIFEST_SCHEMA = pa.schema(
    [
        ("utterance_id", pa.string()),
        ("audio", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),  # Hugging Face's layout; FLAC
        ("duration_seconds", pa.float64()),
        ("text", pa.string()),
        ("spoken_text", pa.string()),
        ("terms", pa.list_(pa.string())),
        ("category", pa.string()),
        ("language", pa.string()),
        ("split", pa.string()),
        ("style", pa.string()),
        ("generator", pa.string()),
        ("prompt", pa.string()),
        ("engine", pa.string()),
        ("voice", pa.string()),
        ("accent", pa.string()),
        ("rate_wpm", pa.int32()),
        ("pitch", pa.int32()),
        ("snr_db", pa.float64()),
        ("phonemes", PHONEMES_TYPE),
        ("steps", pa.string()),  # JSON: [{name, version, params}], in the order they were applied
        ("seed", pa.int64()),
        ("transcript_id", pa.string()),
        ("slot_id", pa.string()),
        ("audio_hash", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
    ]
)
"""A manifest: one row per utterance, with its audio. Readers select columns: the rest is cheap to read."""


def slots_to_table(slots: Sequence[Slot]) -> pa.Table:
    return pa.Table.from_pylist([_slot_row(slot) for slot in slots], schema=PLAN_SCHEMA)


def utterances_to_table(utterances: Sequence[Utterance]) -> pa.Table:
    """The table that travels from one stage to the next."""
    rows = []
    for utterance in utterances:
        transcript = utterance.transcript
        rows.append(
            _slot_row(utterance.slot)
            | {
                "text": transcript and transcript.text,
                "spoken_text": transcript and transcript.spoken,
                "terms": list(transcript.terms) if transcript else None,
                "transcript_language": transcript and transcript.language,
                "generator": transcript and transcript.generator,
                "phonemes": phoneme_rows(utterance),
                "steps": _steps_json(utterance.steps),
                "status": utterance.status,
                "reason": utterance.reason,
                "samples": None if utterance.audio is None else utterance.audio.tobytes(),
            }
        )
    return pa.Table.from_pylist(rows, schema=_IN_FLIGHT_SCHEMA)


def phoneme_rows(utterance: Utterance) -> list[dict[str, Any]]:
    return [{"symbol": p.symbol, "start_seconds": p.start_seconds} for p in utterance.phonemes]


def utterances_from_table(table: pa.Table) -> list[Utterance]:
    """Read what `slots_to_table` or `utterances_to_table` wrote."""
    return [_utterance(row) for row in table.to_pylist()]


def _slot_row(slot: Slot) -> dict[str, Any]:
    term = slot.term
    return {
        "slot_id": slot.slot_id,
        "split": slot.split,
        "style": slot.style,
        "prompt": slot.prompt,
        "term": term and term.text,
        "category": term and term.category,
        "language": term and term.language,
        "pronunciation": term and term.pronunciation,
        "weight": term and term.weight,
        "companions": [
            {name: getattr(companion, name) for name in ("text", *(field for field, _ in _TERM_FIELDS))}
            for companion in slot.companions
        ],
        "engine": slot.engine,
        "voice": slot.voice,
        "accent": slot.accent,
        "rate_wpm": slot.rate_wpm,
        "pitch": slot.pitch,
        "snr_db": slot.snr_db,
        "seed": slot.seed,
    }


def _utterance(row: Mapping[str, Any]) -> Utterance:
    term = row["term"] and Term(row["term"], row["category"], row["language"], row["pronunciation"], row["weight"])
    names = ("slot_id", "split", "style", "prompt", "engine", "voice", "accent", "rate_wpm", "pitch", "snr_db")
    companions = tuple(Term(**companion) for companion in row["companions"])
    slot = Slot(term=term, companions=companions, seed=row["seed"], **{name: row[name] for name in names})
    if "status" not in row:
        return Utterance(slot)
    transcript = None
    if row["text"] is not None:
        transcript = Transcript(
            row["text"], row["spoken_text"], tuple(row["terms"]), row["transcript_language"], row["generator"]
        )
    samples = row["samples"]
    return Utterance(
        slot=slot,
        transcript=transcript,
        audio=None if samples is None else np.frombuffer(samples, dtype=np.float32),
        phonemes=tuple(Phoneme(**phoneme) for phoneme in row["phonemes"]),
        steps=tuple(Step(**step) for step in json.loads(row["steps"])),
        status=row["status"],
        reason=row["reason"],
    )


def _steps_json(steps: Sequence[Step]) -> str:
    return json.dumps([dataclasses.asdict(step) for step in steps])
