"""NeMo transducers as recognisers: Parakeet TDT, and small models of the same make.

NeMo is imported when a model is made or loaded: it costs some 10 seconds and 700 MB.
"""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import torch

from rayapp.asr.phonemes import SLICE_SECONDS, PhonemeLoss
from rayapp.asr.recogniser import Heard, Word
from rayapp.asr.tdt_loss import TDTLoss
from rayapp.asr.text import plain_text
from rayapp.errors import UserError
from rayapp.records import Audio


class NemoTransducer:
    """An `EncDecRNNTBPEModel` behind the recogniser Protocol."""

    def __init__(self, model: Any, label_noise: float = 0.0) -> None:
        """label_noise: share of the labels that the prediction network is shown wrongly in training."""
        _add_cpu_loss(model)
        # The strided convolutions at the front are a third faster so on a CPU. The input is turned, not
        # the weights: DeepSpeed broadcasts parameters as bytes and needs them contiguous.
        first = next(m for m in model.encoder.pre_encode.modules() if isinstance(m, torch.nn.Conv2d))
        first.register_forward_pre_hook(_channels_last)
        self.model = model
        self.module: torch.nn.Module = _LossModule(model, label_noise)

    @classmethod
    def build(cls, config: dict[str, Any], device: str = "cpu", label_noise: float = 0.0) -> Self:
        """A new model, with random weights, from a NeMo configuration (see `rayapp.asr.recipes`)."""
        with _quiet_nemo():
            from nemo.collections.asr.models import EncDecRNNTBPEModel
            from omegaconf import OmegaConf

            return cls(EncDecRNNTBPEModel(OmegaConf.create(config)).to(device), label_noise)

    @classmethod
    def load(cls, path: Path, device: str = "cpu", label_noise: float = 0.0) -> Self:
        """From a `.nemo` file. Raises `UserError` where it is missing or is no such file."""
        if not path.is_file():
            raise UserError(f"model file {path} does not exist")
        with _quiet_nemo():
            from nemo.collections.asr.models import ASRModel

            try:
                model = ASRModel.restore_from(str(path.absolute()), map_location=torch.device(device))
            except Exception as error:
                raise UserError(f"{path} is not a NeMo model that can be loaded: {error}") from error
        model.eval()
        return cls(model, label_noise)

    @torch.no_grad()
    def features(self, audio: Audio) -> torch.Tensor:
        self.model.preprocessor.eval()  # no dither: what is kept must not depend on a draw
        device = next(self.model.parameters()).device
        signal = torch.from_numpy(audio)[None].to(device)
        mels, lengths = self.model.preprocessor(
            input_signal=signal, length=torch.tensor([signal.shape[1]], device=device)
        )
        return mels[0, :, : int(lengths[0])].T.half().cpu()

    def tokenise(self, text: str) -> list[int]:
        tokens: list[int] = self.model.tokenizer.text_to_ids(plain_text(text))
        return tokens

    def learn_phonemes(self, count: int, weight: float) -> None:
        slices_per_frame = round(self._frame_seconds / SLICE_SECONDS)
        loss = PhonemeLoss(self.model.encoder.d_model, count, slices_per_frame)
        assert isinstance(self.module, _LossModule)
        self.module.phoneme_loss = loss.to(next(self.model.parameters()).device)
        self.module.phoneme_weight = weight

    @torch.inference_mode()
    def transcribe(self, audio: Sequence[Audio], *, times: bool = False) -> list[Heard]:
        if not audio:
            return []
        self.model.eval()
        lengths = torch.tensor([len(a) for a in audio])
        signal = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(a.copy()) for a in audio], batch_first=True)
        device = next(self.model.parameters()).device
        encoded, encoded_lengths = self.model(input_signal=signal.to(device), input_signal_length=lengths.to(device))
        hypotheses = self.model.decoding.rnnt_decoder_predictions_tensor(
            encoded, encoded_lengths, return_hypotheses=True
        )
        return [Heard(h.text, self._words(h) if times else ()) for h in hypotheses]

    def save(self, path: Path) -> None:
        with _quiet_nemo():
            self.model.save_to(str(path.absolute()))

    @property
    def _frame_seconds(self) -> float:
        """Between two frames of the encoder."""
        return float(self.model.cfg.preprocessor.window_stride * self.model.encoder.subsampling_factor)

    def _words(self, hypothesis: Any) -> tuple[Word, ...]:
        """Word times from the frames at which the tokens were emitted and how long each lasted."""
        frame_seconds = self._frame_seconds
        pieces = self.model.tokenizer.ids_to_tokens([int(i) for i in hypothesis.y_sequence])
        starts = [int(t) for t in hypothesis.timestamp]
        durations = [int(d) for d in hypothesis.token_duration] if hypothesis.token_duration is not None else []
        words: list[Word] = []
        for index, (piece, start) in enumerate(zip(pieces, starts, strict=True)):
            end = start + (durations[index] if index < len(durations) else 1)
            text = piece.replace("▁", "")
            if piece.startswith("▁") or not words:
                words.append(Word(text, start * frame_seconds, end * frame_seconds))
            else:
                last = words[-1]
                words[-1] = Word(last.text + text, last.start_seconds, end * frame_seconds)
        return tuple(word for word in words if word.text)


def _channels_last(_module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return tuple(x.contiguous(memory_format=torch.channels_last) for x in inputs)


class _LossModule(torch.nn.Module):
    """The model as one module whose forward is the loss: what DeepSpeed and DDP want to wrap."""

    def __init__(self, model: Any, label_noise: float) -> None:
        super().__init__()
        self.model = model
        self.label_noise = label_noise
        self.phoneme_loss: PhonemeLoss | None = None  # beside the model, so that it is not saved with it
        self.phoneme_weight = 0.0

    def forward(
        self,
        features: torch.Tensor,
        feature_lengths: torch.Tensor,
        tokens: torch.Tensor,
        token_lengths: torch.Tensor,
        phoneme_slices: torch.Tensor,
    ) -> torch.Tensor:
        """features: (batch, frames, mels). tokens: (batch, labels). Lengths: (batch,). Returns a scalar.

        phoneme_slices: (batch, slices), see `rayapp.asr.phonemes`; read only after `learn_phonemes`.
        """
        model = self.model
        encoded, encoded_lengths = model(processed_signal=features.mT.float(), processed_signal_length=feature_lengths)
        decoded, _, _ = model.decoder(targets=self._shown(tokens), target_length=token_lengths)
        joint = model.joint(encoder_outputs=encoded, decoder_outputs=decoded)
        loss: torch.Tensor = model.loss(
            log_probs=joint, targets=tokens, input_lengths=encoded_lengths, target_lengths=token_lengths
        )
        if self.phoneme_loss is not None:
            loss = loss + self.phoneme_weight * self.phoneme_loss(encoded, phoneme_slices)
        return loss

    def _shown(self, tokens: torch.Tensor) -> torch.Tensor:
        """What the prediction network sees: some of the labels replaced at random.

        A small model learns the sentences by heart sooner than the sounds, and then writes what it
        expects instead of what it hears. Where its history cannot be trusted, it has to listen.
        """
        if not self.label_noise or not self.training:
            return tokens
        wrong = torch.rand(tokens.shape, device=tokens.device) < self.label_noise
        return torch.where(wrong, torch.randint_like(tokens, self.model.tokenizer.vocab_size), tokens)


def _add_cpu_loss(model: Any) -> None:
    """NeMo's TDT loss is a CUDA kernel: put ours beside it, for what lies on the CPU.

    `loss_name` stays `tdt`: NeMo special-cases that name for the index of the blank.
    """
    if model.cfg.loss.get("loss_name") != "tdt":
        return
    settings = model.cfg.loss.tdt_kwargs
    ours = TDTLoss(
        blank=model.loss._blank,
        durations=list(settings.durations),
        sigma=settings.get("sigma", 0.0),
        omega=settings.get("omega", 0.0),
    )
    model.loss._loss = _LossByDevice(ours, model.loss._loss)


class _LossByDevice(torch.nn.Module):
    """One loss for logits on the CPU, another for those on a GPU."""

    def __init__(self, on_cpu: torch.nn.Module, on_gpu: torch.nn.Module) -> None:
        super().__init__()
        self.on_cpu, self.on_gpu = on_cpu, on_gpu
        self.reduction: str | None = None  # NeMo reduces; it sets and resets this attribute around each call

    def forward(
        self, acts: torch.Tensor, labels: torch.Tensor, act_lens: torch.Tensor, label_lens: torch.Tensor
    ) -> torch.Tensor:
        loss = self.on_gpu if acts.is_cuda else self.on_cpu
        losses: torch.Tensor = loss(acts=acts, labels=labels, act_lens=act_lens, label_lens=label_lens)
        return losses


@contextlib.contextmanager
def _quiet_nemo() -> Iterator[None]:
    """NeMo greets with pages of warnings about what this project does not use."""
    os.environ.setdefault("NEMO_LOG_LEVEL", "ERROR")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from nemo.utils import logging as nemo_logging

        nemo_logging.setLevel(logging.ERROR)
        yield
