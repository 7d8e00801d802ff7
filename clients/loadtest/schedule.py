"""When requests are sent.

An open loop sends at times drawn beforehand, however slow the server is: what a crowd does. A
closed loop keeps a fixed number in flight: what a batch job does. Open-loop latency counts from
the time a request was *due*, else a stalled server hides its own queue (coordinated omission,
Tene 2013).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Schedule:
    """Which requests, when. The same values give the same arrivals for every endpoint."""

    requests: int
    warmup: int  # sent first, one at a time, and not counted
    rate: float | None  # a second, Poisson; None: closed loop
    concurrency: int  # of a closed loop
    seed: int = 0

    def due_s(self) -> list[float] | None:
        """Seconds after the start at which each request is due; None in a closed loop."""
        if self.rate is None:
            return None
        random_ = random.Random(self.seed)
        due, now = [], 0.0
        for _ in range(self.requests):
            now += random_.expovariate(self.rate)
            due.append(now)
        return due

    def draw(self, questions: Sequence[str]) -> list[str]:
        """A question for each request: all of them in random order, again and again."""
        random_ = random.Random(self.seed)
        drawn: list[str] = []
        while len(drawn) < self.requests:
            drawn += random_.sample(questions, len(questions))
        return drawn[: self.requests]

    def __str__(self) -> str:
        if self.rate is None:
            return f"closed loop, concurrency {self.concurrency}"
        return f"open loop, {self.rate:g} requests/s (Poisson, seed {self.seed})"
