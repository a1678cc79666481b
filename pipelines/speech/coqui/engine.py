"""Coqui models behind the one surface of speech engines: neural voices, many speakers, cloning.

What a line sounds like depends on its text and voice alone, not on the batch, the worker or what was said before.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import soxr

from pipelines.speech.coqui.config import OWN_RATE_WPM, CoquiConfig
from pipelines.speech.coqui.files import is_fairseq, model_file, readable_config, resolve
from pipelines.speech.coqui.reading import language_name, token_ids, use_bundled_espeak
from pipelines.speech.coqui.speakers import check_speakers
from pipelines.speech.coqui.text import parts_of
from pipelines.speech.engine import Line, Speech
from rayapp.errors import RejectedError, UserError
from rayapp.ids import content_id
from rayapp.records import SAMPLE_RATE_HZ, Audio

if TYPE_CHECKING:
    from pipelines.speech.coqui.model import LoadedModel, Part

_PAUSE_SECONDS = 0.2
"""Between the parts of a long text."""
_SILENT = 1e-3


class CoquiEngine:
    """Speaks with a Coqui model, which is loaded when the first line comes.

    Give it settings that `resolve` went through once, or each worker looks for the model, and downloads it, itself.
    """

    name = "coqui"

    def __init__(self, config: CoquiConfig) -> None:
        self.config = resolve(config)

    @cached_property
    def model(self) -> LoadedModel:
        from pipelines.speech.coqui.model import LoadedModel

        return LoadedModel(self.config)

    def speak(self, lines: Sequence[Line]) -> Sequence[Speech | Exception]:
        """One `Speech` per line, at 16 kHz; a `RejectedError` for a line that cannot be said."""
        outcomes: dict[int, Speech | Exception] = {}
        parts: list[tuple[int, Part]] = []
        for index, line in enumerate(lines):
            try:
                parts += [(index, part) for part in self._parts(line)]
            except RejectedError as error:
                outcomes[index] = error
        said = zip(parts, self.model.speak([part for _, part in parts]), strict=True)
        for index, group in groupby(said, key=lambda entry: entry[0][0]):
            outcomes[index] = self._whole([wave for _, wave in group])
        return [outcomes[index] for index in range(len(lines))]

    def check_voices(self, voices: Sequence[str]) -> None:
        """Raises `UserError` that names each speaker whom the model does not have, and some whom it has."""
        check_speakers(self.config, list(voices))

    def check_pronounceable(self, texts: Sequence[str], language: str) -> None:
        """Raises `UserError` that names each text for which there is nothing to say."""
        tokenizer, languages = self._reading
        try:
            name = language_name(languages, language)
        except RejectedError as error:
            raise UserError(f"Coqui model {self.config.model}: {error}") from None
        silent = [text for text in texts if not _can_say(text, name or languages[0], tokenizer)]
        if silent:
            raise UserError(
                f"Coqui model {self.config.model} cannot pronounce {', '.join(map(repr, silent[:5]))}"
                f"{f' and {len(silent) - 5} more' if silent[5:] else ''}; correct the term or give it a pronunciation"
            )

    @cached_property
    def _reading(self) -> tuple[Any, Sequence[str]]:
        """What tells which texts the model can read, without its weights: the tokeniser, for VITS, and languages."""
        from TTS.config import load_config
        from TTS.tts.utils.languages import LanguageManager
        from TTS.tts.utils.text.tokenizer import TTSTokenizer

        weights = model_file(Path(self.config.model))
        if is_fairseq(weights):
            return None, ["en"]
        use_bundled_espeak()
        with readable_config(weights) as config_path:
            config = load_config(config_path)
        tokenizer = TTSTokenizer.init_from_config(config)[0] if config.model == "vits" else None
        return tokenizer, LanguageManager.init_from_config(config).language_names

    def _parts(self, line: Line) -> list[Part]:
        from pipelines.speech.coqui.model import Part

        voice = line.voice
        if not any(map(str.isalnum, line.text)):
            raise RejectedError(f"there is nothing to say in {line.text!r}")
        limit = self.model.longest(voice.language, self.config.split_characters)
        texts = parts_of(line.text, limit, lambda text: self.model.sentences(text, voice.language))
        return [
            Part(
                text,
                voice.name,
                voice.language,
                voice.rate_wpm / OWN_RATE_WPM,
                int(content_id(self.name, line.text, voice.name, voice.language, index), 16),
            )
            for index, text in enumerate(texts)
            if any(map(str.isalnum, text))
        ]

    def _whole(self, waves: Sequence[Audio | Exception]) -> Speech | Exception:
        """The parts of a line, joined and at 16 kHz."""
        pause = np.zeros(int(_PAUSE_SECONDS * self.model.rate_hz), np.float32)
        pieces: list[Audio] = []
        for wave in waves:
            if isinstance(wave, Exception):
                return wave
            if not np.isfinite(wave).all():
                return RejectedError("the model made something that is no sound: NaN or infinite samples")
            if not len(wave) or np.abs(wave).max() < _SILENT:
                return RejectedError("the model said nothing: silence")
            pieces += [pause, wave] if pieces else [wave]
        return Speech(soxr.resample(np.concatenate(pieces), self.model.rate_hz, SAMPLE_RATE_HZ).astype(np.float32))


def _can_say(text: str, language: str, tokenizer: Any) -> bool:
    if tokenizer is None:
        return any(map(str.isalnum, text))
    try:
        return bool(token_ids(tokenizer, text, language))
    except RejectedError:
        return False
