"""The `rayapp` command. Each file holds one command; heavy libraries are imported when it runs."""

from rayapp.cli.main import main

__all__ = ["main"]
