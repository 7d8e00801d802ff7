"""Resident memory of server and worker over a run without kills, and how far it drifts."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

from clients.soak.processes import SERVER, WORKER, Processes

SETTLING_S = 600.0
"""Until here caches fill and allocators warm up."""
LOOK_EVERY_S = 10.0
COMPACT_EVERY_S = 300.0
KINDS = (SERVER, WORKER)


@dataclass(frozen=True, slots=True)
class Sample:
    at_s: float  # since the start
    rss_bytes: dict[str, int]  # by kind of process


@dataclass(frozen=True, slots=True)
class Drift:
    settled_bytes: float  # median of the first tenth of the samples after settling
    final_bytes: float  # median of the last tenth

    @property
    def fraction(self) -> float:
        return self.final_bytes / self.settled_bytes - 1.0


def watch(processes: Processes, seconds: float) -> list[Sample]:
    """Look on for ``seconds``; compact now and then, as an operator would."""
    samples: list[Sample] = []
    started = compacted = time.monotonic()
    while (at_s := time.monotonic() - started) < seconds:
        samples.append(Sample(round(at_s, 1), {kind: processes.rss_bytes(kind) for kind in KINDS}))
        if time.monotonic() - compacted > COMPACT_EVERY_S:
            processes.run_command("compact")
            compacted = time.monotonic()
        time.sleep(LOOK_EVERY_S)
    return samples


def drift(samples: Sequence[Sample], kind: str, *, settling_s: float = SETTLING_S) -> Drift | None:
    """None: the run ended before things had settled."""
    settled = [one.rss_bytes[kind] for one in samples if one.at_s >= settling_s]
    if not settled:
        return None
    tenth = max(1, len(settled) // 10)
    return Drift(statistics.median(settled[:tenth]), statistics.median(settled[-tenth:]))
