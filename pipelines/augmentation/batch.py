"""Arithmetic on many utterances at once, in torch: the same figures as `rayapp.audio.levels` and the stages.

A batch is (utterances, samples) float32, padded with zeros at the end, and the lengths without padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rayapp.audio.levels import HANGOVER_STEPS, MARGIN_DB, STEP, THRESHOLDS, TIME_CONSTANT_SECONDS
from rayapp.records import SAMPLE_RATE_HZ

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor


def padded(rows: Sequence[NDArray[Any]], device: str) -> Tensor:
    """(rows, longest) float32: each row with zeros after it."""
    import torch

    batch = np.zeros((len(rows), max(map(len, rows))), np.float32)
    for index, row in enumerate(rows):
        batch[index, : len(row)] = row
    return torch.from_numpy(batch).to(device)


def within(audio: Tensor, lengths: Tensor) -> Tensor:
    """True for samples, False for padding: (utterances, samples)."""
    import torch

    return torch.arange(audio.shape[1], device=audio.device) < lengths[:, None]


def peaks(audio: Tensor) -> Tensor:
    """Largest magnitudes, (utterances, 1); never below 1e-6."""
    return audio.abs().amax(dim=1, keepdim=True).clamp_min(1e-6)


def rms_levels(audio: Tensor, lengths: Tensor) -> Tensor:
    """Root mean squares, (utterances, 1) float64."""
    return (audio.double().square().sum(dim=1) / lengths).sqrt()[:, None]


def convolved(audio: Tensor, filters: Tensor) -> Tensor:
    """Each row with its own filter, as far as the audio goes: (utterances, samples)."""
    import torch
    from scipy.fft import next_fast_len

    size = next_fast_len(audio.shape[1] + filters.shape[1] - 1, real=True)
    spectrum = torch.fft.rfft(audio, size) * torch.fft.rfft(filters, size)
    return torch.fft.irfft(spectrum, size)[:, : audio.shape[1]]


def active_levels(audio: Tensor, lengths: Tensor) -> Tensor:
    """Levels of active speech, (utterances, 1) float64; see `rayapp.audio.levels.active_level`."""
    import torch

    energy = audio.double().square().sum(dim=1)
    recent = _recent_peaks(_envelopes(audio))
    recent[~within(recent, -(-lengths // STEP))] = -1.0  # padding is below any threshold
    loudest = recent.amax(dim=1).clamp_min(1e-30)
    level_db = torch.full_like(energy, np.inf)
    margin = torch.full_like(energy, np.nan)
    found = torch.zeros_like(energy, dtype=torch.bool)
    for step in range(THRESHOLDS):
        threshold = loudest * 2.0**-step
        active_steps = (recent >= threshold[:, None]).sum(dim=1)
        next_db = 10 * torch.log10(energy / (STEP * active_steps))
        next_margin = next_db - 20 * torch.log10(threshold)
        # Between this threshold and the last one; at the first one, or where the margin shrinks, there is no between.
        share = (MARGIN_DB - margin) / (next_margin - margin)
        between = level_db + share * (next_db - level_db)
        chosen = torch.where(margin < next_margin, between, next_db)
        now = next_margin >= MARGIN_DB
        level_db, margin = torch.where(found, level_db, torch.where(now, chosen, next_db)), next_margin
        found |= now
    return torch.where(energy > 0, 10 ** (level_db / 20), 0.0)[:, None]


def _envelopes(audio: Tensor) -> Tensor:
    """The magnitude, smoothed twice, read every `STEP` samples; (utterances, steps) float64."""
    import torch

    decay = np.exp(-1 / (SAMPLE_RATE_HZ * TIME_CONSTANT_SECONDS))
    time = torch.arange(int(24 * TIME_CONSTANT_SECONDS * SAMPLE_RATE_HZ), device=audio.device, dtype=torch.float64)
    response = (1 - decay) ** 2 * (time + 1) * decay**time  # of the recursive filter; what is cut off is 1e-9 of it
    return convolved(audio.abs().double(), response[None])[:, ::STEP]


def _recent_peaks(envelope: Tensor) -> Tensor:
    """The largest within the hangover before each step, that one included: a step is active where this is above."""
    from torch.nn import functional

    return functional.max_pool1d(functional.pad(envelope, (HANGOVER_STEPS - 1, 0)), HANGOVER_STEPS, stride=1)
