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
    fetch: Annotated[
        bool, typer.Option("--fetch", help="Only fetch the models to this machine, as at the start of a node.")
    ] = False,
    address: Address = None,
    home: Home = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Serve recognisers as `POST /v1/audio/transcriptions`, until Ctrl-C.

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
        from serve.models import Catalogue
        from serve.run import checked, require_free_port, serving

        config = checked(config, home)
        names = ", ".join(model.name for model in config.models)
        if fetch:
            with output.step("fetch", f"fetching {names}"):
                catalogue = Catalogue(config, home)
                paths = {model.id: str(catalogue.fetch(model.id)) for model in catalogue.current.values()}
            output.result({"models": paths}, *(f"{model}: {path}" for model, path in paths.items()))
            return
        require_free_port(config.host, config.port)
        with contextlib.ExitStack() as stack:
            with output.step("serve", f"starting {names}"):
                stack.enter_context(ray_session(address))
                url = stack.enter_context(serving(config, home))
            listens = "listens" if len(config.models) == 1 else "listen"
            listening = f"{names} {listens} at {url}; Ctrl-C stops it"
            output.result({"url": url, "models": [model.name for model in config.models]}, listening)
            with contextlib.suppress(KeyboardInterrupt):  # how a server is meant to end
                signal.pause()
            output.console.print("stopping")
