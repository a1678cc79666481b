"""What a command says and how it ends: progress on stderr, the result on stdout, exit codes that mean something."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import typer
from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from rayapp.errors import UserError

FAULT, BAD_INPUT, REFUSED, INTERRUPTED = 1, 2, 3, 130


class Output:
    """One command's voice."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self.console = Console(stderr=True, highlight=False)
        self.seconds_by_step: dict[str, float] = {}
        self._stdout_fd = os.dup(1)
        if as_json:  # libraries, and the C code beneath them, print to stdout as they like
            os.dup2(2, 1)

    def result(self, values: dict[str, Any], *shown: RenderableType) -> None:
        """The end of a command: `values` as JSON, or what is `shown` to a person, line by line."""
        if self.as_json:
            self._print_json(values)
            return
        console = Console(highlight=False)
        if not console.is_terminal:
            console.width = 120  # or a table would be squeezed into 80 columns
        for line in shown:
            console.print(line, soft_wrap=isinstance(line, str))

    def error(self, message: str, code: int) -> None:
        self.console.print("[bold red]error:[/] ", end="")
        self.console.print(message, markup=False, soft_wrap=True)
        if self.as_json:
            self._print_json({"error": message, "exit_code": code})

    @contextlib.contextmanager
    def step(self, name: str, doing: str) -> Iterator[Callable[..., None]]:
        """Shows a progress bar while the block runs, and then how long it took.

        The value of the block is called with how many are done, of how many, and if it likes a note beside them.
        """
        started = time.perf_counter()
        bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        with bar:
            if bar.disable:  # a log: a line at each quarter
                self.console.print(f"… {doing}")
                yield self._quarters()
            else:
                task = bar.add_task(doing, total=None)

                def tell(done: int, total: int, note: str = "") -> None:
                    description = f"{doing} [dim]{note}[/]" if note else doing
                    bar.update(task, completed=done, total=total, description=description)

                yield tell
        seconds = self.seconds_by_step[name] = round(time.perf_counter() - started, 1)
        self.console.print(f"[green]✓[/] {doing} [dim]{seconds:.1f} s[/]")

    def _quarters(self) -> Callable[..., None]:
        told = 0

        def tell(done: int, total: int, note: str = "") -> None:
            nonlocal told
            quarters = 4 * done // max(total, 1)
            if told < quarters < 4:
                self.console.print(f"  {done} of {total}{f' ({note})' if note else ''}")
            told = max(told, quarters)

        return tell

    def _print_json(self, values: dict[str, Any]) -> None:
        os.write(self._stdout_fd, (json.dumps(values) + "\n").encode())


@contextlib.contextmanager
def command_output(as_json: bool) -> Iterator[Output]:
    """Runs a command: bad input exits with 2 and a message, Ctrl-C with 130, a fault of ours with 1."""
    output = Output(as_json)
    for stop in (signal.SIGINT, signal.SIGTERM):  # a job that is stopped cleans up as with Ctrl-C
        signal.signal(stop, _interrupt)
    try:
        from rayapp.inside import require_inside

        require_inside(None)  # a command without settings talks to MLflow, too
        yield output
    except UserError as error:
        output.error(str(error), BAD_INPUT)
        raise typer.Exit(BAD_INPUT) from None
    except KeyboardInterrupt:
        output.error("interrupted; the same command goes on where it stopped", INTERRUPTED)
        raise typer.Exit(INTERRUPTED) from None
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("rayapp", "pipelines", "serve", "cluster"):
            raise
        output.error(
            f"{error.name} is not installed: this command needs the whole platform (`uv sync`); "
            "with the light install, run it on a cluster by `rayapp submit`",
            BAD_INPUT,
        )
        raise typer.Exit(BAD_INPUT) from None
    except typer.Exit:
        raise
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        output.error(f"{type(error).__name__}: {error} (this is a fault of rayapp's; the lines above say where)", FAULT)
        raise typer.Exit(FAULT) from None


def _interrupt(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt
