"""A Coqui model, loaded: parts of texts become sound, in batches where the model can. For workers."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pipelines.speech.coqui.config import CoquiConfig
from pipelines.speech.coqui.files import model_file, readable_config
from pipelines.speech.coqui.reading import language_name, token_ids, use_bundled_espeak
from pipelines.speech.coqui.speakers import clips, presets
from pipelines.speech.ipa import IPA
from rayapp.errors import RejectedError, UserError
from rayapp.ids import content_id
from rayapp.records import Audio

if TYPE_CHECKING:
    from TTS.utils.synthesizer import Synthesizer

    from pipelines.speech.coqui.vits import VitsInput


class Part(NamedTuple):
    """What is said in one go."""

    text: str
    speaker: str
    language: str
    tempo: float
    """1 is the model's own pace."""
    seed: int


class LoadedModel:
    """Speaks parts of texts; what it says of one does not depend on the others, up to rounding."""

    def __init__(self, config: CoquiConfig) -> None:
        self.batch_size = config.batch_size
        self.presets = presets(config)
        self.clips = clips(config)
        self.synthesizer = _loaded(config)
        self.model = self.synthesizer.tts_model
        self.rate_hz = int(self.synthesizer.output_sample_rate)
        self.scratch = tempfile.TemporaryDirectory()  # where Coqui keeps a voice that it cloned
        self.vits = _batched(self.model)

    def language(self, code: str) -> str | None:
        """What the model calls a language; see `language_name`."""
        return language_name(self.model.language_manager.language_names, code)

    def longest(self, language: str, limit: int) -> int:
        """Characters that the model can say at once: its own limit for a language, where it has one."""
        limits: dict[str, int] = getattr(self.model.tokenizer, "char_limits", {})
        return min(limit, limits.get(language.split("-")[0], limit))

    def sentences(self, text: str, language: str) -> list[str]:
        return list(self.synthesizer.split_into_sentences(text, self.language(language)))

    def speak(self, parts: Sequence[Part]) -> list[Audio | Exception]:
        """A waveform a part, at `rate_hz`, or the `RejectedError` that says why there is none."""
        if self.vits is None:
            return [_tried(self._alone, part) for part in parts]
        read = [_tried(self._read, part) for part in parts]
        said: list[Audio | Exception] = [part if isinstance(part, Exception) else np.zeros(0) for part in read]
        # Texts of like length together: what is padded is computed for nothing.
        ready = sorted((len(part.token_ids), i) for i, part in enumerate(read) if not isinstance(part, Exception))
        for first in range(0, len(ready), self.batch_size):
            indices = [i for _, i in ready[first : first + self.batch_size]]
            for index, wave in zip(indices, self.vits.speak([read[i] for i in indices]), strict=True):
                said[index] = wave
        return said

    def _read(self, part: Part) -> VitsInput:
        from pipelines.speech.coqui.vits import VitsInput

        language = self.language(part.language)
        ids = token_ids(self.model.tokenizer, part.text, language or self.model.language_manager.language_names[0])
        speaker_id, d_vector = self.model._get_speaker_id_or_dvector(*self._who(part.speaker), self.scratch.name)
        return VitsInput(ids, speaker_id, d_vector, self.model._get_language_id(language), part.seed, part.tempo)

    def _alone(self, part: Part) -> Audio:
        """One part through Coqui's own way: spectrogram models with a vocoder, XTTS and others that draw as they go."""
        import torch
        from TTS.utils.synthesizer import PAD_SILENCE_SAMPLES

        if IPA.search(part.text):
            raise RejectedError(f"the model takes no IPA: give a respelling in place of the IPA in {part.text!r}")
        torch.manual_seed(part.seed)
        np.random.seed(part.seed % 2**32)  # Griffin-Lim's phases, where a model has no vocoder
        speaker, clip = self._who(part.speaker)
        tempo = {"speed": part.tempo} if self.model.config.model == "xtts" else {}
        try:
            wave = self.synthesizer.tts(
                part.text,
                speaker_name=speaker,
                speaker_wav=clip,
                language_name=self.language(part.language),
                voice_dir=self.scratch.name,
                split_sentences=False,
                **tempo,
            )
        except (AssertionError, ValueError) as error:  # how models say that a text is too long or has no tokens
            raise RejectedError(f"the model cannot say {part.text!r}: {error}") from error
        return np.asarray(wave[:-PAD_SILENCE_SAMPLES], np.float32)

    def _who(self, speaker: str) -> tuple[str | None, str | None]:
        """What the model calls a speaker, and the recording to clone, where it has not been cloned yet."""
        if speaker in self.presets:
            return self.presets[speaker], None
        if speaker not in self.clips:
            raise RejectedError(f"the model has no speaker {speaker!r}")
        name = content_id(speaker)
        is_cloned = Path(self.scratch.name, f"{name}.pth").is_file()
        return name, None if is_cloned else str(self.clips[speaker])


def _loaded(config: CoquiConfig) -> Synthesizer:
    import torch
    from TTS.utils.synthesizer import Synthesizer

    if config.gpus > 0 and not torch.cuda.is_available():
        raise UserError(f"speech.coqui.gpus is {config.gpus}, but no GPU is to be seen here; 0 speaks on the CPU")
    use_bundled_espeak()
    weights = model_file(Path(config.model))
    vocoder = model_file(Path(config.vocoder)) if config.vocoder else None
    try:
        with readable_config(weights) as config_path:
            return Synthesizer(
                tts_checkpoint=weights,
                tts_config_path=config_path,
                vocoder_checkpoint=vocoder,
                vocoder_config=vocoder and vocoder.parent / "config.json",
                use_cuda=config.gpus > 0,
            )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise UserError(
            f"Coqui model {weights} cannot be loaded: {str(error)[:300]}; is its config.json that of this file? "
            "If it was downloaded, remove its folder and start again"
        ) from error


def _batched(model: Any) -> Any:
    """The model for batches; None for models that are not VITS, or that stretch what VITS makes."""
    from TTS.tts.models.vits import Vits

    from pipelines.speech.coqui.vits import BatchedVits

    return BatchedVits(model) if isinstance(model, Vits) and not model.args.encoder_sample_rate else None


def _tried(make: Any, part: Part) -> Any:
    try:
        return make(part)
    except RejectedError as error:
        return error
