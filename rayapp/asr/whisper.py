"""Whisper, of any size and in Hugging Face's layout, as a recogniser; its adapters are in `rayapp.asr.adapters`.

transformers is imported when a model is made or loaded: it costs some seconds.
"""

from __future__ import annotations

import contextlib
import json
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor
from torch.nn.functional import pad

from rayapp.asr.adapters import ADAPTER_CONFIG, Adaptable
from rayapp.asr.context import NOTHING_KNOWN, Context
from rayapp.asr.recogniser import Heard, Tokeniser, Word
from rayapp.asr.resolve import WHISPER_COPIES, WHISPER_FILES, is_on_hub
from rayapp.errors import RejectedError, UserError
from rayapp.records import Audio

if TYPE_CHECKING:
    import tokenizers

GENERATION_CONFIG = "generation_config.json"

START = "<|startoftranscript|>"
PREVIOUS = "<|startofprev|>"
"""Before what was said earlier, or is made out to have been."""
_UNSPOKEN = re.compile(r"<\|.*\|>")
"""A token that tells the decoder what to do, or a time."""
_UNLABELLED = -100
"""Where the loss does not look; transformers' number."""
_FEWEST_FRAMES = 16
"""Of audio, for words to be put in time: the median filter is seven encoder frames wide."""
_HUB_CACHE = re.compile(r"models--([^/]+)--([^/]+)/snapshots/([0-9a-f]+)$")
"""How a model's folder in Hugging Face's cache is called: owner, name and commit."""


@dataclass(frozen=True)
class WhisperTokeniser:
    """Byte-level BPE: it has a token for every byte, so that no text is beyond it."""

    backend: tokenizers.Tokenizer

    @classmethod
    def open(cls, path: Path) -> Self:
        """That of a model, or of an adapter's base, without its weights. Raises `UserError` as
        `WhisperRecogniser.load` does."""
        while (path / ADAPTER_CONFIG).is_file():
            path = base_of(path)
        return cls(_load_tokenizer(path).backend_tokenizer)

    def encode(self, text: str) -> list[int]:
        """A text's tokens alone. Whisper writes a space before its first word, as before any other."""
        written = " " + unicodedata.normalize("NFC", text).strip()
        return list(self.backend.encode(written, add_special_tokens=False).ids)

    def inexpressible(self, text: str) -> str:
        return ""


class WhisperRecogniser(Adaptable):
    """A `WhisperForConditionalGeneration` behind the recogniser Protocol."""

    def __init__(self, model: Any, tokenizer: Any, extractor: Any, base: str, revision: str | None = None) -> None:
        """tokenizer, extractor: transformers' `WhisperTokenizer` and `WhisperFeatureExtractor` of the model."""
        super().__init__()
        self.model, self.base, self.base_revision = model, base, revision
        self.tokeniser: Tokeniser = WhisperTokeniser(tokenizer.backend_tokenizer)
        self.max_seconds = float(extractor.chunk_length)
        """Longer audio can be transcribed, but not learnt from."""
        self.module = LossModule(model, LogMel(extractor))
        self._tokenizer, self._extractor = tokenizer, extractor
        self._unspoken = {
            number for number, token in tokenizer.added_tokens_decoder.items() if _UNSPOKEN.fullmatch(token.content)
        }
        self._generation: dict[str | None, Any] = {None: model.generation_config}
        """Of the base, and of each adapter that brought its own: it may know another language."""

    @classmethod
    def load(cls, path: Path, device: str = "cpu", language: str | None = None) -> Self:
        """From a folder in Hugging Face's layout: a whole model, or an adapter, whose base is loaded too.

        language: of all that is transcribed and learnt, such as `en`; without it, as the model's generation
            configuration has it, and where that has none, Whisper finds out by itself, and cannot learn.

        Weights are read from safetensors alone, into float32. Nothing is fetched from a network but an adapter's base,
        where it is a name on Hugging Face's hub that is not in the cache. Raises `UserError` for a folder that is no
        such model, and a language that the model does not know.
        """
        if (path / ADAPTER_CONFIG).is_file():
            recogniser = cls.load(base_of(path), device)
            recogniser.load_adapter(path.name, path)
            recogniser.use_adapter(path.name)
        else:
            recogniser = cls(*_load_parts(path), *_name_of(path))
            recogniser.model.to(device).eval()
        if language is not None:
            recogniser.language = language
        return recogniser

    @property
    def language(self) -> str | None:
        """Code of the language of all that is transcribed and learnt, such as `en`; None to find out each time."""
        name = getattr(self.model.generation_config, "language", None)
        return None if name is None else _language_token(name).strip("<|>")

    @language.setter
    def language(self, name: str) -> None:
        config = self.model.generation_config
        if not config.is_multilingual:
            if _language_token(name) != "<|en|>":
                raise UserError(f"{self.base} knows English alone, not {name!r}: leave the language out, or take a "
                                "multilingual Whisper")  # fmt: skip
            return
        if _language_token(name) not in config.lang_to_id:
            known = ", ".join(sorted(token.strip("<|>") for token in config.lang_to_id))
            raise UserError(f"{self.base} does not know the language {name!r}; known: {known}")
        config.language, config.task = _language_token(name), "transcribe"

    @property
    def max_labels(self) -> int:
        """More tokens than that in one utterance have no place in the decoder."""
        return int(self.model.config.max_target_positions) - len(self.module.prompt())

    def learn_phonemes(self, count: int, weight: float) -> None:
        raise UserError("a Whisper cannot be taught phonemes beside its text; set phoneme_weight: 0")

    def checkpoint_activations(self) -> int:
        from transformers.modeling_layers import GradientCheckpointingLayer

        # The other way of PyTorch's needs inputs with a gradient, which an adapter's frozen base has not.
        self.model.gradient_checkpointing_enable({"use_reentrant": False})
        layers = (layer for layer in self.model.modules() if isinstance(layer, GradientCheckpointingLayer))
        return sum(layer.gradient_checkpointing for layer in layers)

    takes_context = True

    @torch.inference_mode()
    def transcribe(
        self, audio: Sequence[Audio], *, times: bool = False, contexts: Sequence[Context] = ()
    ) -> list[Heard]:
        """Audio above `max_seconds` is decoded piece by piece, by transformers' long-form generation.

        times: words have the mean probability of their tokens as confidence, and times from the attention of the
            model's alignment heads; a model without such heads gives no words.
        contexts: audio of one context is a batch of its own.
        """
        self.module.eval()
        batches: defaultdict[tuple[bool, Context], list[int]] = defaultdict(list)
        for index, samples in enumerate(audio):
            context = contexts[index] if contexts else NOTHING_KNOWN
            batches[len(samples) <= self.module.log_mel.samples, context].append(index)
        heard: dict[int, Heard] = {}
        for (_, context), indices in batches.items():
            segments = self._generate([audio[index] for index in indices], times, self._told_before(context))
            heard |= zip(indices, (self._heard(pieces, times) for pieces in segments), strict=True)
        return [heard[index] for index in range(len(audio))]

    def merge(self) -> WhisperRecogniser:
        """The model with the adapter in use as a part of it, by itself; this one stays as it is."""
        if self._peft is None:
            return self
        return type(self)(self._merged(), self._tokenizer, self._extractor, self.base, self.base_revision)

    def save(self, path: Path) -> None:
        """A folder in Hugging Face's layout; the adapter in use is merged in."""
        with quiet_transformers():
            self.merge().model.save_pretrained(path)
            self._tokenizer.save_pretrained(path)
            self._extractor.save_pretrained(path)

    def load_adapter(self, name: str, folder: Path) -> None:
        from transformers import GenerationConfig

        super().load_adapter(name, folder)
        if (folder / GENERATION_CONFIG).is_file():
            self._generation[name] = GenerationConfig.from_pretrained(folder, local_files_only=True)

    def unload_adapter(self, name: str) -> None:
        super().unload_adapter(name)
        self._generation.pop(name, None)

    def use_adapter(self, name: str | None) -> None:
        super().use_adapter(name)
        self.model.generation_config = self._generation.get(name, self._generation[None])

    def save_adapter(self, folder: Path) -> None:
        super().save_adapter(folder)
        self.model.generation_config.save_pretrained(folder)

    def _told_before(self, context: Context) -> Tensor | None:
        """Tokens that the decoder goes on from; of a long prompt its end, as near to what is said as can be."""
        said = [context.prompt.strip(), ", ".join(filter(None, map(str.strip, context.keywords)))]
        tokens = self.tokeniser.encode(" ".join(filter(None, said))) if context else []
        if not tokens:
            return None
        most = self.model.config.max_target_positions // 2 - 2  # what OpenAI's gives it: half of the decoder, less two
        start = self._tokenizer.convert_tokens_to_ids(PREVIOUS)
        return torch.tensor([start, *tokens[-most:]], device=self.model.device)

    def _generate(self, audio: Sequence[Audio], times: bool, before: Tensor | None) -> list[list[dict[str, Any]]]:
        """transformers' segments of each audio; they hold `tokens` and, with `times`, when each was said."""
        log_mel, device = self.module.log_mel, self.model.device
        signal = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(a.copy()) for a in audio], batch_first=True)
        features = log_mel(signal.to(device))
        frames = torch.tensor([-(-len(a) // log_mel.hop) for a in audio], device=device).clamp(min=_FEWEST_FRAMES)
        mask = torch.arange(features.shape[-1], device=device) < frames[:, None]
        with quiet_transformers(), self._attention_kept():
            generated = self.model.generate(
                features.to(self.model.dtype),
                attention_mask=mask.long(),
                num_beams=1,
                do_sample=False,
                return_segments=True,
                return_token_timestamps=times and self._has_times,
                prompt_ids=before,
            )
        segments: list[list[dict[str, Any]]] = generated["segments"]
        return segments

    @property
    def _has_times(self) -> bool:
        return getattr(self.model.generation_config, "alignment_heads", None) is not None

    @contextlib.contextmanager
    def _attention_kept(self) -> Iterator[None]:
        """Generating with times leaves the model with slow attention for good."""
        before = self.model.config._attn_implementation
        try:
            yield
        finally:
            self.model.config._attn_implementation = before

    def _heard(self, segments: Sequence[dict[str, Any]], times: bool) -> Heard:
        tokens = [token for segment in segments for token in segment["tokens"].tolist() if token not in self._unspoken]
        text = self._tokenizer.decode(tokens).strip()
        words = [word for segment in segments for word in self._words(segment)] if times and self._has_times else []
        return Heard(text, tuple(words))

    def _words(self, segment: dict[str, Any]) -> Iterator[Word]:
        from transformers.models.whisper.tokenization_whisper import LANGUAGES, _combine_tokens_into_words

        tokens, ends = segment["tokens"].tolist(), segment["token_timestamps"].tolist()
        starts = [float(segment["start"]), *ends[:-1]]
        result, (first, last) = segment["result"], segment["idxs"]
        prompt = len(result["sequences"]) - len(result["scores"])
        scores = torch.stack(result["scores"][first - prompt : last - prompt]).float()
        sure = scores.softmax(-1)[range(len(tokens)), tokens].tolist()

        spoken = [index for index, token in enumerate(tokens) if token not in self._unspoken]
        languages = {token: name for name, token in getattr(self.model.generation_config, "lang_to_id", {}).items()}
        told = [languages[token] for token in result["sequences"][:prompt].tolist() if token in languages]
        language = LANGUAGES.get(told[0].strip("<|>")) if told else "english"
        words, _, parts = _combine_tokens_into_words(self._tokenizer, [tokens[index] for index in spoken], language)
        for word, part in zip(words, parts, strict=True):
            indices = [spoken[index] for index in part]
            if word.strip():
                confidence = sum(sure[index] for index in indices) / len(indices)
                yield Word(word.strip(), starts[indices[0]], ends[indices[-1]], confidence)


class LogMel:
    """What Whisper sees of audio: the same as `WhisperFeatureExtractor`, on the audio's device."""

    def __init__(self, extractor: Any) -> None:
        self.window, self.hop, self.samples = extractor.n_fft, extractor.hop_length, extractor.n_samples
        self.filters = torch.from_numpy(extractor.mel_filters.T.copy()).float()

    @torch.no_grad()
    def __call__(self, audio: Tensor) -> Tensor:
        """audio: (batch, samples) float32. Returns (batch, mels, frames), float32: of a whole window at least."""
        samples = max(self.samples, -(-audio.shape[1] // self.hop) * self.hop)
        with torch.autocast(audio.device.type, enabled=False):
            window = torch.hann_window(self.window, device=audio.device)
            signal = pad(audio.float(), (0, samples - audio.shape[1]))
            spectrum = torch.stft(signal, self.window, self.hop, window=window, return_complex=True)
            mels = self.filters.to(audio.device) @ spectrum[..., :-1].abs().square()
            log_mels = mels.clamp(min=1e-10).log10()
            loudest = log_mels.amax(dim=(1, 2), keepdim=True)
            return (torch.maximum(log_mels, loudest - 8) + 4) / 4


class LossModule(torch.nn.Module):
    """The model as one module whose forward is the loss: what DeepSpeed and DDP want to wrap."""

    def __init__(self, model: Any, log_mel: LogMel) -> None:
        super().__init__()
        self.model = model
        self.log_mel = log_mel
        self.predict: Callable[..., Any] = model.__call__
        """Takes the model's arguments; an adapter may add a loss of its own."""

    def forward(
        self,
        audio: Tensor,
        audio_lengths: Tensor,
        tokens: Tensor,
        token_lengths: Tensor,
        phoneme_slices: Tensor,
    ) -> Tensor:
        """The fields of a `SpeechBatch`. Returns the mean cross-entropy of the tokens and of the end after them.

        Raises `RejectedError` for audio or text that is too long for the model, see `max_seconds` and `max_labels`.
        """
        if self.training:  # OpenAI's models suppress many a sign, "/" and ":" among them: what is taught must be free
            self.model.generation_config.suppress_tokens = None
        prompt = self.prompt()
        audio = _cut(audio, audio_lengths, self.log_mel.samples, "samples")
        tokens = _cut(tokens, token_lengths, self.model.config.max_target_positions - len(prompt), "tokens")
        features = self.log_mel(audio)
        frames = torch.arange(features.shape[-1], device=audio.device)
        inputs, labels = _teacher_forced(prompt, tokens, token_lengths, self.model.config.eos_token_id)
        loss: Tensor = self.predict(
            input_features=features.to(self.model.dtype),
            attention_mask=(frames * self.log_mel.hop < audio_lengths[:, None]).long(),  # SpecAugment's alone
            decoder_input_ids=inputs,
            labels=labels,
            use_cache=False,
        ).loss
        return loss

    def prompt(self) -> list[int]:
        """The tokens that tell the decoder what to do, as generation gives them. Raises `UserError` without a
        language."""
        config = self.model.generation_config
        start = [config.decoder_start_token_id]
        if config.is_multilingual:
            language = getattr(config, "language", None)
            if language is None:
                raise UserError(
                    f"this Whisper knows {len(config.lang_to_id)} languages: set the one that it is to learn, such as "
                    "en (model.language of a training)"
                )
            start += [config.lang_to_id[_language_token(language)], config.task_to_id["transcribe"]]
        return [*start, config.no_timestamps_token_id]


def _cut(padded: Tensor, lengths: Tensor, most: int, what: str) -> Tensor:
    """(batch, at most `most`). Raises `RejectedError` where that would cut off more than padding."""
    if padded.shape[1] > most and (longest := int(lengths.max())) > most:
        raise RejectedError(f"Whisper learns from at most {most} {what} at once; an utterance has {longest}")
    return padded[:, :most]


def _teacher_forced(prompt: list[int], tokens: Tensor, lengths: Tensor, end: int) -> tuple[Tensor, Tensor]:
    """What the decoder is given and what it is to answer, (batch, prompt + labels) each.

    The prompt is no answer, and what stands after an utterance's end is ignored.
    """
    batch, width = tokens.shape
    given = torch.tensor(prompt, device=tokens.device).expand(batch, -1)
    answers = torch.cat([tokens, tokens.new_zeros(batch, 1)], dim=1)
    positions = torch.arange(width + 1, device=tokens.device)
    answers = answers.masked_fill(positions == lengths[:, None], end)
    answers = answers.masked_fill(positions > lengths[:, None], _UNLABELLED)
    unasked = tokens.new_full((batch, len(prompt) - 1), _UNLABELLED)
    return torch.cat([given, tokens], dim=1), torch.cat([unasked, answers], dim=1)


def _language_token(name: str) -> str:
    """Whisper's token of a language by its code, its English name, or that token itself."""
    from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

    plain = name.lower().strip("<|>")
    return f"<|{TO_LANGUAGE_CODE.get(plain, plain)}|>"


def _name_of(path: Path) -> tuple[str, str | None]:
    """What an adapter is to call its base: name and commit where it lies in the hub's cache, else its path."""
    if in_cache := _HUB_CACHE.search(str(path.absolute())):
        owner, name, revision = in_cache.groups()
        return f"{owner}/{name}", revision
    return str(path.absolute()), None


def _load_parts(path: Path) -> tuple[Any, Any, Any]:
    """Model, tokenizer and feature extractor."""
    from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration

    tokenizer = _load_tokenizer(path)
    with _loading(path):
        model = WhisperForConditionalGeneration.from_pretrained(
            path, dtype=torch.float32, use_safetensors=True, local_files_only=True
        )
        extractor = WhisperFeatureExtractor.from_pretrained(path, local_files_only=True)
    config = model.generation_config
    if not hasattr(config, "no_timestamps_token_id") or not hasattr(config, "is_multilingual"):
        raise UserError(
            f"{path} has an outdated {GENERATION_CONFIG}, or none: copy that of the Whisper that the model was "
            "trained from"
        )
    if tokenizer.convert_tokens_to_ids(START) != config.decoder_start_token_id:
        raise UserError(f"the tokenizer in {path} is not the model's: copy tokenizer.json from where that came from")
    return model, tokenizer, extractor


def _load_tokenizer(path: Path) -> Any:
    """transformers' `WhisperTokenizer`."""
    from transformers import WhisperTokenizer

    if not (path / "config.json").is_file():
        raise UserError(f"{path} is no model in Hugging Face's layout: it has no config.json")
    kind = json.loads((path / "config.json").read_text()).get("model_type")
    if kind != "whisper":
        raise UserError(f"{path} holds a model of type {kind!r}, not whisper")
    if not any((path / file).is_file() for file in ("tokenizer.json", "vocab.json")):
        raise UserError(f"{path} has no tokenizer: copy tokenizer.json from where the model came from")
    with _loading(path):
        return WhisperTokenizer.from_pretrained(path, local_files_only=True)


@contextlib.contextmanager
def _loading(path: Path) -> Iterator[None]:
    try:
        with quiet_transformers():
            yield
    except Exception as error:  # each part has errors of its own
        raise UserError(f"{path} is not a Whisper that can be loaded: {error}") from error


def base_of(adapter: Path) -> Path:
    """The folder of the model that an adapter was trained on, which is fetched from the hub when it comes from there.

    Raises `UserError` where it cannot be had.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    settings = json.loads((adapter / ADAPTER_CONFIG).read_text())
    base, revision = settings.get("base_model_name_or_path"), settings.get("revision")
    if base and Path(base).is_dir():
        return Path(base)
    mend = f"set base_model_name_or_path in {adapter / ADAPTER_CONFIG} to the folder of the model"
    if not base or not is_on_hub(base):
        raise UserError(f"the base of the adapter {adapter} is {base}, which is no folder here: {mend}")
    wanted: dict[str, Any] = {
        "revision": revision,
        "allow_patterns": list(WHISPER_FILES),
        "ignore_patterns": list(WHISPER_COPIES),
    }
    try:
        return Path(snapshot_download(base, local_files_only=True, **wanted))
    except LocalEntryNotFoundError:
        pass
    try:
        return Path(snapshot_download(base, **wanted))
    except Exception as error:  # each way that files come from the hub has errors of its own
        raise UserError(f"the base {base} of the adapter {adapter} cannot be fetched ({error}): {mend}") from error


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """transformers shows progress bars and warns of settings that are meant."""
    from transformers.utils import logging

    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()
