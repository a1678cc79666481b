"""Several texts at once through a VITS model, each as if it were alone.

VITS draws noise in one go for a whole batch, and its decoder sees what lies beyond the end of a shorter text. Here
every text has noise of its own, and as much silence after it as the decoder can see. What is left is rounding.
Imports torch: for workers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from rayapp.records import Audio

if TYPE_CHECKING:
    from TTS.tts.models.vits import Vits

_DECODER_SIGHT_FRAMES = 24
"""How far the decoder sees to either side; 14 frames in the published models."""


class VitsInput(NamedTuple):
    """A text as the model reads it."""

    token_ids: Sequence[int]
    speaker_id: torch.Tensor | None
    """(1,), for models that have a table of speakers."""
    d_vector: torch.Tensor | None
    """(1, channels), for models that take a speaker's embedding."""
    language_id: int | None
    seed: int
    tempo: float
    """1 is the model's own pace, 2 twice as fast."""


class BatchedVits:
    """A VITS model that speaks batches; what it says of a text does not depend on the others, up to rounding."""

    def __init__(self, model: Vits) -> None:
        self.model = model
        self.samples_per_frame = math.prod(model.args.upsample_rates_decoder)
        model.waveform_decoder.register_forward_pre_hook(_with_silence_after)

    def speak(self, inputs: Sequence[VitsInput]) -> list[Audio]:
        """One waveform an input, at the model's sample rate."""
        model, device = self.model, self.model.device
        lengths = torch.tensor([len(i.token_ids) for i in inputs], device=device)
        tokens = torch.nn.utils.rnn.pad_sequence([torch.tensor(i.token_ids) for i in inputs], batch_first=True)
        tempo = torch.tensor([i.tempo for i in inputs], device=device).reshape(-1, 1, 1)
        model.length_scale = model.args.length_scale / tempo
        languages = [i.language_id for i in inputs if i.language_id is not None]
        condition = {
            "x_lengths": lengths,
            "speaker_ids": _stacked([i.speaker_id for i in inputs]),
            "d_vectors": _stacked([i.d_vector for i in inputs]),
            "language_ids": torch.tensor(languages, device=device) if languages else None,
        }
        exact = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
        with exact, _NoiseOfEach([i.seed for i in inputs]):
            outputs = model.inference(tokens.to(device), condition)
        waves = outputs["model_outputs"].squeeze(1).float().cpu().numpy()
        frames = outputs["durations"].sum(dim=(1, 2)).clamp_min(1).long().tolist()
        return [wave[: count * self.samples_per_frame] for wave, count in zip(waves, frames, strict=True)]


class _NoiseOfEach(TorchFunctionMode):
    """Gives each entry of a batch the noise that its seed says, however long the others are.

    Noise is drawn by numpy, a frame after the other: torch draws it in blocks, whose values depend on the length.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        super().__init__()
        self.seeds = seeds
        self.draws = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.randn:
            return self._draw(*args)
        if func is torch.randn_like:
            return self._draw(*args[0].shape).to(args[0])
        return func(*args, **(kwargs or {}))

    def _draw(self, batch: int, channels: int, frames: int) -> torch.Tensor:
        assert batch == len(self.seeds)
        self.draws += 1
        noise = [
            np.random.default_rng([seed, self.draws]).standard_normal((frames, channels), np.float32).T
            for seed in self.seeds
        ]
        return torch.from_numpy(np.stack(noise))


def _with_silence_after(_decoder: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return (torch.nn.functional.pad(inputs[0], (0, _DECODER_SIGHT_FRAMES)), *inputs[1:])


def _stacked(tensors: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
    present = [tensor for tensor in tensors if tensor is not None]
    return torch.cat(present) if present else None
