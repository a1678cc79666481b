"""Training and tests hear different rooms, recordings and babble."""

from __future__ import annotations

from typing import Literal, TypeAlias

from rayapp.records import Slot

Side: TypeAlias = Literal["train", "test"]


def side_of(slot: Slot) -> Side:
    """Whose sounds an utterance may hear; validation hears those of the tests."""
    return "train" if slot.split == "train" else "test"
