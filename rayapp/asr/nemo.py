"""NeMo's recognisers: Parakeet TDT, other transducers, CTC, both at once, and small models of the same make.

NeMo is imported when a model is made or loaded: it costs some 10 seconds and 700 MB.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint

from rayapp.asr.batching import alike
from rayapp.asr.context import Context, Phrases
from rayapp.asr.heads import Head, Labels, make_head, words
from rayapp.asr.phonemes import SLICE_SECONDS, PhonemeLoss
from rayapp.asr.recogniser import Heard
from rayapp.asr.tokeniser import PieceTokeniser
from rayapp.errors import UserError
from rayapp.records import SAMPLE_RATE_HZ, Audio

_MOST_SAMPLES_ON_CPU = 32 * SAMPLE_RATE_HZ
"""Encoded at a time, padding included."""


class NemoRecogniser:
    """An `EncDecRNNTBPEModel`, `EncDecHybridRNNTCTCBPEModel` or `EncDecCTCModelBPE` behind the recogniser Protocol."""

    def __init__(self, model: Any, label_noise: float = 0.0) -> None:
        """label_noise: share of the labels that a prediction network is shown wrongly in training."""
        self.model = model
        self.head = make_head(model)
        _turn_input(model.encoder)
        # Else each forward pass waits for all ranks, which need not hear equally many batches.
        model.encoder.sync_max_audio_length = False
        self.module: torch.nn.Module = _LossModule(model, self.head, label_noise)

    @classmethod
    def build(cls, config: dict[str, Any], device: str = "cpu", label_noise: float = 0.0) -> Self:
        """A new model, with random weights, from a NeMo configuration (see `rayapp.asr.recipes`)."""
        with quiet_nemo():
            from nemo.collections.asr.models import ASRModel
            from omegaconf import OmegaConf

            return cls(ASRModel.from_config_dict(OmegaConf.create(config)).to(device), label_noise)

    @classmethod
    def load(cls, path: Path, device: str = "cpu", label_noise: float = 0.0) -> Self:
        """From a `.nemo` file. Raises `UserError` where it is missing or is no such file."""
        if not path.is_file():
            raise UserError(f"model file {path} does not exist")
        with quiet_nemo():
            from nemo.collections.asr.models import ASRModel

            try:
                model = ASRModel.restore_from(str(path.absolute()), map_location=torch.device(device))
            except Exception as error:
                raise UserError(f"{path} is not a NeMo model that can be loaded: {error}") from error
            model.eval()
            return cls(model, label_noise)

    @cached_property
    def tokeniser(self) -> PieceTokeniser:
        each = getattr(self.model.tokenizer, "tokenizers_dict", {"": self.model.tokenizer}).values()
        return PieceTokeniser([tokenizer.tokenizer.serialized_model_proto() for tokenizer in each])

    @property
    def takes_context(self) -> bool:
        return self.head.takes_phrases

    def learn_phonemes(self, count: int, weight: float) -> None:
        slices_per_frame = round(self._frame_seconds / SLICE_SECONDS)
        loss = PhonemeLoss(self.model.encoder._feat_out, count, slices_per_frame)
        assert isinstance(self.module, _LossModule)
        self.module.phoneme_loss = loss.to(self._device)
        self.module.phoneme_weight = weight

    def checkpoint_activations(self) -> int:
        layers = self._conformer("activations cannot be computed anew").layers
        for layer in layers:
            norms = [module for module in layer.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)]
            contexts = partial(_contexts, norms)
            layer.forward = partial(checkpoint, layer.forward, use_reentrant=False, context_fn=contexts)
        return len(layers)

    def spec_augment(self, freq_masks: int, time_masks: int, freq_width: int, time_width: int | float) -> None:
        """Set what SpecAugment hides in training (https://arxiv.org/abs/1904.08779); saved with the model.

        freq_masks, time_masks: how many bands and stretches; 0 and 0 hide nothing.
        freq_width: of a band at most, in mel features. time_width: of a stretch at most, in frames of 10 ms, or, as
            a `float`, as a share of the utterance.
        """
        from omegaconf import open_dict

        model = self.model
        with open_dict(model.cfg):
            model.cfg.spec_augment = {
                "_target_": "nemo.collections.asr.modules.SpectrogramAugmentation",
                "freq_masks": freq_masks,
                "time_masks": time_masks,
                "freq_width": freq_width,
                "time_width": time_width,
            }
        model.spec_augmentation = model.from_config_dict(model.cfg.spec_augment)

    def long_audio(self, context: tuple[int, int] = (128, 128)) -> None:
        """Let each frame attend to so many before and after it, not to all: hours fit where minutes did.

        Memory then grows with the length of the audio, not with its square. Call it before training, if at all.
        """
        encoder = self._conformer("attention cannot be local")
        training, biased = encoder.training, encoder._cfg.get("use_bias", True)
        with quiet_nemo():
            self.model.change_attention_model("rel_pos_local_attn", list(context))
            self.model.change_subsampling_conv_chunking_factor(1)
        for layer in encoder.layers:
            if not biased:  # NeMo forgets that the model has none, and leaves them at random
                for linear in layer.self_attn.children():
                    if isinstance(linear, torch.nn.Linear):
                        linear.register_parameter("bias", None)
        encoder.train(training)

    @torch.no_grad()  # not inference_mode: the tables of positions may grow here, and training goes on with them
    def transcribe(
        self, audio: Sequence[Audio], *, times: bool = False, contexts: Sequence[Context] = ()
    ) -> list[Heard]:
        self.model.eval()
        if any(contexts) and not self.takes_context:
            raise UserError("a model with CTC cannot be told what is likely to be said; transducers and Whisper can")
        spoken = [index for index, samples in enumerate(audio) if len(samples)]
        phrases = [self._writable(contexts[index].phrases) for index in spoken] if any(contexts) else []
        heard = iter(self._heard([audio[index] for index in spoken], times, phrases))
        return [next(heard) if len(samples) else Heard("") for samples in audio]

    def save(self, path: Path) -> None:
        with quiet_nemo():
            self.model.save_to(str(path.absolute()))

    def export(self, path: Path) -> None:
        """Write the networks behind the mel features as `.onnx` or `.ts` (TorchScript), by the suffix.

        CTC becomes one file. A transducer becomes two, `encoder-` and `decoder_joint-` before the name. The model
        cannot be trained any more afterwards.
        """
        self.model.eval()
        with quiet_nemo():
            self.model.export(str(path.absolute()))

    def _heard(self, audio: Sequence[Audio], times: bool, phrases: Sequence[Phrases]) -> list[Heard]:
        """audio: none of it empty."""
        if not audio:
            return []
        encoded, lengths = self._encoded(audio)
        if not times and not phrases:
            return [Heard(text) for text in self.head.texts(encoded, lengths)]
        heard = self.head.pieces(encoded, lengths, phrases)
        return [Heard(text, words(pieces, self._frame_seconds) if times else ()) for text, pieces in heard]

    def _writable(self, phrases: Phrases) -> Phrases:
        """As the model writes them: many know no capitals. What it has no tokens for it will never write."""
        forms = ((phrase, phrase.lower()) for phrase in phrases if phrase.strip())
        known = (next((form for form in each if self._can_write(form)), "") for each in forms)
        return tuple(filter(None, known))

    def _can_write(self, phrase: str) -> bool:
        tokenizer = self.model.tokenizer
        return bool(tokenizer.ids_to_text(tokenizer.text_to_ids(phrase)).split() == phrase.split())

    def _encoded(self, audio: Sequence[Audio]) -> tuple[Tensor, Tensor]:
        """(batch, width, frames) and (batch,) int64 of the whole batch, which a CPU encodes a part at a time.

        A GPU is faster the more it gets at once, and so is decoding on a CPU, where each step costs much the same for
        one as for many. The encoder's activations, however, soon leave a CPU's cache.
        """
        lengths = [len(samples) for samples in audio]
        on_cpu = self._device.type == "cpu"
        groups = alike(lengths, _MOST_SAMPLES_ON_CPU) if on_cpu else [list(range(len(audio)))]
        parts: dict[int, tuple[Tensor, Tensor]] = {}
        for indices in groups:
            signal = pad_sequence([torch.from_numpy(audio[i].copy()) for i in indices], batch_first=True)
            samples = torch.tensor([lengths[i] for i in indices], device=self._device)
            encoded, frames = encode(self.model, signal.to(self._device), samples)
            parts |= zip(indices, zip(encoded.transpose(1, 2), frames, strict=True), strict=True)
        encodings, counts = zip(*(parts[index] for index in range(len(audio))), strict=True)
        return pad_sequence(list(encodings), batch_first=True).transpose(1, 2), torch.stack(counts)

    @property
    def _device(self) -> torch.device:
        device: torch.device = next(self.model.parameters()).device
        return device

    @property
    def _frame_seconds(self) -> float:
        """Between two frames of the encoder."""
        return float(self.model.cfg.preprocessor.window_stride * self.model.encoder.subsampling_factor)

    def _conformer(self, what_not: str) -> Any:
        from nemo.collections.asr.modules import ConformerEncoder

        if not isinstance(self.model.encoder, ConformerEncoder):
            raise UserError(f"{what_not} in a model with a {type(self.model.encoder).__name__}: it needs a Conformer")
        return self.model.encoder


def encode(model: Any, audio: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Mel features and encoder, and SpecAugment between them in training.

    audio: (batch, samples) float32. lengths: (batch,) int64. Returns (batch, width, frames) and (batch,) int64.
    """
    with torch.no_grad():  # NeMo adds dither to the very tensor that it is given
        features, feature_lengths = model.preprocessor(input_signal=audio.clone(), length=lengths)
    if model.training and model.spec_augmentation is not None:
        features = model.spec_augmentation(input_spec=features, length=feature_lengths)
    encoded, encoded_lengths = model.encoder(audio_signal=features, length=feature_lengths)
    return encoded, encoded_lengths


class _LossModule(torch.nn.Module):
    """The model as one module whose forward is the loss: what DeepSpeed and DDP want to wrap."""

    def __init__(self, model: Any, head: Head, label_noise: float) -> None:
        super().__init__()
        self.model = model
        self.head = head
        self.label_noise = label_noise
        self.phoneme_loss: PhonemeLoss | None = None  # beside the model, so that it is not saved with it
        self.phoneme_weight = 0.0
        # DDP copies buffers from rank 0, but each rank's table of positions is as long as its longest audio.
        self._ddp_params_and_buffers_to_ignore = [n for n, _ in self.named_buffers() if n.endswith("pos_enc.pe")]

    def forward(
        self,
        audio: Tensor,
        audio_lengths: Tensor,
        tokens: Tensor,
        token_lengths: Tensor,
        phoneme_slices: Tensor,
    ) -> Tensor:
        """The fields of a `SpeechBatch`; phoneme_slices is read only after `learn_phonemes`. Returns a scalar."""
        encoded, encoded_lengths = encode(self.model, audio, audio_lengths)
        loss = self.head.loss(encoded, encoded_lengths, Labels(tokens, token_lengths, self._shown(tokens)))
        if self.phoneme_loss is not None:
            loss = loss + self.phoneme_weight * self.phoneme_loss(encoded, phoneme_slices)
        return loss

    def _shown(self, tokens: Tensor) -> Tensor:
        """What the prediction network sees: some of the labels replaced at random.

        A small model learns the sentences by heart sooner than the sounds, and then writes what it
        expects instead of what it hears. Where its history cannot be trusted, it has to listen.
        """
        if not self.label_noise or not self.training:
            return tokens
        wrong = torch.rand(tokens.shape, device=tokens.device) < self.label_noise
        return torch.where(wrong, torch.randint_like(tokens, self.model.tokenizer.vocab_size), tokens)


def _turn_input(encoder: Any) -> None:
    """The strided convolutions at the front are a third faster so on a CPU.

    The input is turned, not the weights: DeepSpeed broadcasts parameters as bytes and needs them contiguous.
    """
    convolutions = (m for m in encoder.modules() if isinstance(m, torch.nn.Conv2d))
    if first := next(convolutions, None):
        first.register_forward_pre_hook(_channels_last)


def _channels_last(_module: torch.nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(x.contiguous(memory_format=torch.channels_last) for x in inputs)


def _contexts(
    norms: Sequence[torch.nn.Module],
) -> tuple[contextlib.AbstractContextManager[None], contextlib.AbstractContextManager[None]]:
    """What a layer is computed in, and what it is computed anew in."""
    return contextlib.nullcontext(), _counted_once(norms)


@contextlib.contextmanager
def _counted_once(norms: Sequence[torch.nn.Module]) -> Iterator[None]:
    """While a layer is computed anew, its batch norms write their statistics into copies: they have seen the batch."""
    statistics = [norm._buffers for norm in norms]
    for norm, buffers in zip(norms, statistics, strict=True):
        norm._buffers = {name: buffer.clone() for name, buffer in buffers.items() if buffer is not None}
    try:
        yield
    finally:
        for norm, buffers in zip(norms, statistics, strict=True):
            norm._buffers = buffers


@contextlib.contextmanager
def quiet_nemo() -> Iterator[None]:
    """NeMo greets with pages of warnings about what this project does not use."""
    os.environ.setdefault("NEMO_LOG_LEVEL", "ERROR")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from nemo.utils import logging as nemo_logging

        nemo_logging.setLevel(logging.ERROR)
        _import_nemo()
        yield


@cache
def _import_nemo() -> None:
    """Its modules stay for as long as the process: to look for garbage among them costs seconds, here and at exit."""
    collects = gc.isenabled()
    gc.disable()
    try:
        import nemo.collections.asr.models  # noqa: F401
    finally:
        if collects:
            gc.enable()
    gc.freeze()
