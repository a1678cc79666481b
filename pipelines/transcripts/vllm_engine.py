"""Sentences from a model that vLLM runs on this cluster, inside the stream: Ray Data's own LLM operators."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import pyarrow as pa

from pipelines.transcripts.answers import parse_answer
from pipelines.transcripts.config import VllmConfig
from pipelines.transcripts.generator import Draft
from pipelines.transcripts.prompts import PromptSet
from rayapp.errors import RejectedError, UserError
from rayapp.execution import DatasetGroup
from rayapp.records import Slot, Utterance
from rayapp.stage import Resources
from rayapp.workers import pack, unpack

if TYPE_CHECKING:
    from ray.data import Dataset

Outcome: TypeAlias = Sequence[Draft] | Exception
Then: TypeAlias = Callable[[list[Utterance], list[Outcome]], list[Utterance]]
"""What becomes of utterances once their drafts are there; travels to the workers, and keeps the order."""
_RESTARTS = 4
"""Of each engine, where it dies: Ray Data would restart one that cannot work for ever."""
_RUN_BY_OTHERS: dict[str, Any] = {"num_cpus": 0}
"""Light work between the engines' turns: it must not wait for a CPU that a resident worker holds."""


def vllm_group(config: VllmConfig, styles: Mapping[str, PromptSet], then: Then) -> DatasetGroup:
    """The step that gives each slot its drafts, and hands them to `then`.

    Raises `UserError` for a number of GPUs that does not suit the engine, or files that are not there.
    """
    processor = _processor_settings(config)

    def apply(dataset: Dataset) -> Dataset:
        from ray.data.llm import build_processor, vLLMEngineProcessorConfig

        write = build_processor(
            vLLMEngineProcessorConfig(**processor),
            preprocess=partial(_request, config=config, styles=styles),
            preprocess_map_kwargs=_RUN_BY_OTHERS,
            postprocess_map_kwargs=_RUN_BY_OTHERS,
        )
        write.get_stage_by_name("vLLMEngineStage").map_batches_kwargs["max_restarts"] = _RESTARTS
        return write(dataset).map_batches(
            _hand_over,
            fn_kwargs={"styles": styles, "then": then},
            batch_size=None,
            batch_format="pyarrow",
            **_RUN_BY_OTHERS,
        )

    return DatasetGroup("vllm", apply, config.workers, Resources(cpus=1.0, gpus=config.gpus))


def _processor_settings(config: VllmConfig) -> dict[str, Any]:
    """Of `vLLMEngineProcessorConfig`."""
    template = _read("chat_template", config.chat_template) if config.chat_template else None
    devices = config.engine.get("tensor_parallel_size", 1) * config.engine.get("pipeline_parallel_size", 1)
    if config.gpus not in (0, devices) and not (devices == 1 and config.gpus < 1):
        raise UserError(
            f"vllm: gpus ({config.gpus:g}) is not the engine's tensor_parallel_size × pipeline_parallel_size "
            f"({devices}); set gpus to {devices}, or to 0 for the CPU build"
        )
    return {
        "model_source": config.model,
        "engine_kwargs": _engine(config),
        "concurrency": (config.workers, config.workers),
        "batch_size": config.batch_size,
        "chat_template_stage": {
            "chat_template": template,
            "chat_template_kwargs": {"bos_token": ""},  # the tokenizer puts it first: from both it would stand twice
            "concurrency": 1,
            **_RUN_BY_OTHERS,
        },
        "tokenize_stage": False,  # the engine does both
        "detokenize_stage": False,
        "placement_group_config": {"bundle_per_worker": {"CPU": 1, "GPU": config.gpus / devices}},
        "dynamic_lora_loading_path": _lora(config)[0],
        "should_continue_on_error": True,
        "runtime_env": {"env_vars": _environment()},
    }


def _engine(config: VllmConfig) -> dict[str, Any]:
    engine: dict[str, Any] = {}
    if not config.gpus:
        engine["distributed_executor_backend"] = "mp"
    elif config.gpus < 1:  # leaves the rest to those who share the GPU
        engine["gpu_memory_utilization"] = 0.9 * config.gpus
    if config.lora:
        engine |= {"enable_lora": True, "max_lora_rank": _lora_rank(config.lora)}
    return engine | config.engine


def _environment() -> dict[str, str]:
    """Of the engine's process; what the driver's environment says goes before."""
    defaults = {
        "VLLM_PLUGINS": "",  # NeMo brings one that the CPU build does not survive
        "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    }
    return {name: os.environ.get(name, value) for name, value in defaults.items()}


def _lora(config: VllmConfig) -> tuple[str | None, str | None]:
    """The remote folder that adapters are fetched from, if it is one, and the adapter's name there or path here."""
    if config.lora and "://" in config.lora:
        folder, _, name = config.lora.rstrip("/").rpartition("/")
        return folder, name
    return None, config.lora


def _lora_rank(lora: str) -> int:
    """From the adapter's own settings; vLLM's default where they are remote."""
    if "://" in lora:
        return 16
    rank: int = json.loads(_read("lora", f"{lora}/adapter_config.json"))["r"]
    return next((allowed for allowed in (8, 16, 32, 64, 128, 256) if allowed >= rank), rank)


def _read(key: str, path: str) -> str:
    try:
        return Path(path).read_text("utf-8")
    except OSError as error:
        raise UserError(f"vllm.{key}: {path} cannot be read ({error.strerror})") from None


def _request(row: dict[str, Any], config: VllmConfig, styles: Mapping[str, PromptSet]) -> dict[str, Any]:
    """What an utterance's row gains for the engine."""
    slot = unpack(pa.Table.from_pylist([row]))[0].slot
    style = styles[slot.style]
    request: dict[str, Any] = {
        "messages": style.messages(slot, config.candidates),
        "sampling_params": _sampling(slot, style, config),
    }
    name = _lora(config)[1]
    return request | ({"model": name} if name else {})


def _sampling(slot: Slot, style: PromptSet, config: VllmConfig) -> dict[str, Any]:
    sampling: dict[str, Any] = {
        "seed": int(slot.rng("llm").integers(2**31)),
        "temperature": config.temperature,
        "max_tokens": config.max_tokens,
    }
    if config.guided:  # as text: as a struct, each style's schema would gain the others' keys
        sampling["structured_outputs"] = {"json": json.dumps(style.schema(config.candidates))}
    return sampling


def _hand_over(table: pa.Table, styles: Mapping[str, PromptSet], then: Then) -> pa.Table:
    utterances = unpack(table)
    answers = zip(table["generated_text"].to_pylist(), table["__inference_error__"].to_pylist(), strict=True)
    outcomes = [
        _outcome(answer, error, styles[utterance.slot.style])
        for utterance, (answer, error) in zip(utterances, answers, strict=True)
    ]
    return pack(then(utterances, outcomes))


def _outcome(answer: str, error: str, style: PromptSet) -> Outcome:
    if error:
        return RejectedError(f"the engine failed: {error.partition(':')[0]}")  # the kind; the rest quotes the prompt
    try:
        return parse_answer(answer, style.roles)
    except RejectedError as rejection:
        return rejection
