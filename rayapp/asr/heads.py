"""What stands on the encoder of a NeMo model: a transducer, CTC, or both. Each has its loss, and its way to words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any, Protocol

import torch
from torch import Tensor

from rayapp.asr.boosting import BoostedDecoding
from rayapp.asr.context import Phrases
from rayapp.asr.recogniser import Word
from rayapp.asr.tdt_loss import TDTLoss, rnnt_loss
from rayapp.errors import UserError


@dataclass(frozen=True)
class Labels:
    """What an utterance should be heard as.

    tokens: (batch, labels) int64. lengths: (batch,) int64. shown: what a prediction network is shown of `tokens`.
    """

    tokens: Tensor
    lengths: Tensor
    shown: Tensor


@dataclass(frozen=True)
class Piece:
    """A token that was heard; times in frames of the encoder."""

    text: str
    """As the tokenizer has it: with `▁` where a word starts."""
    start: int
    end: int
    confidence: float


class Head(Protocol):
    """encoded: (batch, width, frames). encoded_lengths: (batch,) int64."""

    takes_phrases: bool
    """Whether `pieces` can be told what is likely to be said."""

    def loss(self, encoded: Tensor, encoded_lengths: Tensor, labels: Labels) -> Tensor:
        """A scalar, reduced as the model's configuration says."""
        ...

    def texts(self, encoded: Tensor, encoded_lengths: Tensor) -> list[str]:
        """Of each utterance, the best token at each moment."""
        ...

    def pieces(
        self, encoded: Tensor, encoded_lengths: Tensor, phrases: Sequence[Phrases] = ()
    ) -> list[tuple[str, list[Piece]]]:
        """The texts, each with the pieces that it consists of.

        phrases: likely in each audio, in letters that the model has; none where `takes_phrases` is false.
        """
        ...


def make_head(model: Any) -> Head:
    """Of a NeMo model. Raises `UserError` for one that is neither a transducer nor CTC."""
    from nemo.collections.asr.models import EncDecCTCModelBPE, EncDecHybridRNNTCTCBPEModel, EncDecRNNTBPEModel

    if isinstance(model, EncDecHybridRNNTCTCBPEModel):
        return HybridHead(model)
    if isinstance(model, EncDecRNNTBPEModel):
        return TransducerHead(model)
    if isinstance(model, EncDecCTCModelBPE):
        return CTCHead(model)
    raise UserError(
        f"{type(model).__name__} is no recogniser that can be used; valid are EncDecRNNTBPEModel, "
        "EncDecHybridRNNTCTCBPEModel and EncDecCTCModelBPE"
    )


class TransducerHead:
    """RNN-T or TDT."""

    takes_phrases = True

    def __init__(self, model: Any) -> None:
        self.model = model
        _add_cpu_loss(model)
        self._texts, self._pieces = (self._decoding(confidence=confidence) for confidence in (False, True))

    def loss(self, encoded: Tensor, encoded_lengths: Tensor, labels: Labels) -> Tensor:
        model = self.model
        decoded, _, _ = model.decoder(targets=labels.shown, target_length=labels.lengths)
        loss: Tensor
        if model.joint.fuse_loss_wer:  # a few utterances at a time, so that fewer logits are in memory
            loss, *_ = model.joint(
                encoder_outputs=encoded,
                decoder_outputs=decoded,
                encoder_lengths=encoded_lengths,
                transcripts=labels.tokens,
                transcript_lengths=labels.lengths,
                compute_wer=False,
            )
            return loss
        loss = model.loss(
            log_probs=model.joint(encoder_outputs=encoded, decoder_outputs=decoded),
            targets=labels.tokens,
            input_lengths=encoded_lengths,
            target_lengths=labels.lengths,
        )
        return loss

    def texts(self, encoded: Tensor, encoded_lengths: Tensor) -> list[str]:
        heard = self._texts.rnnt_decoder_predictions_tensor(encoded, encoded_lengths, return_hypotheses=True)
        return [hypothesis.text for hypothesis in heard]

    def pieces(
        self, encoded: Tensor, encoded_lengths: Tensor, phrases: Sequence[Phrases] = ()
    ) -> list[tuple[str, list[Piece]]]:
        if any(phrases):
            heard = self._boosted.hypotheses(encoded, encoded_lengths, phrases)
        else:
            heard = self._pieces.rnnt_decoder_predictions_tensor(encoded, encoded_lengths, return_hypotheses=True)
        return [(hypothesis.text, list(self._pieces_of(hypothesis))) for hypothesis in heard]

    @cached_property
    def _boosted(self) -> BoostedDecoding:
        """Made when it is asked for: it keeps tables of 80 MB."""
        return BoostedDecoding(self.model, _greedy(self.model.cfg.decoding, confidence=True))

    def _pieces_of(self, hypothesis: Any) -> Iterable[Piece]:
        """The frames at which the tokens were emitted; each lasts as long as a TDT model says, or one frame."""
        texts = self.model.tokenizer.ids_to_tokens([int(token) for token in hypothesis.y_sequence])
        starts = [int(frame) for frame in hypothesis.timestamp]
        told = [] if hypothesis.token_duration is None else [int(frames) for frames in hypothesis.token_duration]
        durations = told or [1] * len(starts)
        confidences = _confidences(hypothesis)
        for text, start, duration, confidence in zip(texts, starts, durations, confidences, strict=True):
            yield Piece(text, start, start + duration, confidence)

    def _decoding(self, *, confidence: bool) -> Any:
        from nemo.collections.asr.parts.submodules.rnnt_decoding import RNNTBPEDecoding

        model = self.model
        settings = _greedy(model.cfg.decoding, confidence=confidence)
        return RNNTBPEDecoding(settings, decoder=model.decoder, joint=model.joint, tokenizer=model.tokenizer)


class CTCHead:
    """Connectionist temporal classification, by a decoder of its own on the encoder."""

    takes_phrases = False

    def __init__(self, model: Any) -> None:
        self.model = model
        self._texts, self._pieces = (self._decoding(confidence=confidence) for confidence in (False, True))

    def loss(self, encoded: Tensor, encoded_lengths: Tensor, labels: Labels) -> Tensor:
        return _ctc_loss(self.model.decoder, self.model.loss, encoded, encoded_lengths, labels)

    def texts(self, encoded: Tensor, encoded_lengths: Tensor) -> list[str]:
        return [hypothesis.text for hypothesis in self._heard(self._texts, encoded, encoded_lengths)]

    def pieces(
        self, encoded: Tensor, encoded_lengths: Tensor, phrases: Sequence[Phrases] = ()
    ) -> list[tuple[str, list[Piece]]]:
        assert not any(phrases)
        heard = self._heard(self._pieces, encoded, encoded_lengths)
        return [(hypothesis.text, list(self._pieces_of(hypothesis))) for hypothesis in heard]

    def _heard(self, decoding: Any, encoded: Tensor, encoded_lengths: Tensor) -> list[Any]:
        log_probs = self.model.decoder(encoder_output=encoded)
        heard: list[Any] = decoding.ctc_decoder_predictions_tensor(log_probs, encoded_lengths, return_hypotheses=True)
        return heard

    def _pieces_of(self, hypothesis: Any) -> Iterable[Piece]:
        """Each run of frames with the same token: NeMo's own times have each piece start where the one before did."""
        blank = self._pieces.blank_id
        confidences = iter(_confidences(hypothesis))
        frame = 0
        for token, run in groupby(int(token) for token in hypothesis.y_sequence):
            length = len(list(run))
            if token != blank:
                (text,) = self.model.tokenizer.ids_to_tokens([token])
                yield Piece(text, frame, frame + length, next(confidences))
            frame += length

    def _decoding(self, *, confidence: bool) -> Any:
        from nemo.collections.asr.parts.submodules.ctc_decoding import CTCBPEDecoding

        settings = _greedy(self.model.cfg.decoding, confidence=confidence)
        settings.compute_timestamps = confidence  # NeMo gathers a token's confidence from the frames it notes for times
        return CTCBPEDecoding(settings, tokenizer=self.model.tokenizer)


class HybridHead(TransducerHead):
    """A transducer that CTC helps to learn; what is heard comes from the transducer."""

    def loss(self, encoded: Tensor, encoded_lengths: Tensor, labels: Labels) -> Tensor:
        weight: float = self.model.ctc_loss_weight
        loss = super().loss(encoded, encoded_lengths, labels)
        if not weight:
            return loss
        ctc = _ctc_loss(self.model.ctc_decoder, self.model.ctc_loss, encoded, encoded_lengths, labels)
        return (1 - weight) * loss + weight * ctc


def words(pieces: Sequence[Piece], frame_seconds: float) -> tuple[Word, ...]:
    """A word is as sure as its least sure piece."""
    found: list[Word] = []
    for piece in pieces:
        text, end = piece.text.replace("▁", ""), piece.end * frame_seconds
        if piece.text.startswith("▁") or not found:
            found.append(Word(text, piece.start * frame_seconds, end, piece.confidence))
        else:
            last = found.pop()
            assert last.confidence is not None
            found.append(
                Word(last.text + text, last.start_seconds, end, confidence=min(last.confidence, piece.confidence))
            )
    return tuple(word for word in found if word.text)


def _confidences(hypothesis: Any) -> list[float]:
    """Of its tokens, 0 to 1."""
    return [min(max(float(confidence), 0.0), 1.0) for confidence in hypothesis.token_confidence]


def _greedy(settings: Any, *, confidence: bool) -> Any:
    """A model's settings of decoding, for the best token at each moment, many utterances at a time."""
    from omegaconf import OmegaConf, open_dict

    greedy = OmegaConf.create(OmegaConf.to_container(settings, resolve=True))
    with open_dict(greedy):
        greedy.strategy = "greedy_batch"
        greedy.confidence_cfg = {
            "preserve_token_confidence": confidence,
            "method_cfg": {"name": "max_prob", "alpha": 1.0},  # the probability of what was heard
        }
    return greedy


def _ctc_loss(decoder: Any, loss: Any, encoded: Tensor, encoded_lengths: Tensor, labels: Labels) -> Tensor:
    value: Tensor = loss(
        log_probs=decoder(encoder_output=encoded),
        targets=labels.tokens,
        input_lengths=encoded_lengths,
        target_lengths=labels.lengths,
    )
    return value


def _add_cpu_loss(model: Any) -> None:
    """NeMo's losses are CUDA kernels: put one beside the model's own, for what lies on the CPU.

    `loss_name` stays as it is: NeMo special-cases `tdt` for the index of the blank.
    """
    if not isinstance(model.loss._loss, _LossByDevice):
        model.loss._loss = _LossByDevice(_cpu_loss(model), model.loss._loss)


def _cpu_loss(model: Any) -> torch.nn.Module:
    name, settings = model.extract_rnnt_loss_cfg(model.cfg.get("loss"))
    settings = settings or {}
    plain = not settings.get("fastemit_lambda") and settings.get("clamp", -1.0) <= 0
    if name == "tdt" and plain:
        return TDTLoss(
            blank=model.loss._blank,
            durations=list(settings["durations"]),
            sigma=settings.get("sigma", 0.0),
            omega=settings.get("omega", 0.0),
        )
    if name == "warprnnt_numba":  # NeMo's own way on the CPU is loops of Python, but knows FastEmit
        return _RNNTLoss(model.loss._blank) if plain else model.loss._loss
    return model.loss._loss if name == "pytorch" else _NoCPULoss(f"{name} with {dict(settings)}")


class _RNNTLoss(torch.nn.Module):
    """The call that NeMo's `RNNTLoss` makes on its inner loss, answered by `rnnt_loss`."""

    def __init__(self, blank: int) -> None:
        super().__init__()
        self.blank = blank

    def forward(self, acts: Tensor, labels: Tensor, act_lens: Tensor, label_lens: Tensor) -> Tensor:
        return rnnt_loss(acts, labels, act_lens, label_lens, blank=self.blank)


class _NoCPULoss(torch.nn.Module):
    """Stands for a loss that only a GPU can compute."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what

    def forward(self, **_: Tensor) -> Tensor:
        raise UserError(
            f"the model's loss, {self.what}, can only be computed on a GPU; on the CPU there are tdt without FastEmit "
            "or clamp, warprnnt_numba and pytorch: train it on a GPU"
        )


class _LossByDevice(torch.nn.Module):
    """One loss for logits on the CPU, another for those on a GPU."""

    def __init__(self, on_cpu: torch.nn.Module, on_gpu: torch.nn.Module) -> None:
        super().__init__()
        self.on_cpu, self.on_gpu = on_cpu, on_gpu
        self.reduction: str | None = None  # NeMo reduces; it sets and resets this attribute around each call

    def forward(self, acts: Tensor, labels: Tensor, act_lens: Tensor, label_lens: Tensor) -> Tensor:
        loss = self.on_gpu if acts.is_cuda else self.on_cpu
        logits = acts if acts.is_cuda else acts.float()  # under autocast they may be in bfloat16
        losses: Tensor = loss(acts=logits, labels=labels, act_lens=act_lens, label_lens=label_lens)
        return losses
