"""`rayapp serve`: the champion behind an OpenAI-compatible API."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rayapp.cli.options import Address, AsJson, Home, Overrides
from rayapp.cli.output import command_output
from rayapp.tracking import DEFAULT_HOME


def command(
    config_file: Annotated[
        Path | None,
        typer.Argument(
            metavar="[CONFIG]", help="YAML file; without it the settings of `configs/serve.yaml`.", show_default=False
        ),
    ] = None,
    overrides: Overrides = None,
    address: Address = None,
    home: Home = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Serve the champion as `POST /v1/audio/transcriptions`, until Ctrl-C.

    Listens on this machine only, unless `host` says otherwise. Any OpenAI client can ask it.

    Example: `rayapp serve --set port=8080`, then
    `curl -F file=@note.wav -F model=medical-asr http://127.0.0.1:8080/v1/audio/transcriptions`
    """
    with command_output(as_json) as output:
        from rayapp.config import load_config
        from serve.config import ServeConfig

        config = load_config(ServeConfig, config_file, overrides or [])

        import contextlib
        import signal

        from rayapp.ray_session import ray_session
        from serve.run import require_free_port, resolve_model, serving

        resolve_model(config, home)
        require_free_port(config.host, config.port)
        with contextlib.ExitStack() as stack:
            with output.step("serve", f"starting {config.model_name}"):
                stack.enter_context(ray_session(address))
                url = stack.enter_context(serving(config, home))
            listening = f"{config.model_name} listens at {url}; Ctrl-C stops it"
            output.result({"url": url, "model": config.model_name}, listening)
            with contextlib.suppress(KeyboardInterrupt):  # how a server is meant to end
                signal.pause()
            output.console.print("stopping")
