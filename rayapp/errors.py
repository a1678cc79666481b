"""Errors that a user can mend. Each message says what, the actual value, and what to do."""

from __future__ import annotations


class UserError(ValueError):
    """Bad input, a bad setting or a machine that is not ready: the command line exits with 2."""


class RejectedError(Exception):
    """One row cannot be made. Its stage raises this; the row goes on with the reason, and is counted."""
