"""`rayapp serve`: the champion behind an OpenAI-compatible API."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rayapp.cli.options import DEFAULT_HOME, Address, AsJson, Home, Overrides
from rayapp.cli.output import command_output


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

        import signal

        from rayapp.ray_session import ray_session
        from serve.run import require_free_port, resolve_model, serving

        resolve_model(config, home)
        require_free_port(config.host, config.port)
        with ray_session(address):
            with output.step("serve", f"starting {config.model_name}"):
                service = serving(config, home)
                url = service.__enter__()
            try:
                listening = f"{config.model_name} listens at {url}; Ctrl-C stops it"
                output.result({"url": url, "model": config.model_name}, listening)
                signal.pause()
            except KeyboardInterrupt:
                output.console.print("stopping")
            finally:
                service.__exit__(None, None, None)
