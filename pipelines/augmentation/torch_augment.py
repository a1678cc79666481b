"""Rooms, noise, microphone and clipping for many utterances at a time, on a GPU.

What is drawn for an utterance is drawn by the same functions as on a CPU, and the arithmetic is the same: the audio
differs from that of the stages by rounding alone, and the recorded steps are theirs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from pipelines.augmentation.babble import Talk
from pipelines.augmentation.batch import active_levels, convolved, padded, peaks, rms_levels, within
from pipelines.augmentation.clipping import Clip, clipped_samples, draw_share
from pipelines.augmentation.config import AugmentationConfig, TransformName
from pipelines.augmentation.microphone import CEILING, Amplifier, Record, amplifier_params, draw_amplifier
from pipelines.augmentation.noise import AddNoise, Background, Backgrounds, background_params
from pipelines.augmentation.room import PlayInRoom, draw_room, impulse_response
from rayapp.errors import RejectedError, UserError
from rayapp.records import Utterance
from rayapp.stage import BatchStage, Resources

if TYPE_CHECKING:
    from torch import Tensor

Params: TypeAlias = Mapping[str, Any]


class BatchedTransform(Protocol):
    """A transform of many utterances: what a stage does, in two parts."""

    stage: type[PlayInRoom | AddNoise | Record | Clip]
    """Whose name and version the steps record."""

    def draw(self, utterance: Utterance) -> Any:
        """What is drawn for an utterance; None where it is left as it is."""
        ...

    def apply(
        self, audio: Tensor, lengths: Tensor, drawn: Sequence[Any], utterances: Sequence[Utterance]
    ) -> tuple[Tensor, list[Params]]:
        """The batch, and what each step records. What lies in the padding of the result does not matter."""
        ...


class _Room:
    stage = PlayInRoom

    def __init__(self, config: AugmentationConfig, talk: Talk | None) -> None:
        self.config = config.room

    def draw(self, utterance: Utterance) -> int | None:
        return draw_room(utterance.slot, self.config)

    def apply(
        self, audio: Tensor, lengths: Tensor, drawn: Sequence[int], utterances: Sequence[Utterance]
    ) -> tuple[Tensor, list[Params]]:
        wet = convolved(audio, padded([impulse_response(room) for room in drawn], str(audio.device)))
        wet = wet * within(wet, lengths)  # the reverberation goes on into the padding, where it could be the peak
        return wet * (peaks(audio) / peaks(wet)), [{"room": room} for room in drawn]


class _Noise:
    stage = AddNoise

    def __init__(self, config: AugmentationConfig, talk: Talk | None) -> None:
        self.backgrounds = Backgrounds(config.noise, talk)

    def draw(self, utterance: Utterance) -> Background | None:
        assert utterance.audio is not None
        return self.backgrounds.draw(utterance.slot, len(utterance.audio))

    def apply(
        self, audio: Tensor, lengths: Tensor, drawn: Sequence[Background], utterances: Sequence[Utterance]
    ) -> tuple[Tensor, list[Params]]:
        noise = padded([background.noise for background in drawn], str(audio.device))
        snr_db = audio.new_tensor([utterance.slot.snr_db for utterance in utterances])[:, None].double()
        gain = active_levels(audio, lengths) / (rms_levels(noise, lengths) * 10 ** (snr_db / 20))
        params = [background_params(background, u.slot) for background, u in zip(drawn, utterances, strict=True)]
        return audio + gain.float() * noise, list(params)


class _Microphone:
    stage = Record

    def __init__(self, config: AugmentationConfig, talk: Talk | None) -> None:
        self.config = config.microphone

    def draw(self, utterance: Utterance) -> Amplifier | None:
        assert utterance.audio is not None
        return draw_amplifier(utterance.slot, self.config, len(utterance.audio))

    def apply(
        self, audio: Tensor, lengths: Tensor, drawn: Sequence[Amplifier], utterances: Sequence[Utterance]
    ) -> tuple[Tensor, list[Params]]:
        import torch

        hiss = padded([amplifier.hiss for amplifier in drawn], str(audio.device))
        hiss_db = audio.new_tensor([amplifier.hiss_db for amplifier in drawn])[:, None].double()
        recorded = audio + (active_levels(audio, lengths) * 10 ** (-hiss_db / 20)).float() * hiss
        gain_db = audio.new_tensor([amplifier.gain_db for amplifier in drawn])[:, None].double()
        gain_db = torch.minimum(gain_db, 20 * torch.log10(CEILING / peaks(recorded).double()))
        gains_db = gain_db.flatten().tolist()
        params = [amplifier_params(amplifier.hiss_db, gain) for amplifier, gain in zip(drawn, gains_db, strict=True)]
        return recorded * (10 ** (gain_db / 20)).float(), list(params)


class _Clipping:
    stage = Clip

    def __init__(self, config: AugmentationConfig, talk: Talk | None) -> None:
        self.config = config.clipping

    def draw(self, utterance: Utterance) -> float | None:
        return draw_share(utterance.slot, self.config)

    def apply(
        self, audio: Tensor, lengths: Tensor, drawn: Sequence[float], utterances: Sequence[Utterance]
    ) -> tuple[Tensor, list[Params]]:
        counts = [clipped_samples(n, share) for n, share in zip(lengths.tolist(), drawn, strict=True)]
        loudest = audio.abs().topk(max(counts), dim=1).values
        level = loudest.gather(1, lengths.new_tensor(counts)[:, None] - 1)
        return audio.clamp(-level, level), [{"share": share} for share in drawn]


BATCHED: dict[TransformName, Any] = {"room": _Room, "noise": _Noise, "microphone": _Microphone, "clipping": _Clipping}
"""The transforms that can take a batch."""


class TorchAugment(BatchStage):
    """Several transforms, one after the other, without leaving the device between them.

    Raises `UserError` where the device is `cuda` and there is none.
    """

    name = "augment"
    version = sum(batched.stage.version for batched in BATCHED.values())  # rises with any of them
    resources = Resources(cpus=1, memory_gb=2)
    batch_size = 32

    def __init__(self, config: AugmentationConfig, names: Sequence[TransformName], talk: Talk | None = None) -> None:
        import torch

        if config.device == "cuda" and not torch.cuda.is_available():
            raise UserError("augmentation.device is cuda, and no GPU can be used here; set it to cpu")
        self.device = config.device
        self.transforms: list[BatchedTransform] = [BATCHED[name](config, talk) for name in names]

    def on_batch(self, utterances: Sequence[Utterance]) -> list[Utterance | Exception]:
        outcomes: list[Utterance | Exception] = []
        going: list[tuple[Utterance, list[Any]]] = []
        for utterance in utterances:
            try:
                going.append((utterance, [transform.draw(utterance) for transform in self.transforms]))
                outcomes.append(utterance)
            except RejectedError as error:
                outcomes.append(error)
        augmented = iter(self._augmented([u for u, _ in going], [draws for _, draws in going]) if going else [])
        return [outcome if isinstance(outcome, Exception) else next(augmented) for outcome in outcomes]

    def _augmented(self, utterances: list[Utterance], drawn: list[list[Any]]) -> list[Utterance]:
        """The utterances after all transforms.

        drawn: of each utterance, what each transform drew.
        """
        import torch

        rows = [utterance.audio for utterance in utterances if utterance.audio is not None]
        audio, lengths = padded(rows, self.device), torch.tensor([len(row) for row in rows], device=self.device)
        padding = ~within(audio, lengths)
        for number, transform in enumerate(self.transforms):
            chosen = [row for row, draws in enumerate(drawn) if draws[number] is not None]
            if not chosen:
                continue
            changed, params = transform.apply(
                audio[chosen],
                lengths[chosen],
                [drawn[row][number] for row in chosen],
                [utterances[row] for row in chosen],
            )
            audio[chosen] = changed.masked_fill(padding[chosen], 0.0)
            for row, step in zip(chosen, params, strict=True):
                utterances[row] = utterances[row].with_step(transform.stage.name, transform.stage.version, **step)
        results = audio.cpu().numpy()
        return [
            utterance.with_audio(result[: len(row)].copy())  # a view would keep the whole batch
            for utterance, result, row in zip(utterances, results, rows, strict=True)
        ]
