"""Sound that is as long as it has to be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rayapp.records import SAMPLE_RATE_HZ

if TYPE_CHECKING:
    from numpy.typing import NDArray

_CROSSFADE_SECONDS = 0.05


def looped(sound: NDArray[np.floating[Any]], samples: int) -> NDArray[np.floating[Any]]:
    """The sound's first `samples`; a shorter one is repeated, its end faded into its beginning.

    sound: (any number but 0,). The fade is of equal power, so that noise stays as loud where it is joined.

    >>> looped(np.ones(5), 3).tolist()
    [1.0, 1.0, 1.0]
    >>> looped(np.random.default_rng(0).standard_normal(4_000), 16_000).shape
    (16000,)
    """
    if len(sound) >= samples:
        return sound[:samples]
    fade = min(int(_CROSSFADE_SECONDS * SAMPLE_RATE_HZ), len(sound) // 2)
    angle = np.linspace(0, np.pi / 2, fade, dtype=sound.dtype)
    loop = sound[: len(sound) - fade].copy()
    loop[:fade] = loop[:fade] * np.sin(angle) + sound[len(sound) - fade :] * np.cos(angle)
    # The first time round it starts as the sound does: nothing has ended yet.
    return np.concatenate([sound[: len(sound) - fade], np.resize(loop, max(samples - len(loop), 0))])[:samples]
