"""What a worker says while it works: I am alive, these jobs are mine, this far have they come.

It speaks from a thread of its own, so that neither loading a model nor a long fit step lets a
lease expire.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Mapping
from types import TracebackType

import structlog

from memory_store.records import WorkerInfo
from memory_store.store import MemoryStore

log = structlog.get_logger(__name__)


class Heartbeat:
    """Renews the leases of the jobs held and publishes progress. Thread-safe.

    As a context manager it beats every ``every_s`` seconds; leaving it gives every lease back
    (the attempt is not counted) and removes the worker from the store's list.
    """

    def __init__(
        self, store: MemoryStore, worker_id: str, *, every_s: float, lease_s: float
    ) -> None:
        if every_s >= lease_s:
            raise ValueError(
                f"PARAMEM_HEARTBEAT_S ({every_s:g}) must be below PARAMEM_LEASE_S ({lease_s:g}): "
                "a lease would expire between two heartbeats"
            )
        self.worker_id = worker_id
        self._store = store
        self._every_s = every_s
        self._lease_s = lease_s
        self._started_at = time.time()
        self._state = "loading"
        self._fingerprint = ""
        self._progress: dict[str, float] = {}  # of the jobs held
        self._lost: set[str] = set()
        self._guard = threading.Lock()  # the four fields above; never held during a store call
        self._beating = threading.Lock()  # an older state must not land after a newer one
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        self.beat()
        self._thread.start()
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.sign_off()
        self._thread.join()

    def become(self, state: str, *, fingerprint: str | None = None) -> None:
        """Publish a new state (loading, idle, working, stopping) now."""
        with self._guard:
            changed = state != self._state
            self._state = state
            if fingerprint is not None:
                self._fingerprint = fingerprint
        if changed:
            self.beat()

    def hold(self, job_ids: Collection[str]) -> None:
        """Keep the leases of these jobs alive, too, until they are dropped."""
        with self._guard:
            self._progress |= dict.fromkeys(job_ids, 0.0)
            self._lost -= set(job_ids)

    def drop(self, job_ids: Collection[str]) -> None:
        """Stop renewing the leases of jobs that came to an end. Jobs not held are ignored."""
        with self._guard:
            for job_id in job_ids:
                self._progress.pop(job_id, None)

    def report(self, progress: Mapping[str, float]) -> None:
        """Note how far jobs have come (0 … 1); the next beat publishes it."""
        with self._guard:
            for job_id in progress.keys() & self._progress.keys():
                self._progress[job_id] = progress[job_id]

    def lost(self, job_id: str) -> bool:
        """Whether a held job turned out to be cancelled or leased to another worker."""
        with self._guard:
            return job_id in self._lost

    def beat(self) -> None:
        """Publish now. A store that cannot be written is logged, not raised: the next beat may."""
        with self._beating:
            if self._closed.is_set():
                return
            with self._guard:
                state, fingerprint = self._state, self._fingerprint
                progress = dict(self._progress)
            try:
                self._store.beat(
                    WorkerInfo(
                        worker_id=self.worker_id,
                        fingerprint=fingerprint,
                        state=state,
                        heartbeat_at=time.time(),
                        started_at=self._started_at,
                    )
                )
                if progress:
                    held = self._store.jobs.heartbeat(
                        self.worker_id, progress, lease_s=self._lease_s
                    )
                    with self._guard:
                        self._lost |= progress.keys() - set(held)
            except Exception:
                log.warning("heartbeat_failed", worker_id=self.worker_id, exc_info=True)

    def sign_off(self) -> None:
        """Give every lease back and leave the list of workers, for good.

        Never raises: a lease that could not be given back expires.
        """
        with self._beating:
            self._closed.set()
            try:
                self._store.jobs.release(self.worker_id)
                self._store.forget_worker(self.worker_id)
            except Exception:
                log.warning("sign_off_failed", worker_id=self.worker_id, exc_info=True)

    def _run(self) -> None:
        while not self._closed.wait(self._every_s):
            self.beat()
