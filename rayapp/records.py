"""The records that flow through the platform, and how they lie in parquet.

Records are values: changing one returns a new one. A slot is planned first, then filled: it becomes
an utterance, which gains a transcript, then audio, then augmentations, then a row of a manifest.
"""

from __future__ import annotations

import dataclasses
import json
import re
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
    """What the voice is given instead of the text: a respelling, such as `E eleven point nine` for `E11.9`, or IPA
    between slashes, such as `/ləˈsɑːtən/`."""
    weight: float = 1.0
    """How many sentences it should get, relative to the others."""
    recall: float | None = None
    """Share of its occurrences that the recogniser hears today, where that is known."""
    confused_with: tuple[str, ...] = ()
    """Other terms that the recogniser hears in its place: sentences with both teach the difference."""


@dataclass(frozen=True)
class Voice:
    """Who speaks, and how."""

    engine: str
    name: str
    """As the engine names it, such as `en-us+m3`."""
    accent: str
    language: str = "en"
    rate_wpm: int = 170
    pitch: int = 50
    """0–99, as espeak has it; 50 is the voice's own."""
    role: str = ""
    """Whose turns it speaks in a dialogue, such as `clinician`."""


@dataclass(frozen=True)
class Slot:
    """One utterance to be made: everything that is decided beforehand, and the seed of all the rest."""

    slot_id: str
    split: str
    style: str
    """Which grammar or prompt set writes the sentence, such as `clinical_en`."""
    prompt: str
    """The sentence pattern (grammar) or prompt (LLM) to write from."""
    term: Term | None
    cast: tuple[Voice, ...]
    """The voices: one, or one for each role and language that the style has."""
    snr_db: float
    seed: int
    companions: tuple[Term, ...] = ()
    """Further terms in the same sentence, where the pattern lists several."""

    @property
    def voice(self) -> Voice:
        """The voice that speaks, or that speaks first."""
        return self.cast[0]

    def voice_for(self, role: str, language: str) -> Voice:
        """Who speaks the turns of a role in a language: the nearest that the cast has."""
        return max(self.cast, key=lambda voice: (voice.role == role, voice.language == language))

    def rng(self, purpose: str) -> np.random.Generator:
        """A generator for one purpose: stages draw without disturbing one another."""
        return np.random.default_rng([self.seed, int(content_id(purpose), 16)])


@dataclass(frozen=True)
class Span:
    """A stretch of a transcript in one voice: a turn of a dialogue, or the words in one language."""

    text: str
    spoken: str
    language: str = "en"
    role: str = ""


@dataclass(frozen=True)
class Transcript:
    """What is said: as the recogniser should write it, and as the voice is given it."""

    text: str
    spoken: str
    terms: tuple[str, ...]
    language: str
    generator: str
    spans: tuple[Span, ...] = ()
    """Its stretches, in order, where more than one voice speaks; else empty."""

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
class SpokenWord:
    """A word of the text as the recogniser should write it, and when it is said."""

    text: str
    start_seconds: float
    end_seconds: float


@dataclass(frozen=True)
class Turn:
    """When a span is said, and by whom."""

    role: str
    language: str
    voice: str
    text: str
    start_seconds: float
    end_seconds: float


@dataclass(frozen=True)
class Quality:
    """What verification found out; None where it was not asked, or cannot be told."""

    heard: str | None = None
    """What a recogniser made of it."""
    wer: float | None = None
    cer: float | None = None
    rest_wer: float | None = None
    """Word error rate of the words around the terms."""
    terms_heard: float | None = None
    """Share of the terms that the recogniser wrote."""
    phone_distance: float | None = None
    """Phone edit distance between the terms' lexicon pronunciation and what the voice said, per phone."""
    words_per_second: float | None = None
    characters_per_second: float | None = None
    clipped_share: float | None = None
    """Of the samples."""
    silence_share: float | None = None
    """Of the time."""


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
    words: tuple[SpokenWord, ...] = ()
    """When which word is said, from engines that tell."""
    turns: tuple[Turn, ...] = ()
    """When which voice speaks, where there are several."""
    steps: tuple[Step, ...] = ()
    quality: Quality = Quality()
    status: Status = "ok"
    reason: str = ""

    @property
    def duration_seconds(self) -> float:
        return 0.0 if self.audio is None else len(self.audio) / SAMPLE_RATE_HZ

    @property
    def utterance_id(self) -> str:
        """Depends on what was said, by whom, how, and on the version of each stage that made it."""
        transcript = self.transcript.transcript_id if self.transcript else self.slot.slot_id
        voices = (voice.name for voice in self.slot.cast)
        return content_id("utterance", transcript, *voices, self.slot.seed, steps_json(self.steps))

    def with_transcript(self, transcript: Transcript) -> Self:
        return dataclasses.replace(self, transcript=transcript)

    def with_audio(self, audio: Audio) -> Self:
        return dataclasses.replace(self, audio=np.ascontiguousarray(audio, dtype=np.float32))

    def with_times(
        self, phonemes: Sequence[Phoneme], words: Sequence[SpokenWord] = (), turns: Sequence[Turn] = ()
    ) -> Self:
        return dataclasses.replace(self, phonemes=tuple(phonemes), words=tuple(words), turns=tuple(turns))

    def retimed(self, *, stretch: float = 1.0, delay_seconds: float = 0.0) -> Self:
        """The same, with every time multiplied by `stretch` and then moved; for what changes the audio's length."""

        def moved(entry: Any) -> Any:
            times = {name: value for name, value in vars(entry).items() if name.endswith("_seconds")}
            return dataclasses.replace(entry, **{n: value * stretch + delay_seconds for n, value in times.items()})

        return self.with_times(*(tuple(map(moved, times)) for times in (self.phonemes, self.words, self.turns)))

    def with_step(self, name: str, version: int, **params: Any) -> Self:
        return dataclasses.replace(self, steps=(*self.steps, Step(name, version, params)))

    def with_quality(self, **figures: Any) -> Self:
        return dataclasses.replace(self, quality=dataclasses.replace(self.quality, **figures))

    def rejected(self, reason: str) -> Self:
        """The same utterance, set aside; its audio is dropped, so that it costs nothing further on."""
        return dataclasses.replace(self, status="rejected", reason=reason, audio=None, phonemes=(), words=(), turns=())


_TERM_FIELDS = [
    ("category", pa.string()),
    ("language", pa.string()),
    ("pronunciation", pa.string()),
    ("weight", pa.float64()),
]
_VOICE_TYPE = pa.struct(
    [
        ("engine", pa.string()),
        ("name", pa.string()),
        ("accent", pa.string()),
        ("language", pa.string()),
        ("rate_wpm", pa.int32()),
        ("pitch", pa.int32()),
        ("role", pa.string()),
    ]
)
PLAN_SCHEMA = pa.schema(
    [
        ("slot_id", pa.string()),
        ("split", pa.string()),
        ("style", pa.string()),
        ("prompt", pa.string()),
        ("term", pa.string()),  # the text; the four below belong to it
        *_TERM_FIELDS,
        ("companions", pa.list_(pa.struct([("text", pa.string()), *_TERM_FIELDS]))),
        ("cast", pa.list_(_VOICE_TYPE)),
        ("snr_db", pa.float64()),
        ("seed", pa.int64()),
    ]
)
"""A plan: one row per slot."""

PHONEMES_TYPE = pa.list_(pa.struct([("symbol", pa.string()), ("start_seconds", pa.float32())]))
"""What a manifest tells of `Utterance.phonemes`."""
_TIMES = [("start_seconds", pa.float32()), ("end_seconds", pa.float32())]
_TURN_FIELDS = [(name, pa.string()) for name in ("role", "language", "voice", "text")]

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
        ("words", pa.list_(pa.struct([("text", pa.string()), *_TIMES]))),
        ("turns", pa.list_(pa.struct([*_TURN_FIELDS, *_TIMES]))),
        ("steps", pa.string()),  # JSON: [{name, version, params}], in the order they were applied
        ("heard", pa.string()),  # this and the figures below: see Quality
        *((field.name, pa.float32()) for field in dataclasses.fields(Quality) if field.name != "heard"),
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


def slots_from_table(table: pa.Table) -> list[Slot]:
    """Read what `slots_to_table` wrote."""
    return [_slot(row) for row in table.to_pylist()]


def _slot_row(slot: Slot) -> dict[str, Any]:
    term = slot.term
    row = {name: getattr(slot, name) for name in ("slot_id", "split", "style", "prompt", "snr_db", "seed")}
    names = [name for name, _ in _TERM_FIELDS]
    return row | {
        "term": term and term.text,
        **{name: term and getattr(term, name) for name in names},
        "companions": [{name: getattr(other, name) for name in ("text", *names)} for other in slot.companions],
        "cast": [vars(voice) for voice in slot.cast],
    }


def _slot(row: Mapping[str, Any]) -> Slot:
    term = row["term"] and Term(row["term"], *(row[name] for name, _ in _TERM_FIELDS))
    names = ("slot_id", "split", "style", "prompt", "snr_db", "seed")
    return Slot(
        term=term,
        companions=tuple(Term(**companion) for companion in row["companions"]),
        cast=tuple(Voice(**voice) for voice in row["cast"]),
        **{name: row[name] for name in names},
    )


def short_reason(reason: str) -> str:
    """A reason without its figures and quotations: what rows can be counted by.

    >>> short_reason("verify: WER 0.62 of the words around the term is above 0.3")
    'verify: WER # of the words around the term is above #'
    >>> short_reason("transcript: what is said of 'Take losartan' is in no known language")
    'transcript: what is said of … is in no known language'
    """
    return re.sub(r"\d+(\.\d+)?", "#", re.sub(r"""(['"]).*?\1(?!\w)""", "…", reason))


def steps_json(steps: Sequence[Step]) -> str:
    return json.dumps([dataclasses.asdict(step) for step in steps])
