"""Starting and stopping the application on a running Ray."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rayapp.asr.resolve import is_elsewhere, trained_model
from rayapp.errors import UserError
from rayapp.ray_session import require_room
from serve.config import ModelConfig, ServeConfig
from serve.keys import read_keys
from serve.models import Catalogue
from serve.retention import read_public_key
from serve.tracing import tracing_config

APPLICATION = "rayapp"


def checked(config: ServeConfig, home: Path) -> ServeConfig:
    """With paths as replicas find them. What is wrong is said here, and not by a replica that does not start.

    home: folder of the registry. Raises `UserError` for a model that is not there, and files of keys that are none.
    """
    Catalogue(config, home).require()
    models = tuple(_found(model) for model in config.models)
    if config.keys_file:
        read_keys(config.keys_file)
        config = config.model_copy(update={"keys_file": config.keys_file.absolute()})
    if kept := config.retention:
        read_public_key(kept.public_key)
        paths = {"folder": kept.folder.absolute(), "public_key": kept.public_key.absolute()}
        config = config.model_copy(update={"retention": kept.model_copy(update=paths)})
    return config.model_copy(update={"models": models})


def _found(model: ModelConfig) -> ModelConfig:
    if model.registered or is_elsewhere(model.source or ""):
        return model
    return model.model_copy(update={"source": str(trained_model(Path(model.source or "")).absolute())})


@contextmanager
def serving(config: ServeConfig, home: Path) -> Iterator[str]:
    """The application, ready, for the length of the block; yields the base URL for an OpenAI client.

    Raises `UserError` where the port is in use, there is no such model, or no room for so many replicas.
    """
    from ray.serve import delete, shutdown, start, status

    from serve.app import INGRESS_CPUS

    config = checked(config, home)
    require_free_port(config.host, config.port)
    most = config.scaling.max_replicas
    require_room(
        most * config.cpus_per_replica + config.ingresses * INGRESS_CPUS,
        most * config.gpus_per_replica,
        f"lower scaling.max_replicas ({most})",
    )
    logging.getLogger("ray.serve").addFilter(_is_error)  # start() sets the level anew
    start(
        http_options={"host": config.host, "port": config.port},
        logging_config={"enable_access_log": False, "log_level": "ERROR"},
        tracing_config=tracing_config(),
    )
    try:
        deploy(config, home)
        yield f"http://{config.host}:{config.port}/v1"
    finally:
        if set(status().applications) - {APPLICATION}:
            with suppress(TimeoutError):  # what it still listens to may take longer: it goes by itself
                delete(APPLICATION)  # others' on the same cluster go on
        else:
            shutdown()


def deploy(config: ServeConfig, home: Path) -> None:
    """The application on a Serve that runs, in place of one that is there already; no request fails meanwhile."""
    from ray.serve import run

    from serve.app import build

    run(build(config, home), name=APPLICATION, route_prefix="/")


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR


def require_free_port(host: str, port: int) -> None:
    """Raises `UserError` when something listens there already."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UserError(f"port {port} on {host} cannot be used ({error.strerror}); choose another port") from None


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
