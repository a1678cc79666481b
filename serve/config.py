"""Settings of the server."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from rayapp.config import StepConfig

_REGISTERED = re.compile(r"([\w-]+)@([\w-]+)")


class BatchingConfig(StepConfig):
    """How the requests of a replica share its device."""

    max_batch_seconds: float = Field(default=400, gt=0)
    """Most seconds of audio in a batch, padding included: what fits into the device's memory."""
    target_batch_time_seconds: float = Field(default=2, gt=0)
    """No batch is meant to keep the device for longer: what comes meanwhile has to wait."""
    max_padding_share: float | None = Field(default=None, ge=0, lt=1)
    """Most of a batch that may be padding: audio of other lengths waits for its own batch. Unset, it is 0.25 on a GPU,
    and all there is on a CPU, where padding costs nothing."""
    max_wait_seconds: float = Field(default=5, ge=0)
    """Who has waited so long is next, whoever else is there."""
    max_queued_seconds: float = Field(default=1200, gt=0)
    """With so much audio in the queue of a replica, new requests are turned away with 429."""

    def on(self, device: str) -> Self:
        """The settings for a device, `cpu` or `cuda`, with nothing left open."""
        if self.max_padding_share is not None:
            return self
        return self.model_copy(update={"max_padding_share": 0.25 if device == "cuda" else 1.0})


class ScalingConfig(StepConfig):
    """How many copies of the recogniser there are."""

    min_replicas: int = Field(default=1, ge=0)
    """Copies that are always there; with 0, whoever comes first after a pause waits until the model is loaded."""
    max_replicas: int = Field(default=1, ge=1)
    """Copies when there is much to do."""
    target_pending_seconds: float = Field(default=600, gt=0)
    """Of audio that waits or is listened to, for each copy: with more, another one is started."""
    upscale_delay_seconds: float = Field(default=5, ge=0)
    """For which there must be too much to do before a copy is started."""
    downscale_delay_seconds: float = Field(default=300, ge=0)
    """For which there must be too little to do before some are stopped."""
    spare_copy: bool = True
    """When the application is deployed anew, new copies are loaded before old ones go, which takes room for both.
    Without it, requests wait for the new model."""

    @model_validator(mode="after")
    def _no_more_than_the_most(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"min_replicas ({self.min_replicas}) is above max_replicas ({self.max_replicas})")
        return self


class RetentionConfig(StepConfig):
    """Where audio and answers are kept for audits, see `serve.retention`."""

    folder: Path
    """On storage that all ingresses reach."""
    public_key: Path
    """For which all of it is encrypted; `rayapp audit new-key` makes one, and the private key that opens it."""
    keep_days: int = Field(default=30, ge=1)
    """Days that are older are removed."""


class ModelConfig(StepConfig):
    """A model that is served."""

    name: str = Field(pattern=r"^[\w.-]+$")
    """That clients give as `model`."""
    source: str | None = None
    """`NAME@ALIAS` in the registry, which is followed where it points to; without it, the champion of the name. With
    `allow_unreleased`, also the path of a model or adapter, or a name of Hugging Face's hub or of NGC."""
    language: str = Field(default="en", pattern=r"^[a-z]{2,3}$")
    """What it hears; a request for another language is refused."""

    @property
    def registered(self) -> tuple[str, str] | None:
        """Name and alias in the registry; None for what is elsewhere."""
        if self.source is None:
            return self.name, "champion"
        found = _REGISTERED.fullmatch(self.source)
        return (found[1], found[2]) if found else None


class ServeConfig(StepConfig):
    """What is served, and where."""

    models: tuple[ModelConfig, ...] = Field(default=(ModelConfig(name="medical-asr"),), min_length=1)
    """What clients can ask for."""
    models_in_memory: int | None = Field(default=None, ge=2)
    """Most models in each copy of the recogniser, the versions that an alias pointed to before among them; who has not
    been asked for longest goes. Unset, two more than there are `models`. Adapters to one base share it."""
    registry_poll_seconds: float = Field(default=10, gt=0)
    """So often the registry is asked where the aliases point to: a version that was promoted is served some two such
    times later."""
    copy_models: bool = False
    """Copy models to the disk of each node, below `RAYAPP_CACHE`, before they are loaded: for storage that many share.
    `rayapp serve CONFIG --fetch` does so ahead."""
    allow_unreleased: bool = False
    """Serve what the gate has not seen."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 opens the service to the network."""
    port: int = Field(default=8000, ge=1, le=65535)
    """Port to listen on."""
    keys_file: Path | None = None
    """API keys, see `rayapp api-key`; without it, whoever reaches the address is answered."""
    allow_anonymous: bool = False
    """Listen beyond this machine without keys: something in front of it asks for them."""
    ingresses: int = Field(default=1, ge=1)
    """Copies of what takes uploads in and decodes them."""
    scaling: ScalingConfig = ScalingConfig()
    """How many copies of the recogniser there are."""
    cpus_per_replica: float = Field(default=1, gt=0)
    """CPU share of each copy of the recogniser."""
    gpus_per_replica: float = Field(default=0, ge=0)
    """GPU share of each copy of the recogniser; 0 serves on the CPU."""
    gpu_type: str | None = None
    """Ray's name of the GPUs that it needs, such as `A100` or `L40S`; unset, any."""
    max_upload_mb: int = Field(default=25, ge=1)
    """Largest upload."""
    max_upload_seconds: float = Field(default=300, gt=0)
    """A request must have arrived by then."""
    max_open_requests: int = Field(default=256, ge=1)
    """More at a time are turned away with 429, before they are taken in. Each ingress counts by itself."""
    max_audio_seconds: float = Field(default=7200, gt=0)
    """Longest audio; more is not even decoded."""
    max_piece_seconds: float = Field(default=30, ge=6)
    """Longer audio is cut where nobody speaks, and joined again."""
    decoders: int = Field(default=2, ge=1)
    """Uploads that are decoded at a time."""
    uncertain_below: float = Field(default=0.5, ge=0, le=1)
    """Words with less confidence are marked in `verbose_json`."""
    retention: RetentionConfig | None = None
    """Keep what is sent and answered, encrypted, for audits; unset, nothing of it is kept."""
    batching: BatchingConfig = BatchingConfig()
    """How requests share a replica's device."""

    @model_validator(mode="after")
    def _strangers_need_a_key(self) -> Self:
        if self.host not in ("127.0.0.1", "::1", "localhost") and not self.keys_file and not self.allow_anonymous:
            raise ValueError(
                f"host {self.host} is reached from other machines: set keys_file, or allow_anonymous: true where a "
                "gateway in front of it asks for keys"
            )
        return self

    @model_validator(mode="after")
    def _each_name_is_of_one_model(self) -> Self:
        names = [model.name for model in self.models]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"models has the name {twice} twice; clients could not tell them apart")
        return self

    @model_validator(mode="after")
    def _what_is_not_in_the_registry_is_unreleased(self) -> Self:
        for model in self.models:
            if not model.registered and not self.allow_unreleased:
                raise ValueError(
                    f"the source of {model.name} ({model.source}) is not NAME@ALIAS in the registry, and past the "
                    "gate; set allow_unreleased: true if that is meant, or release it first"
                )
        return self
