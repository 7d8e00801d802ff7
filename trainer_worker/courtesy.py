"""A worker lets queries pass: on a GPU, or on cores that both use, its steps would slow them."""

from __future__ import annotations

import time
from collections.abc import Callable

LOOK_EVERY_S = 0.005
QUIET_S = 0.05
"""Without a query for so long, and it goes on: a client's next question may be on its way."""


class Courtesy:
    """Waits between two steps of work while queries are being answered, but not for ever."""

    def __init__(
        self, answering: Callable[[], bool], wait: Callable[[float], bool], *, share: float
    ) -> None:
        """
        Args:
            answering: whether a query is being answered now.
            wait: sleeps so many seconds; True ends the courtesy (the worker is to stop).
            share: of the time that work goes on whatever is asked, 0 < share <= 1.
        """
        self._answering = answering
        self._wait = wait
        self._waits_per_worked_s = (1 - share) / share
        self._since = time.monotonic()

    def begin(self) -> None:
        """Work starts now."""
        self._since = time.monotonic()

    def pause(self) -> float:
        """Between two steps: let queries pass. Returns: seconds waited."""
        paused = time.monotonic()
        longest_s = self._waits_per_worked_s * (paused - self._since)
        heard: float | None = None  # when a query was last being answered
        while True:
            now = time.monotonic()
            if self._answering():
                heard = now
            quiet = heard is None or now - heard >= QUIET_S
            if quiet or now - paused >= longest_s or self._wait(LOOK_EVERY_S):
                break
        self.begin()
        return now - paused
