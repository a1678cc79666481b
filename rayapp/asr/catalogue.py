"""Well-known public models, and what they need; `rayapp.asr.resolve` fetches one by its name."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CatalogueEntry:
    """A public model, and what it needs."""

    name: str
    languages: str
    parameters_millions: int
    gpu_memory_gb: int
    """For serving in float16, batches included; training takes several times as much."""
    note: str


CATALOGUE = (
    CatalogueEntry("nvidia/parakeet-tdt-0.6b-v2", "English", 600, 4, "6.05 % mean WER on the Open ASR leaderboard"),
    CatalogueEntry("nvidia/parakeet-tdt-0.6b-v3", "25 European languages", 600, 4, "successor of v2"),
    CatalogueEntry("nvidia/parakeet-tdt-1.1b", "English", 1100, 6, "lower-case text, no punctuation"),
    CatalogueEntry("nvidia/parakeet-tdt_ctc-110m", "English", 110, 2, "transducer and CTC on one encoder"),
    CatalogueEntry("nvidia/parakeet-ctc-1.1b", "English", 1100, 6, "CTC; lower-case text, no punctuation"),
    CatalogueEntry("openai/whisper-large-v3-turbo", "99 languages", 809, 6, "can be taught by adapters of a few MB"),
    CatalogueEntry("openai/whisper-large-v3", "99 languages", 1550, 10, "can be taught by adapters of a few MB"),
)
