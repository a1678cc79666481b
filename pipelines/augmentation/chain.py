"""The transforms by name, and the chain of stages that the settings ask for."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import groupby
from typing import Any, TypeAlias

from pipelines.augmentation.babble import Talk
from pipelines.augmentation.clipping import Clip
from pipelines.augmentation.codec import Compress
from pipelines.augmentation.config import AugmentationConfig, TransformName
from pipelines.augmentation.microphone import Record
from pipelines.augmentation.noise import AddNoise
from pipelines.augmentation.padding import Pad
from pipelines.augmentation.recordings import Recordings
from pipelines.augmentation.response import Colour
from pipelines.augmentation.room import PlayInRoom
from pipelines.augmentation.speed import ChangeSpeed
from pipelines.augmentation.telephone import Telephone
from pipelines.augmentation.torch_augment import BATCHED, TorchAugment
from rayapp.execution import Group
from rayapp.stage import Stage

Maker: TypeAlias = Callable[[], Stage]
TRANSFORMS: dict[TransformName, Callable[..., Stage]] = {
    "room": PlayInRoom,
    "noise": AddNoise,
    "microphone": Record,
    "response": Colour,
    "telephone": Telephone,
    "codec": Compress,
    "clipping": Clip,
    "speed": ChangeSpeed,
    "padding": Pad,
}
"""Each is made with the section of the settings that has its name."""


def chain(config: AugmentationConfig, talk: Talk | None = None) -> list[Maker | Group]:
    """What makes the stages, in order; `partial`s, so that the stages are made where they work.

    talk: whose voices babble is made of; only babble needs it.
    With `device: cuda`, transforms beside one another that can take a batch become one stage, in a group of its own.
    """
    parts: list[Maker | Group] = []
    for batched, names in groupby(config.chain, key=lambda name: config.device == "cuda" and name in BATCHED):
        if batched:
            stage = partial(TorchAugment, config, tuple(names), talk)
            parts.append(Group([stage], config.cuda.workers, config.cuda.gpus, config.cuda.gpu_type))
        else:
            parts += [_maker(name, config, talk) for name in names]
    return parts


def _maker(name: TransformName, config: AugmentationConfig, talk: Talk | None) -> Maker:
    further: tuple[Any, ...] = (talk,) if name == "noise" else ()
    return partial(TRANSFORMS[name], getattr(config, name), *further)


def check(config: AugmentationConfig) -> str:
    """Open everything that the chain will read, before anything is made.

    Returns an ID of what was found: it changes when recordings are added, removed or replaced.
    Raises `UserError` that names each recording that cannot be used.
    """
    if "noise" not in config.chain or not config.noise.backgrounds:
        return ""
    recordings = Recordings.open(config.noise.backgrounds)
    recordings.check()
    return recordings.recordings_id
