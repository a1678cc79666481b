"""Starting and stopping the application on a running Ray."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rayapp.errors import UserError
from rayapp.ray_session import require_room
from rayapp.registry import Registry
from serve.config import ServeConfig
from serve.keys import read_keys

APPLICATION = "rayapp"


def resolve_model(config: ServeConfig, home: Path) -> Path:
    """The `.nemo` file to serve: what the alias points to, or the path that the settings allow."""
    if config.path:
        if not config.path.is_file():
            raise UserError(f"model file {config.path} does not exist")
        return config.path
    return Registry(home).resolve(config.model_name, config.alias)


def checked(config: ServeConfig) -> ServeConfig:
    """With the file of keys as replicas find it. A bad one is said here, not by a replica that does not start."""
    if not config.keys_file:
        return config
    read_keys(config.keys_file)
    return config.model_copy(update={"keys_file": config.keys_file.absolute()})


@contextmanager
def serving(config: ServeConfig, home: Path) -> Iterator[str]:
    """The application, ready, for the length of the block; yields the base URL for an OpenAI client.

    Raises `UserError` where the port is in use, there is no such model, or no room for so many replicas.
    """
    from ray.serve import delete, shutdown, start, status

    from serve.app import INGRESS_CPUS

    model = resolve_model(config, home)
    config = checked(config)
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
    )
    try:
        deploy(config, model)
        yield f"http://{config.host}:{config.port}/v1"
    finally:
        if set(status().applications) - {APPLICATION}:
            with suppress(TimeoutError):  # what it still listens to may take longer: it goes by itself
                delete(APPLICATION)  # others' on the same cluster go on
        else:
            shutdown()


def deploy(config: ServeConfig, model: Path) -> None:
    """The application on a Serve that runs, in place of one that is there already; no request fails meanwhile."""
    from ray.serve import run

    from serve.app import build

    run(build(config, model), name=APPLICATION, route_prefix="/")


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
