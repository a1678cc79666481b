"""LoRA and AdaLoRA by PEFT: one adapter of a model is trained, or several are loaded over it and switched.

Whichever it was trained as, an adapter is saved as LoRA: AdaLoRA's singular values go into one of the factors, and
what it pruned is left out. So both kinds work over one base at once, which PEFT refuses for its own AdaLoRA format,
and every server that knows LoRA reads them.
"""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from rayapp.errors import UserError

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
TRAINED = "trained"
"""Name of the adapter that `add_adapter` makes."""
ATTENTION_AND_FEED_FORWARD = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")

_PREFIX = "base_model.model."
"""What PEFT puts before the names of the base's modules in its files."""
_IMPORTANCE = ("ipt", "exp_avg_ipt", "exp_avg_unc")
"""AdaLoRA's running importance of each parameter, as PEFT's allocator calls it."""


class Adaptable:
    """What a recogniser around a model of Hugging Face's can do with adapters."""

    model: Any
    """The `PreTrainedModel`; PEFT puts its layers into it in place."""
    module: Any
    """Computes the loss by its `predict`, see `LossModule`."""
    base: str
    """Where the model came from: a path, or a name on Hugging Face's hub."""
    base_revision: str | None
    """Commit on the hub; None for a path."""
    adapter: str | None = None
    """Name of the adapter in use."""

    def __init__(self) -> None:
        self._peft: Any = None
        self._peft_names: dict[str, str] = {}
        """PEFT looks for an adapter's name anywhere within parameters' names: it gets names of our own making."""
        self._numbers = itertools.count()
        self._allocator: Any = None

    def add_adapter(
        self,
        kind: Literal["lora", "adalora"],
        *,
        rank: int = 16,
        alpha: int = 32,
        dropout: float = 0.0,
        target_modules: Sequence[str] = ATTENTION_AND_FEED_FORWARD,
        target_rank: int = 8,
        orthogonal_weight: float = 0.5,
        total_steps: int = 0,
        warmup_share: float = 0.1,
        final_share: float = 0.3,
        interval: int = 10,
    ) -> None:
        """From now on only a new adapter learns; before its first step the model's output is what it was.

        rank: of each matrix; where AdaLoRA starts. alpha: the adapter's output is scaled by alpha / rank.
        target_modules: last part of the names of the linear layers that get one.

        AdaLoRA alone (Zhang et al., https://arxiv.org/abs/2303.10512):
        target_rank: average rank at the end. orthogonal_weight: of the loss that keeps the factors orthogonal.
        total_steps: optimizer steps of the whole training; over the first `warmup_share` of them nothing is pruned,
            over the last `final_share` nothing more is. interval: steps between two prunings.

        Raises `UserError` for settings that cannot be followed, and where there is an adapter already.
        """
        from peft import AdaLoraConfig, LoraConfig

        if self._peft_names:
            raise UserError(
                f"{self.base} has the adapter {self.adapter} already: save the two as one model with `save`, and "
                "train an adapter of that"
            )
        self._check_targets(target_modules)
        shared: dict[str, Any] = {"lora_alpha": alpha, "lora_dropout": dropout, "target_modules": list(target_modules)}
        if kind == "lora":
            self._inject(TRAINED, LoraConfig(r=rank, **shared))
        else:
            warmup, final = round(total_steps * warmup_share), round(total_steps * final_share)
            _check_adalora(rank, target_rank, total_steps, warmup, final)
            self._inject(
                TRAINED,
                AdaLoraConfig(
                    init_r=rank,
                    target_r=target_rank,
                    orth_reg_weight=orthogonal_weight,
                    total_step=total_steps,
                    tinit=warmup,
                    tfinal=final,
                    deltaT=interval,
                    **shared,
                ),
            )
            self._allocator = self._peft.base_model.rankallocator
            # PEFT's outer forward goes past this one, which adds the orthogonal loss.
            self.module.predict = self._peft.base_model.forward
        self.adapter = TRAINED

    def after_step(self, step: int) -> None:
        """AdaLoRA's pruning. step: optimizer steps made so far, 1 after the first.

        To be called on every rank after each optimizer step and before the gradients are set to zero: what is pruned
        follows from them. Without AdaLoRA, nothing happens.
        """
        if self._allocator is None:
            return
        config = self._allocator.peft_config
        last_pruning = config.total_step - config.tfinal
        if step > last_pruning and self._allocator.exp_avg_ipt:  # that very step was skipped: its loss was not finite
            step = last_pruning
        self._peft.base_model.update_and_allocate(step)

    def extra_state(self) -> dict[str, Tensor]:
        """What a checkpoint needs beside the parameters: AdaLoRA's running importances and what it has pruned."""
        if self._allocator is None:
            return {}
        pruned = self._allocator.peft_config.rank_pattern or {}
        state = {f"rank_pattern/{name}": torch.tensor(kept) for name, kept in pruned.items()}
        for part in _IMPORTANCE:
            state |= {f"{part}/{name}": tensor for name, tensor in getattr(self._allocator, part).items()}
        return state

    def load_extra_state(self, state: Mapping[str, Tensor]) -> None:
        """What `extra_state` gave, into a recogniser with the same adapter. Raises `UserError` for any other."""
        parameters = dict(self.model.named_parameters()) if self._allocator else {}
        kept: dict[str, list[bool]] = {}
        for key, tensor in state.items():
            part, _, name = key.partition("/")
            parameter = parameters.get(name)
            shape = None if parameter is None else parameter.shape[: tensor.dim()]
            if shape != tensor.shape:
                raise UserError(
                    f"the checkpoint's AdaLoRA has {name} in shape {list(tensor.shape)}, this training "
                    f"{list(shape) if shape else 'not at all'}: resume it with the settings that it was begun with"
                )
            if part == "rank_pattern":
                kept[name] = tensor.tolist()
            else:
                getattr(self._allocator, part)[name] = tensor.to(self.model.device)
        if kept:
            self._allocator.peft_config.rank_pattern = kept

    def load_adapter(self, name: str, folder: Path) -> None:
        """An adapter from its folder, under a name for `use_adapter`; it is not in use yet, and does not learn.

        Raises `UserError` for a folder that is no adapter of this base, a name that is taken, or while one is trained.
        """
        if TRAINED in self._peft_names:
            raise UserError("an adapter is being trained, and cannot be joined by others: load the base anew for them")
        if name in self._peft_names:
            raise UserError(f"there is an adapter {name!r} already: give this one another name")
        config, tensors = _read(folder)
        self._check_fits(folder, tensors)
        self._inject(name, config)
        from peft import set_peft_model_state_dict

        set_peft_model_state_dict(self._peft, tensors, adapter_name=self._peft_names[name])
        self.use_adapter(self.adapter)  # PEFT puts the first one into use at once

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of those that are loaded."""
        return tuple(self._peft_names)

    def unload_adapter(self, name: str) -> None:
        """Forget a loaded adapter; where it is in use, the base alone is from now on."""
        if self.adapter == name:
            self.use_adapter(None)
        self._peft.delete_adapter(self._peft_names.pop(name))

    def use_adapter(self, name: str | None) -> None:
        """Switch to a loaded adapter, or to the base alone."""
        if name is not None and name not in self._peft_names:
            known = ", ".join(self._peft_names) or "none is loaded"
            raise UserError(f"there is no adapter {name!r}; known: {known}")
        self.adapter = name
        if self._peft is None:
            return
        if name is None:
            self._peft.base_model.disable_adapter_layers()
        else:
            self._peft.base_model.enable_adapter_layers()
            self._peft.base_model.set_adapter(self._peft_names[name], inference_mode=name != TRAINED)

    def save_adapter(self, folder: Path) -> None:
        """The adapter in use, as LoRA in PEFT's layout: a few megabytes, and where its base lies."""
        from safetensors.torch import save_file

        if self.adapter is None:
            raise UserError(f"there is no adapter in use to be saved to {folder}: add or use one first")
        peft_name = self._peft_names[self.adapter]
        config, tensors = self._peft.peft_config[peft_name], self._tensors(peft_name)
        if self._allocator is not None:
            config, tensors = _as_lora(tensors, config.lora_alpha, config.init_r)
        config = copy.copy(config)
        config.base_model_name_or_path, config.revision = self.base, self.base_revision
        config.inference_mode = True
        config.save_pretrained(str(folder))
        save_file(tensors, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})

    def _merged(self) -> Any:
        """A copy of the model with the adapter in use added to its weights, and no adapter left."""
        tuner = copy.deepcopy(self._peft.base_model)
        if self.adapter is None:
            return tuner.unload()
        return tuner.merge_and_unload(adapter_names=[self._peft_names[self.adapter]])

    def _inject(self, name: str, config: Any) -> None:
        """Put the layers of a new adapter into the model."""
        from peft import get_peft_model

        peft_name = f"adapter_{next(self._numbers):04}"
        if self._peft is None:
            self._peft = get_peft_model(self.model, config, adapter_name=peft_name)
        else:
            self._peft.add_adapter(peft_name, config)
        self._peft_names[name] = peft_name

    def _tensors(self, peft_name: str) -> dict[str, Tensor]:
        """An adapter's parameters, named as in PEFT's files."""
        return {
            _PREFIX + name.replace(f".{peft_name}", ""): tensor.detach().cpu().contiguous()
            for name, tensor in self.model.state_dict().items()
            if ".lora_" in name and f".{peft_name}" in name
        }

    def _check_targets(self, target_modules: Sequence[str]) -> None:
        output = self.model.get_output_embeddings()
        linear = {
            name.rpartition(".")[2]
            for name, layer in self.model.named_modules()
            if isinstance(layer, torch.nn.Linear) and layer is not output
        }
        if not target_modules or set(target_modules) - linear:
            raise UserError(f"target_modules are {list(target_modules)}; choose from {', '.join(sorted(linear))}")

    def _check_fits(self, folder: Path, tensors: Mapping[str, Tensor]) -> None:
        """Each factor must have the width of the layer that it is for."""
        layers = {name.replace(".base_layer", ""): layer for name, layer in self.model.named_modules()}
        for key, tensor in tensors.items():
            name, _, factor = key.removeprefix(_PREFIX).partition(".lora_")
            weight = getattr(layers.get(name), "weight", None)
            wanted = None if weight is None else weight.shape[1 if factor == "A.weight" else 0]
            width = tensor.shape[1 if factor == "A.weight" else 0]
            if factor in ("A.weight", "B.weight") and width != wanted:
                raise UserError(
                    f"{folder} is no adapter of {self.base}: its {name} is {width} wide, that of the base "
                    f"{wanted or 'does not exist'}"
                )


def _check_adalora(rank: int, target_rank: int, total_steps: int, warmup: int, final: int) -> None:
    if not 1 <= target_rank < rank:
        raise UserError(
            f"AdaLoRA's target_rank {target_rank} must be at least 1 and below rank {rank}, from which it prunes"
        )
    if total_steps - final < max(warmup + 1, 2):
        raise UserError(
            f"AdaLoRA has no step to prune in: of total_steps {total_steps} the warm-up takes {warmup} and the last "
            f"phase {final}; train longer, or lower warmup_share or final_share"
        )


def _read(folder: Path) -> tuple[Any, dict[str, Tensor]]:
    """Configuration and parameters of a saved adapter, both as LoRA's."""
    from peft import LoraConfig
    from safetensors.torch import load_file

    for file in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if not (folder / file).is_file():
            raise UserError(f"{folder} is no adapter: it has no {file}; save one in PEFT's layout as safetensors")
    settings = json.loads((folder / ADAPTER_CONFIG).read_text())
    tensors = load_file(folder / ADAPTER_WEIGHTS)
    kind = settings.get("peft_type")
    if kind == "LORA":
        config = LoraConfig.from_pretrained(str(folder))
    elif kind == "ADALORA":
        config, tensors = _as_lora(tensors, settings["lora_alpha"], settings["init_r"])
    else:
        raise UserError(f"{folder} is an adapter of kind {kind}; known: LORA, ADALORA")
    config.inference_mode = True
    config.base_model_name_or_path = None
    return config, tensors


def _as_lora(tensors: Mapping[str, Tensor], alpha: float, first_rank: int) -> tuple[Any, dict[str, Tensor]]:
    """AdaLoRA's B·diag(E)·A, with what was pruned (E = 0) left out, as LoRA's B·A.

    tensors: `lora_A` (rank, in), `lora_E` (rank, 1) and `lora_B` (out, rank) of each layer, named as in PEFT's files.
    first_rank: where AdaLoRA started; its output is scaled by that whatever it has pruned.
    """
    from peft import LoraConfig

    scale = alpha / (first_rank + 1e-5)  # as PEFT does
    values = {key.removesuffix(".lora_E"): e.flatten() for key, e in tensors.items() if key.endswith(".lora_E")}
    untrained = not any(e.any() for e in values.values())
    ranks: dict[str, int] = {}
    factors: dict[str, Tensor] = {}
    for layer, e in values.items():
        kept = (e != 0) | untrained  # LoRA must have some layer
        if kept.any():
            ranks[layer.removeprefix(_PREFIX)] = int(kept.sum())
            factors[f"{layer}.lora_A.weight"] = (tensors[f"{layer}.lora_A"] * e[:, None] * scale)[kept].contiguous()
            factors[f"{layer}.lora_B.weight"] = tensors[f"{layer}.lora_B"][:, kept].contiguous()
    widest = max(ranks.values())
    config = LoraConfig(
        r=widest,
        lora_alpha=widest,  # alpha / rank is 1: the scale is in the factors
        rank_pattern=ranks,
        alpha_pattern=dict(ranks),
        target_modules=list(ranks),
    )
    return config, factors
