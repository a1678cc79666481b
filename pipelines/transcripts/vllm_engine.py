"""Sentences from a model that vLLM runs on this cluster, inside the stream: Ray Data's own LLM operators."""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipelines.transcripts.answers import parse_answer
from pipelines.transcripts.config import TranscriptsConfig, VllmConfig
from pipelines.transcripts.generator import Generator, Step
from pipelines.transcripts.prompts import PromptSet
from pipelines.transcripts.styles import prompt_sets, style_contents
from pipelines.transcripts.write import chosen
from rayapp.errors import RejectedError, UserError
from rayapp.execution import DatasetGroup
from rayapp.ids import path_id
from rayapp.records import Slot, Term, Utterance
from rayapp.stage import Resources, Stage, run_stages
from rayapp.workers import BUSY_SECONDS, pack, unpack

if TYPE_CHECKING:
    from ray.data import Dataset

_logger = logging.getLogger(__name__)
_RESTARTS = 4
"""Of each engine, where it dies: Ray Data would restart one that cannot work for ever."""
_RUN_BY_OTHERS: dict[str, Any] = {"num_cpus": 0}
"""Light work between the engines' turns: it must not wait for a CPU that a resident worker holds."""
_HUB_NAME = re.compile(r"([\w-][\w.-]*(?:/[\w.-]+)?)(?::[\w.-]+)?")
"""`OWNER/NAME`, or `OWNER/NAME:QUANTISATION` of GGUF files."""
_ERROR = "__inference_error__"
"""Ray Data's column of what went wrong with a row, empty where nothing did; rows with an error skip the engine."""


class VllmGenerator(Generator):
    """Has vLLM write the sentences, on this cluster."""

    version = 1
    """Raise it when the same slot would read differently."""

    def __init__(self, config: TranscriptsConfig, held_out: Sequence[Term]) -> None:
        """held_out: terms that no sentence of training or validation may have."""
        self.config, self.held_out = config, held_out
        self.settings = config.vllm

    def check(self) -> None:
        """Raises `UserError` for a model, adapter or template that is not there, or GPUs that do not suit."""
        _processor_settings(self.settings)
        _model_id(self.settings)

    def steps(self) -> list[Step]:
        """Raises `UserError` for a number of GPUs that does not suit the engine, or files that are not there."""
        settings, processor = self.settings, _processor_settings(self.settings)
        styles = prompt_sets(self.config)
        choose = partial(ChooseTranscript, config=self.config, styles=styles, held_out=self.held_out)

        def apply(dataset: Dataset) -> Dataset:
            from ray.data.llm import build_processor, vLLMEngineProcessorConfig

            write = build_processor(
                vLLMEngineProcessorConfig(**processor),
                preprocess=partial(request, config=settings, styles=styles),
                preprocess_map_kwargs=_RUN_BY_OTHERS,
                postprocess_map_kwargs=_RUN_BY_OTHERS,
            )
            engine = write.get_stage_by_name("vLLMEngineStage")
            engine.map_batches_kwargs["max_restarts"] = _RESTARTS
            # A copy: setting a field would work out anew which GPUs it wants, from settings it has used up.
            write.stages["vLLMEngineStage"] = engine.model_copy(update={"fn": _timed(engine.fn)})
            return write(dataset).map_batches(
                hand_over, fn_kwargs={"choose": choose}, batch_size=None, batch_format="pyarrow", **_RUN_BY_OTHERS
            )

        return [DatasetGroup("vllm", apply, self.version, settings.workers, Resources(cpus=1.0, gpus=settings.gpus))]

    def identity(self) -> list[str]:
        settings = self.settings
        remote, adapter = _lora(settings)
        return [
            *style_contents(self.config),
            _model_id(settings),
            # Only the engines fetch a remote adapter; its location, which is a setting, is all that is known of it.
            path_id(Path(adapter)) if adapter and not remote else "",
            _read("chat_template", settings.chat_template) if settings.chat_template else "",
        ]


def _processor_settings(config: VllmConfig) -> dict[str, Any]:
    """Of `vLLMEngineProcessorConfig`."""
    _require_model(config.model)
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
        "accelerator_type": config.gpu_type if config.gpus else None,
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


def _require_model(model: str) -> None:
    """Raises `UserError` for what is neither here, nor at a remote location, nor a name that the hub could have."""
    if not (Path(model).exists() or "://" in model or _HUB_NAME.fullmatch(model)):
        raise UserError(
            f"vllm.model: {model} is not there; give the folder of a model that this machine and the workers see, or "
            "a name of Hugging Face's hub such as meta-llama/Llama-3.1-8B-Instruct"
        )


def _model_id(config: VllmConfig) -> str:
    """What a model holds, or of the hub's the commit; empty for what is only known by its name.

    Of the hub's, as the cache has it. Where it has none, config.json is fetched: a run then has the same key before
    and after the engines fetched the rest.

    Raises `UserError` for a model that the hub does not have, or not for everybody.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

    if Path(config.model).exists():
        return path_id(Path(config.model))
    name = _HUB_NAME.fullmatch(config.model)
    if not name:
        return ""
    revision = config.engine.get("revision")
    cached = try_to_load_from_cache(name[1], "config.json", revision=revision)
    try:
        file = cached if isinstance(cached, str) else hf_hub_download(name[1], "config.json", revision=revision)
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise UserError(
            f"vllm.model: the hub does not give {config.model} ({type(error).__name__}); correct the name, accept the "
            "model's terms on its page, or set HF_TOKEN to the token of somebody who may read it"
        ) from None
    except (OSError, EntryNotFoundError):  # no network, and not on this machine; the engines' may have it
        return ""
    return Path(file).parent.name


def request(row: dict[str, Any], config: VllmConfig, styles: Mapping[str, PromptSet]) -> dict[str, Any]:
    """What an utterance's row gains for the engine; where it cannot be asked for, the error that costs the row."""
    slot = unpack(pa.Table.from_pylist([row]))[0].slot
    try:
        style = styles[slot.style]
        asked = {
            "messages": style.messages(slot, config.candidates),
            "sampling_params": _sampling(slot, style, config),
        }
    except Exception as error:  # without its own words: they may quote the prompt
        _logger.error("no request could be made for slot %s: %s", slot.slot_id, type(error).__name__)
        return {_ERROR: type(error).__name__}
    name = _lora(config)[1]
    return asked | {_ERROR: ""} | ({"model": name} if name else {})


def _sampling(slot: Slot, style: PromptSet, config: VllmConfig) -> dict[str, Any]:
    sampling: dict[str, Any] = {
        "seed": int(slot.rng("llm").integers(2**31)),
        "temperature": config.temperature,
        "max_tokens": config.max_tokens,
    }
    if config.guided:  # as text: as a struct, each style's schema would gain the others' keys
        sampling["structured_outputs"] = {"json": json.dumps(style.schema(config.candidates))}
    return sampling


def _timed(engine: Any) -> Any:
    """The class of an engine that tells of each row how long it was busy with it, in the column `BUSY_SECONDS`.

    An engine has many batches at a time. The time since the last batch was done, or since there was nothing to do,
    counts for the batch that is done next, in equal parts for its rows. So all rows together have the time in which
    the engine had work, and none of it twice.
    """

    class Timed(engine):  # type: ignore[misc]
        _batches = 0
        _since = 0.0

        async def udf(self, batch: list[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
            if not self._batches:
                self._since = time.perf_counter()
            self._batches += 1
            try:
                answers = [answer async for answer in super().udf(batch)]
            finally:
                self._batches -= 1
            now = time.perf_counter()
            busy, self._since = (now - self._since) / len(batch), now
            for answer in answers:
                yield answer | {BUSY_SECONDS: busy}

    return Timed


class ChooseTranscript(Stage):
    """Takes the first of an engine's sentences that will do; made for one table, with its answers."""

    name = "transcript"
    version = VllmGenerator.version
    resources = Resources(cpus=0.0)

    def __init__(
        self,
        answers: Mapping[str, tuple[str, str]],
        config: TranscriptsConfig,
        styles: Mapping[str, PromptSet],
        held_out: Sequence[Term],
    ) -> None:
        """answers: what the engine wrote, and its error, by slot."""
        self.answers, self.config, self.styles, self.held_out = answers, config, styles, held_out

    def __call__(self, utterance: Utterance) -> Utterance:
        answer, error = self.answers[utterance.slot.slot_id]
        if error:  # the kind; the rest quotes the prompt
            raise RejectedError(f"the engine gave no answer: {error.partition(':')[0]}")
        drafts = parse_answer(answer, self.styles[utterance.slot.style].roles)
        outcome = chosen(utterance, drafts, self.config, self.held_out)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


def hand_over(table: pa.Table, choose: Callable[[Mapping[str, tuple[str, str]]], Stage]) -> pa.Table:
    """The rows that an engine has answered, as the next group takes them; whatever is wrong with one costs it alone."""
    utterances = unpack(table)
    answers = zip(_column(table, "generated_text", ""), _column(table, _ERROR, ""), strict=True)
    stage = choose({u.slot.slot_id: answer for u, answer in zip(utterances, answers, strict=True)})
    done = pack(run_stages([stage], utterances))
    return done.append_column(BUSY_SECONDS, pa.array(_column(table, BUSY_SECONDS, 0.0), pa.float64()))


def _column(table: pa.Table, name: str, default: Any) -> list[Any]:
    """A column, with the default in the place of what is not there: rows that skip the engine have nothing of it."""
    values = table[name].to_pylist() if name in table.column_names else [None] * table.num_rows
    return [default if value is None else value for value in values]
