"""What must hold for a row of a manifest, one check a function; `validate` runs them over all rows."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator, Mapping
from typing import Any

from rayapp.records import SAMPLE_RATE_HZ

Problem = tuple[str, str]
"""Its kind, and what is the case."""
DURATION_TOLERANCE_SECONDS = 0.01
"""Other tools round to hundredths."""
_WORDS = re.compile(r"[぀-ヿ㐀-鿿豈-﫿฀-๿]|[^\W぀-ヿ㐀-鿿豈-﫿฀-๿]+")
"""Kana, Han and Thai are written without spaces: each of their letters counts as a word."""


def plain_words(text: str) -> str:
    """The words alone: case, punctuation and spacing do not matter.

    >>> plain_words("Crohn's disease (E11.9), 糖尿病!")
    'crohn s disease e11 9 糖 尿 病'
    """
    return " ".join(_WORDS.findall(text.casefold()))


def check_text(row: Mapping[str, Any], split: str) -> Iterator[Problem]:
    """A row's text, its terms, and where it lies. row: the columns `text`, `terms`, `split`, `status`."""
    words = plain_words(row["text"] or "")
    if not words:
        yield "text", f"no words: {row['text']!r}"
    for term in (words and row["terms"]) or ():
        if f" {plain_words(term)} " not in f" {words} ":
            yield "terms", f"{term!r} is not in {row['text']!r}"
    if row["split"] not in (None, split):
        yield "split", f"the row says {row['split']!r}"
    if row["status"] not in (None, "ok"):
        yield "status", f"{row['status']!r}; only rows that are ok belong here"


def check_audio(row: Mapping[str, Any]) -> Iterator[Problem]:
    """A row's audio, which is decoded. row: the columns `audio`, `duration_seconds`, `audio_hash`."""
    import soundfile

    data = (row["audio"] or {}).get("bytes")
    if not data:
        yield "audio", "no bytes"
        return
    if row["audio_hash"] not in (None, found := audio_hash(data)):
        yield "audio_hash", f"the row says {row['audio_hash']}; its bytes have {found}"
    try:
        samples, rate_hz = soundfile.read(io.BytesIO(data), dtype="int16", always_2d=True)
    except soundfile.LibsndfileError as error:
        yield "audio", f"cannot be decoded: {error.error_string}"
        return
    channels, seconds = samples.shape[1], len(samples) / rate_hz
    if (rate_hz, channels) != (SAMPLE_RATE_HZ, 1):
        yield "audio", f"{rate_hz} Hz, {channels} channel(s); {SAMPLE_RATE_HZ} Hz mono is what models get"
    if not samples.any():
        yield "audio", "nothing but silence"
    if abs(seconds - (row["duration_seconds"] or 0.0)) > DURATION_TOLERANCE_SECONDS:
        yield "duration", f"the row says {row['duration_seconds']} s; the audio lasts {seconds:.3f} s"


def audio_hash(data: bytes) -> str:
    """What the column `audio_hash` holds for these bytes."""
    return hashlib.blake2b(data, digest_size=8).hexdigest()
