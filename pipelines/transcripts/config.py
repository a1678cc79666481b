"""Settings of the transcripts step."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from rayapp.config import StepConfig


class ChecksConfig(StepConfig):
    """What a sentence must be to be spoken."""

    min_words: int = Field(default=1, ge=1)
    """Shortest sentence; in Chinese, Japanese and Thai a character counts as a word."""
    max_words: int = Field(default=120, ge=1)
    """Longest sentence or dialogue."""
    language: bool = False
    """Reject what is not in the style's language, by its words; what is written in letters of no language of the
    style or its terms is always rejected. Latin words may stand in Chinese, Japanese, Korean and Thai."""
    max_near_duplicates: float | None = Field(default=None, ge=0.3, le=1)
    """Reject all but the first of those whose word pairs overlap by more than this share (Jaccard); 1 rejects exact
    copies only. Without it, copies stay: they are spoken by other voices."""
    max_pattern_share: float | None = Field(default=None, gt=0, le=1)
    """Reject what comes after, once a sentence pattern has this share of its style's sentences, repeats left out."""


class JudgeConfig(StepConfig):
    """A language model that scores each sentence."""

    base_url: str
    """OpenAI-compatible server, such as `http://localhost:8000/v1`."""
    model: str
    """Name of the model there."""
    api_key_variable: str = "OPENAI_API_KEY"
    """Environment variable that holds the key; servers without keys need none."""
    min_score: int = Field(default=3, ge=1, le=5)
    """Reject what gets less, of 5."""


class OpenAIConfig(StepConfig):
    """Sentences from an OpenAI-compatible server: a running vLLM, or a hosted model."""

    base_url: str = "http://localhost:8000/v1"
    """Where it answers."""
    model: str = "default"
    """Name of the model there."""
    api_key_variable: str = "OPENAI_API_KEY"
    """Environment variable that holds the key; servers without keys need none."""
    temperature: float = Field(default=0.9, ge=0, le=2)
    """How much sentences vary."""
    candidates: int = Field(default=6, ge=1, le=50)
    """Sentences asked for at a time; the first that passes every check and belongs to the slot's split is taken."""
    concurrency: int = Field(default=8, ge=1)
    """Requests at a time."""
    requests_per_minute: float | None = Field(default=None, gt=0)
    """Most requests; without it, as many as the server answers."""
    retries: int = Field(default=4, ge=0)
    """Try again so often after an error of the server, waiting longer each time."""
    timeout_seconds: float = Field(default=60.0, gt=0)
    """Give a request up after this long."""


class VllmConfig(StepConfig):
    """Sentences from a model that vLLM runs on this cluster."""

    model: str = "meta-llama/Llama-3.1-8B-Instruct"
    """Hugging Face name or local path."""
    lora: str | None = None
    """Path of a LoRA adapter: a model adapted to the domain."""
    chat_template: str | None = None
    """Path of a chat template, for models that bring none."""
    temperature: float = Field(default=0.9, ge=0, le=2)
    """How much sentences vary."""
    max_tokens: int = Field(default=1000, ge=8)
    """Longest answer; six dialogues take some 600."""
    candidates: int = Field(default=6, ge=1, le=50)
    """Sentences asked for at a time; the first that passes every check and belongs to the slot's split is taken."""
    guided: bool = True
    """Let vLLM hold the model to the JSON that is asked for."""
    batch_size: int = Field(default=64, ge=1)
    """Requests handed to the engine at a time."""
    workers: int = Field(default=1, ge=1)
    """Engines."""
    gpus: float = Field(default=1.0, ge=0)
    """GPUs of each engine; 0 runs the CPU build."""
    gpu_type: str | None = None
    """Ray's name of the GPUs that it needs, such as `A100` or `L40S`; unset, any."""
    engine: dict[str, Any] = Field(default={})
    """Passed on to vLLM's engine, such as `max_model_len` or `tensor_parallel_size`."""


class TranscriptsConfig(StepConfig):
    """What is said around the terms."""

    generator: Literal["grammar", "openai", "vllm"] = "grammar"
    """Who writes: the embedded grammar, an OpenAI-compatible server, or vLLM on this cluster."""
    styles: dict[str, Annotated[float, Field(ge=0)]] = Field(default={})
    """Styles of the sentences around terms, and their shares, such as `{clinical_en: 4, dialogue_en: 1}`; without it,
    the generator's own."""
    everyday: str = ""
    """Style of the sentences without terms; without it, the generator's own."""
    checks: ChecksConfig = ChecksConfig()
    """What a sentence must be."""
    judge: JudgeConfig | None = None
    """Asked about every sentence, where there is one."""
    openai: OpenAIConfig = OpenAIConfig()
    """For `generator: openai`."""
    vllm: VllmConfig = VllmConfig()
    """For `generator: vllm`."""
    rounds: int = Field(default=3, ge=1)
    """Plan at most so often: what one round left short, the next asks for again."""

    max_patterns: int | None = Field(default=None, ge=8)
    """Use at most so many sentence patterns of each style, the shortest; without it, all of the grammar's. Lists of
    terms come besides, and are never held out: they are for training alone."""
    max_alternatives: int | None = Field(default=None, ge=2)
    """Use at most so many alternatives of each blank in a pattern: fewer words are learnt sooner. Openings of
    lists keep all of theirs."""
    held_out_patterns: float = Field(default=0.2, ge=0, lt=1)
    """Share of the sentence patterns that is never trained on: they make the test of unseen patterns."""
    max_draws: int = Field(default=300, ge=1)
    """Draw at most so many sentences for a slot until one belongs to its split; then the slot is rejected."""

    def idle_sections(self) -> tuple[str, ...]:
        return () if self.generator == "vllm" else ("vllm",)
