"""A soak from start to verdict."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

from clients.soak.audit import audit
from clients.soak.ledger import Ledger
from clients.soak.memory_use import Sample, watch
from clients.soak.processes import COMPACTOR, Processes, pick_victims
from clients.soak.report import Report
from clients.soak.traffic import traffic

LONGEST_PAUSE_S = 0.5
COMPACTION_S = 3.0
KILLED_WHILE_STARTING = 0.25


def soak(
    home: Path, *, kills: int, seconds: float, seed: int, progress: Callable[[str, int], None]
) -> Report:
    """Kill processes at random moments under traffic, then audit what is left.

    Args:
        kills: stop after so many; 0 = kill nothing, and watch the memory of both instead.
        seconds: stop after this time, whatever ``kills`` says.
        progress: told what is being done, and the kills so far.

    Raises:
        SoakProcessError: a process ended by itself, or never became ready.
    """
    random_ = random.Random(seed)
    ledger = Ledger()
    started = time.monotonic()
    with Processes(home) as processes:
        progress("starting", 0)
        processes.await_ready()
        samples: list[Sample] = []
        with traffic(processes.url, ledger, seed):
            if not kills:
                progress("watching", 0)
                samples = watch(processes, seconds)
            while (done := processes.kills.total()) < kills:
                if time.monotonic() - started > seconds:
                    break
                progress("killing", done)
                _kill_once(processes, random_)
            processes.await_ready()
        progress("auditing", processes.kills.total())
        audit(processes, ledger)
    seconds = time.monotonic() - started
    return Report.of(processes, ledger, samples, seconds=seconds, seed=seed)


def _kill_once(processes: Processes, random_: random.Random) -> None:
    if random_.random() >= KILLED_WHILE_STARTING:
        processes.await_ready()
    victims = pick_victims(random_)
    if victims == [COMPACTOR]:
        processes.compact_and_kill(random_.uniform(0, COMPACTION_S))
        return
    time.sleep(random_.uniform(0, LONGEST_PAUSE_S))
    processes.kill(victims)
