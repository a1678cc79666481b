"""In whose voices a Coqui model speaks, and which of them training, validation and tests hear."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from pipelines.speech.coqui.config import CoquiConfig
from pipelines.speech.coqui.files import is_fairseq, model_file, readable_config, resolve
from rayapp.errors import UserError
from rayapp.ids import content_share

ONLY_SPEAKER = "default"
"""The name of the speaker of a model that has one and does not name it."""
_CLIPS = (".wav", ".flac", ".mp3", ".ogg")
_SHORTEST_CLIP_SECONDS = 1.0
_XTTS_SPEAKERS = "speakers_xtts.pth"


def split_speakers(config: CoquiConfig) -> dict[str, tuple[str, ...]]:
    """The speakers of `train`, `validation` and `test`: those that the settings name, or all, dealt by hash.

    The share is taken from the name alone, so that a speaker stays on the same side when others join.
    Raises `UserError` for names that the model does not have, and where dealing leaves a split without a speaker.
    """
    sides = ("train", "validation", "test")
    named: dict[str, tuple[str, ...]] = {side: getattr(config, f"{side}_speakers") for side in sides}
    if any(named.values()):
        check_speakers(config, [speaker for speakers in named.values() for speaker in speakers])
        return named
    config = resolve(config)
    everyone = sorted(clips(config) or presets(config))
    dealt = {side: tuple(speaker for speaker in everyone if _side(speaker) == side) for side in sides}
    without = [side for side, speakers in dealt.items() if not speakers]
    if without:
        raise UserError(
            f"the {len(everyone)} speaker(s) of Coqui model {config.model} are too few to deal: none is left for "
            f"{', '.join(without)}; name who speaks where in speech.coqui.train_speakers, validation_speakers and "
            f"test_speakers; there are {_listed(everyone)}"
        )
    return dealt


def check_speakers(config: CoquiConfig, speakers: list[str]) -> None:
    """Raises `UserError` that names each speaker whom the model does not have, and some whom it has."""
    config = resolve(config)
    known = [*clips(config), *presets(config)]
    unknown = [speaker for speaker in dict.fromkeys(speakers) if speaker not in known]
    if unknown:
        raise UserError(
            f"Coqui model {config.model} has no speaker {_listed(unknown)}; it has {_listed(sorted(known), most=20)}"
        )


def clips(config: CoquiConfig) -> dict[str, Path]:
    """The recordings of voices to clone, by speaker; none where the settings have no folder of them.

    Raises `UserError` for an empty folder, and for a model that cannot clone.
    """
    if config.reference_clips is None:
        return {}
    found = {path.stem: path for path in sorted(config.reference_clips.glob("*")) if path.suffix.lower() in _CLIPS}
    if not found:
        raise UserError(
            f"speech.coqui.reference_clips {config.reference_clips} holds no recording ({', '.join(_CLIPS)})"
        )
    unusable = [path.name for path in found.values() if _seconds(path) < _SHORTEST_CLIP_SECONDS]
    if unusable:
        raise UserError(
            f"speech.coqui.reference_clips: {_listed(unusable)} cannot be read or are shorter than "
            f"{_SHORTEST_CLIP_SECONDS:g} s; replace or remove them"
        )
    if not _known(config.model).can_clone:
        raise UserError(
            f"Coqui model {config.model} cannot clone voices: remove speech.coqui.reference_clips, or choose a model "
            "that can, such as tts_models/multilingual/multi-dataset/xtts_v2"
        )
    return found


def presets(config: CoquiConfig) -> Mapping[str, str | None]:
    """The model's own speakers, by name: what the model calls them, None where it has one and does not ask."""
    known = _known(config.model)
    if known.speakers:
        return {name.strip(): name for name in known.speakers}  # a published model has one called "ED\n"
    return {} if known.can_clone else {ONLY_SPEAKER: None}


class _Known:
    """What a model tells of its speakers before its weights are read."""

    def __init__(self, speakers: list[str], can_clone: bool) -> None:
        self.speakers = speakers
        self.can_clone = can_clone


@lru_cache(maxsize=8)
def _known(model: str) -> _Known:
    path = Path(model)
    if is_fairseq(path):
        return _Known([], can_clone=False)
    from TTS.config import load_config

    from pipelines.speech.coqui.reading import use_bundled_espeak

    use_bundled_espeak()
    weights = model_file(path)
    folder = weights if weights.is_dir() else weights.parent
    with readable_config(weights) as config_path:
        config = load_config(config_path)
        return _Known(_names(config, folder), can_clone=config.supports_cloning)


def _names(config: Any, folder: Path) -> list[str]:
    from TTS.tts.layers.xtts.xtts_manager import SpeakerManager as XttsSpeakers
    from TTS.tts.utils.speakers import SpeakerManager

    if (folder / _XTTS_SPEAKERS).is_file():
        return list(XttsSpeakers(folder / _XTTS_SPEAKERS).speaker_names)
    manager = SpeakerManager.init_from_config(config)
    return list(manager.speaker_names) if manager else []


def _seconds(clip: Path) -> float:
    import soundfile

    try:
        return float(soundfile.info(clip).duration)
    except soundfile.LibsndfileError:
        return 0.0


def _side(speaker: str) -> str:
    share = content_share("coqui speaker", speaker)
    return "train" if share < 0.7 else "validation" if share < 0.8 else "test"


def _listed(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if names[most:] else "")
