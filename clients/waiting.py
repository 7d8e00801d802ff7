"""Waiting for many jobs at once, in a way a progress bar can follow."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from clients.client import Client
from clients.results import Job

MOST_LOOKS = 32


@dataclass(frozen=True, slots=True)
class WaitState:
    finished: tuple[Job, ...]  # in any final state
    pending: tuple[str, ...]  # job ids
    running: tuple[Job, ...] = ()

    @property
    def amount_done(self) -> float:
        """Jobs finished, and the shares of the running ones that were looked at."""
        return len(self.finished) + sum(job.progress for job in self.running)


def wait_for_jobs(
    client: Client, job_ids: Iterable[str], *, budget_s: float | None = None, poll_s: float = 0.3
) -> Iterator[WaitState]:
    """Yield how far the jobs are, until all have ended or ``budget_s`` is spent.

    A round looks at the oldest pending jobs until it meets one that is still queued: jobs are
    taken up in order, so what comes after need not be asked for.
    """
    started = time.monotonic()
    finished: list[Job] = []
    pending = list(dict.fromkeys(job_ids))
    while True:
        running: list[Job] = []
        left: list[str] = []
        for position, job_id in enumerate(pending):
            job = client.job(job_id)
            if job.is_final:
                finished.append(job)
                continue
            left.append(job_id)
            running.append(job)
            if job.status == "queued" or len(running) >= MOST_LOOKS:
                left.extend(pending[position + 1 :])
                break
        pending = left
        yield WaitState(tuple(finished), tuple(pending), tuple(running))
        spent_s = time.monotonic() - started
        if not pending or (budget_s is not None and spent_s >= budget_s):
            return
        time.sleep(poll_s)
