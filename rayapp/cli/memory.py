"""Peak memory of a command with all its processes."""

from __future__ import annotations

import threading
from typing import Self

_INTERVAL_SECONDS = 2.0


class PeakMemory:
    """Sums the proportional set size (PSS) of this process and its descendants while the block runs.

    PSS shares out pages that several processes have in common, so the sum counts each page once.
    """

    def __init__(self) -> None:
        self.peak_gb = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        import psutil

        this = psutil.Process()
        while True:
            total = 0
            for process in (this, *this.children(recursive=True)):
                try:
                    total += process.memory_full_info().pss
                except psutil.Error:
                    continue  # it ended meanwhile
            self.peak_gb = max(self.peak_gb, total / 1e9)
            if self._stop.wait(_INTERVAL_SECONDS):
                return
