"""What the routes work with: store, engine, metrics, and whether this process takes requests.

Store calls are synchronous (SQLite, files); they run in threads, readers and writers with separate
limits, so that a burst of writes waiting for the disk cannot hold up the queries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, ParamSpec, TypeVar

import structlog
from fastapi import Depends, Request

from memory_store.errors import ConflictError, FingerprintMismatchError
from memory_store.records import DEFAULT_COLLECTION, Collection, MemorySpec
from memory_store.store import MemoryStore
from paramem.settings import Settings
from server.call_threads import CallThreads
from server.engine.generator import EngineInfo, EngineNotReadyError, Generator
from server.errors import ApiError
from server.metrics import Metrics
from server.quotas import Quotas
from server.reranking import CandidateCache

P = ParamSpec("P")
T = TypeVar("T")
READ_THREADS = 4  # most of a read is Python: more of them fight over its lock (LOG.md)
WRITE_THREADS = 4  # SQLite has one writer at a time; more would only wait in line
RETRY_AFTER_FAILURE_S = 30.0

log = structlog.get_logger(__name__)


class Services:
    """One per app. Everything but the threads runs on the event loop."""

    def __init__(
        self, settings: Settings, engine: Generator, store: MemoryStore | None = None
    ) -> None:
        self.settings = settings
        self.engine = engine
        self.metrics = Metrics()
        self.quotas = Quotas()
        self.candidates = CandidateCache(settings.rerank_cache_mib << 20)
        self.draining = False
        self.engine_failure: str | None = None
        self.queries_in_flight = 0
        self.requests_in_flight = 0
        self._engine_loaded = False
        self._store = store
        self._readers = CallThreads(READ_THREADS, "store-reader")
        self._writers = CallThreads(WRITE_THREADS, "store-writer")
        self._operators = CallThreads(1, "store-operator")

    @property
    def store(self) -> MemoryStore:
        if self._store is None:
            raise RuntimeError("the store is opened by the app's lifespan")
        return self._store

    def open_store(self) -> bool:
        """Returns: whether this call opened it (and must close it)."""
        if self._store is not None:
            return False
        self._store = MemoryStore.open(
            self.settings.home,
            max_queue=self.settings.max_queue,
            disk_floor_bytes=self.settings.disk_floor_bytes,
            max_attempts=self.settings.max_attempts,
        )
        return True

    async def read(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a store call that only reads, in a thread."""
        return await self._readers.run(function, *args, **kwargs)

    async def write(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a store call that takes the catalogue's write lock, in a thread."""
        return await self._writers.run(function, *args, **kwargs)

    async def operate(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run long work on the store (a snapshot) in a thread, one at a time."""
        return await self._operators.run(function, *args, **kwargs)

    async def finish_calls(self) -> None:
        """Wait for the threads that are in the store: it must not be closed under them."""
        for threads in (self._readers, self._writers, self._operators):
            await threads.finish()

    def end_threads(self) -> None:
        """After the last call."""
        for threads in (self._readers, self._writers, self._operators):
            threads.end()

    async def load_engine(self) -> None:
        """Start the engine; a failure is kept to be told, since the process has more to serve."""
        try:
            await self.engine.start()
            quantiser = self.engine.quantiser
            if quantiser is not None:
                self.store.register_quantiser(self.engine.info.spec.fingerprint, quantiser)
            await self.write(self._ensure_default, self.engine.info.spec)
        except Exception as error:
            self.engine_failure = f"{type(error).__name__}: {error}"
            log.error("engine_failed", exc_info=error)
        else:
            self._engine_loaded = True
            log.info("engine_ready", model=self.engine.info.model)

    def _ensure_default(self, spec: MemorySpec) -> None:
        try:
            self.store.put_collection(DEFAULT_COLLECTION, spec)
        except ConflictError as error:
            log.warning("default_collection_holds_other_memories", message=error.message)

    @property
    def engine_state(self) -> str:
        """loading | ready | failed | dead"""
        if self.engine_failure is not None:
            return "failed"
        if not self._engine_loaded:
            return "loading"
        return "ready" if self.engine.ready else "dead"

    def engine_info(self) -> EngineInfo:
        """Raises: EngineNotReadyError."""
        if self.engine_failure is not None:
            raise EngineNotReadyError(
                f"the model could not be loaded ({self.engine_failure}); see the server's log, "
                "then restart it",
                retry_after_s=RETRY_AFTER_FAILURE_S,
            )
        if not self._engine_loaded:
            raise EngineNotReadyError("the model is still loading; try again shortly")
        return self.engine.info

    def check_readable(self, collection: Collection) -> None:
        """Raises: FingerprintMismatchError if its memories are not of the loaded engine."""
        pinned, loaded = collection.spec, self.engine_info().spec
        if _identity(pinned) != _identity(loaded):
            raise FingerprintMismatchError(
                f"collection {collection.name} holds memories of {_told(pinned)}, the loaded model "
                f"reads {_told(loaded)}: serve it with the model and bundle that wrote it, or "
                "create another one with PUT /collections/NAME and run: paramem reencode "
                f"{collection.name} NAME",
                param="collection",
            )

    @contextmanager
    def admit_query(self) -> Iterator[None]:
        """Hold one of the places for queries in flight. Raises: ApiError 429."""
        self._refuse_if_full()
        self.queries_in_flight += 1
        try:
            yield
        finally:
            self.queries_in_flight -= 1

    def refuse_query(self) -> None:
        """Raises: ApiError 503 and 429, EngineNotReadyError."""
        self.refuse_new_work()
        self._refuse_if_full()

    def _refuse_if_full(self) -> None:
        if self.queries_in_flight >= self.settings.max_concurrent_requests:
            raise ApiError(
                429,
                "too_many_queries",
                f"{self.queries_in_flight} queries are in flight, which is this server's limit: "
                "try again shortly",
                retry_after_s=1,
            )

    def refuse_new_work(self) -> None:
        """Unless this process is not draining, and the engine is loaded.

        Raises: ApiError 503, EngineNotReadyError.
        """
        self.refuse_if_draining()
        self.engine_info()

    def refuse_if_draining(self) -> None:
        """Raises: ApiError 503 once the process was asked to stop."""
        if self.draining:
            raise ApiError(
                503,
                "draining",
                "this server is shutting down and takes no new work: try again shortly",
                retry_after_s=2,
            )


def _identity(spec: MemorySpec) -> tuple[str, int]:
    """What must agree for the engine to read a code; m and the format are the collection's."""
    return spec.fingerprint, spec.z_dim


def _told(spec: MemorySpec) -> str:
    return f"fingerprint {spec.fingerprint} (z_dim {spec.z_dim})"


def services_of(request: Request) -> Services:
    services = request.app.state.services
    assert isinstance(services, Services)
    return services


async def get_services(request: Request) -> Services:
    return services_of(request)  # not itself the dependency: FastAPI would run it in a thread


ServicesDep = Annotated[Services, Depends(get_services)]


async def require_serving(request: Request) -> Services:
    """For routes that take new work."""
    services = services_of(request)
    services.refuse_new_work()
    return services


ServingDep = Annotated[Services, Depends(require_serving)]
