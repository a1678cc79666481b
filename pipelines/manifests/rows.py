"""An utterance as a row of a manifest."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence

import pyarrow as pa

from rayapp.audio.codec import encode_flac
from rayapp.records import MANIFEST_SCHEMA, Utterance, steps_json


def manifest_table(utterances: Sequence[Utterance]) -> pa.Table:
    """Rows of a manifest, with FLAC audio; rejected ones have no audio and a reason."""
    return pa.Table.from_pylist([_row(utterance) for utterance in utterances], schema=MANIFEST_SCHEMA)


def _row(utterance: Utterance) -> dict[str, object]:
    slot, transcript, voice = utterance.slot, utterance.transcript, utterance.slot.voice
    flac = None if utterance.audio is None else encode_flac(utterance.audio)
    utterance_id = utterance.utterance_id
    return {
        "utterance_id": utterance_id,
        "audio": flac and {"bytes": flac, "path": f"{utterance_id}.flac"},
        "duration_seconds": utterance.duration_seconds,
        "text": transcript and transcript.text,
        "spoken_text": transcript and transcript.spoken,
        "terms": list(transcript.terms) if transcript else [],
        "category": slot.term and slot.term.category,
        "language": transcript and transcript.language,
        "split": slot.split,
        "style": slot.style,
        "generator": transcript and transcript.generator,
        "prompt": slot.prompt,
        "engine": voice.engine,
        "voice": voice.name,
        "accent": voice.accent,
        "rate_wpm": voice.rate_wpm,
        "pitch": voice.pitch,
        "snr_db": slot.snr_db if any(step.name == "noise" for step in utterance.steps) else None,
        "phonemes": [vars(phoneme) for phoneme in utterance.phonemes],
        "words": [vars(word) for word in utterance.words],
        "turns": [vars(turn) for turn in utterance.turns],
        "steps": steps_json(utterance.steps),
        **dataclasses.asdict(utterance.quality),
        "seed": slot.seed,
        "transcript_id": transcript and transcript.transcript_id,
        "slot_id": slot.slot_id,
        "audio_hash": flac and hashlib.blake2b(flac, digest_size=8).hexdigest(),
        "status": utterance.status,
        "reason": utterance.reason,
    }
