"""Whether a transform happens to an utterance at all."""

from __future__ import annotations

from rayapp.records import Slot


def happens(slot: Slot, transform: str, probability: float) -> bool:
    """True for that share of the slots.

    Drawn apart from the transform's own parameters: another probability changes which utterances get it, not how
    it sounds in those that do.
    """
    return probability >= 1 or float(slot.rng(f"{transform} happens").random()) < probability
