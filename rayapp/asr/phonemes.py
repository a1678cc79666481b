"""What a new model can be taught besides the words: which phoneme is spoken at each moment.

A transducer finds out by itself which sound belongs to which letters, and needs most of a short training
for it. A synthesiser knows: a second loss asks the encoder for the phoneme of each 20 ms (alignments as
pre-training: Hu et al., https://arxiv.org/abs/2005.00572; here both losses are learnt together).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SLICE_SECONDS = 0.02
UNKNOWN = -1


def phoneme_slices(
    phonemes: Sequence[Mapping[str, Any]] | None, duration_seconds: float, ids: Mapping[str, int]
) -> NDArray[np.int64]:
    """The phoneme of each 20 ms, (slices,); `UNKNOWN` before the first one, and for symbols that `ids` lacks.

    phonemes: rows of a manifest's column: `symbol` and `start_seconds`, in order.

    >>> rows = [{"symbol": "s", "start_seconds": 0.02}, {"symbol": "I", "start_seconds": 0.06}]
    >>> phoneme_slices(rows, 0.1, {"s": 0, "I": 1}).tolist()
    [-1, 0, 0, 1, 1]
    """
    middles = (np.arange(math.ceil(duration_seconds / SLICE_SECONDS - 1e-6)) + 0.5) * SLICE_SECONDS
    if not phonemes:
        return np.full(len(middles), UNKNOWN)
    spoken = np.searchsorted([row["start_seconds"] for row in phonemes], middles, side="right") - 1
    named = np.array([ids.get(row["symbol"], UNKNOWN) for row in phonemes])
    return np.where(spoken < 0, UNKNOWN, named[spoken])


class PhonemeLoss(torch.nn.Module):
    """Names the phonemes from the encoder's frames: a linear layer, for training alone."""

    def __init__(self, width: int, count: int, slices_per_frame: int) -> None:
        super().__init__()
        self.slices_per_frame = slices_per_frame
        self.classifier = torch.nn.Linear(width, slices_per_frame * count)

    def forward(self, encoded: Tensor, slices: Tensor) -> Tensor:
        """Mean cross-entropy over the slices that are known; 0 where none is.

        encoded: (batch, width, frames). slices: (batch, slices), int64; padded with `UNKNOWN`. Frame `i` is
        centred on the start of slice `i * slices_per_frame`: it names as many slices before that as after.
        """
        batch, _, frames = encoded.shape
        before = self.slices_per_frame // 2
        wanted = torch.full((batch, frames * self.slices_per_frame), UNKNOWN, device=encoded.device)
        fitting = min(slices.shape[1], wanted.shape[1] - before)
        wanted[:, before : before + fitting] = slices[:, :fitting]
        logits = self.classifier(encoded.mT).view(wanted.numel(), -1)
        total = torch.nn.functional.cross_entropy(logits, wanted.flatten(), ignore_index=UNKNOWN, reduction="sum")
        return total / (wanted != UNKNOWN).sum().clamp(min=1)
