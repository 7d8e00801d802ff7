"""Where the milliseconds of a request go."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Milliseconds since it was made, and of the stages run under it."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self.stages_ms: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.stages_ms[name] = 1e3 * (time.perf_counter() - started)

    def elapsed_ms(self) -> float:
        return 1e3 * (time.perf_counter() - self._started)
