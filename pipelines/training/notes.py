"""What the ranks of a training told, on disk: a run that was killed goes on with it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines.training.mixture import SetAside
from rayapp.storage import write_file


class Notes:
    """What the ranks told, beside the checkpoints, so that a run that goes on later knows what came before."""

    def __init__(self, folder: Path, set_aside: Sequence[SetAside]) -> None:
        self._path, self._set_aside_path = folder / "history.jsonl", folder / "set_aside.jsonl"
        earlier = _whole_lines(self._path)
        self._path.write_text("".join(json.dumps(entry) + "\n" for entry in earlier), encoding="utf-8")
        self._file = self._path.open("a", encoding="utf-8")
        self.set_aside = dict(set_aside)
        """Utterances that were not learnt from, and why."""
        self.set_aside |= {row["utterance_id"]: row["reason"] for row in _whole_lines(self._set_aside_path)}
        self._write_set_aside()

    def add(self, entries: Sequence[dict[str, Any]]) -> None:
        """A sample's text stays out: it goes to the trackers alone."""
        for entry in entries:
            found = entry.pop("set_aside_utterances", None)
            if found:
                self.set_aside |= {each["utterance_id"]: each["reason"] for each in found}
                self._write_set_aside()
            else:
                self._file.write(json.dumps({k: v for k, v in entry.items() if k != "samples"}) + "\n")
        self._file.flush()

    def history(self) -> list[dict[str, Any]]:
        """From the first step on; what was done again after an interruption stands there once."""
        told: list[dict[str, Any]] = []
        for entry in _whole_lines(self._path):
            while "in_force" in entry and told and told[-1]["step"] > entry["step"]:  # ranks began at a checkpoint
                told.pop()
            told.append(entry)
        return told

    def close(self) -> None:
        """All is in the figures then."""
        self._file.close()
        self._path.unlink()

    def _write_set_aside(self) -> None:
        """All of them, or as it was before: a run may be killed at any time."""
        if self.set_aside:
            rows = [{"utterance_id": name, "reason": reason} for name, reason in self.set_aside.items()]
            write_file(self._set_aside_path, "".join(json.dumps(row) + "\n" for row in rows).encode())


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    """Of JSON lines, but for half a line at the end, where a run was killed."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
