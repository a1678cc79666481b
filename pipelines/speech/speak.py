"""The stage that speaks a sentence, and the check that a lexicon can be spoken at all."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np

from pipelines.speech import espeak
from rayapp.errors import RejectedError, UserError
from rayapp.records import SAMPLE_RATE_HZ, Term, Utterance
from rayapp.stage import Resources, Stage

_SHORTEST_SECONDS = 0.3
_PEAK = 0.5
"""Every voice is brought to the same peak; how loud an utterance ends up is for augmentation to draw."""


class Speak(Stage):
    """Speaks the transcript in the voice, rate and pitch that the slot drew."""

    name = "speech"
    version = 2
    resources = Resources(cpus=0.5)

    def __call__(self, utterance: Utterance) -> Utterance:
        slot, transcript = utterance.slot, utterance.transcript
        assert transcript
        audio, phonemes = espeak.speak(transcript.spoken, slot.voice, rate_wpm=slot.rate_wpm, pitch=slot.pitch)
        if len(audio) < _SHORTEST_SECONDS * SAMPLE_RATE_HZ:
            raise RejectedError(f"voice {slot.voice} said nothing")
        peak = float(np.abs(audio).max())
        if peak < 1e-3:
            raise RejectedError(f"voice {slot.voice} is silent")
        spoken = utterance.with_audio(audio * (_PEAK / peak)).with_phonemes(phonemes)
        return spoken.with_step(
            self.name, self.version, engine=slot.engine, voice=slot.voice, rate_wpm=slot.rate_wpm, pitch=slot.pitch
        )


def check_pronounceable(terms: Sequence[Term]) -> None:
    """Raises `UserError` that names each term for which the voice finds nothing to say."""
    silent = [term.text for term in terms if not _can_say(term.pronunciation or term.text)]
    if silent:
        raise UserError(
            f"nobody can pronounce {', '.join(map(repr, silent[:5]))}"
            f"{f' and {len(silent) - 5} more' if silent[5:] else ''}: the voice finds nothing to say; "
            "correct the term or give it a pronunciation"
        )


def _can_say(text: str) -> bool:
    """espeak-ng's English reads out the names of signs and of other scripts' letters: that is no pronunciation."""
    letters = [c for c in text if c.isalnum()]
    known = all(c.isdigit() or unicodedata.name(c, "").startswith("LATIN") for c in letters)
    return bool(letters) and known and bool(espeak.ipa(text))


def check_voices(voices: Sequence[str]) -> None:
    """Raises `UserError` that names each voice that espeak-ng does not have."""
    unknown = [voice for voice in voices if not espeak.has_voice(voice)]
    if unknown:
        raise UserError(f"espeak-ng has no voice {', '.join(unknown[:5])}; `espeak-ng --voices=variant` lists speakers")
