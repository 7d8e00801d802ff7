"""The synchronous client."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import httpx
from httpx_sse import EventSource
from tenacity import Retrying

from clients import calls
from clients.calls import Call, QueryOptions, WriteOptions
from clients.documents import Document, PendingBatch, split_batches
from clients.errors import JobFailedError, TooLargeError, WaitTimeoutError
from clients.events import JOB_EVENTS, QUERY_EVENTS, EventKind, QueryEvent
from clients.responses import raise_for_error
from clients.results import (
    Answer,
    BatchLine,
    CodeFormat,
    Collection,
    Job,
    Memory,
    Page,
    Readiness,
    Reconstruction,
    Snapshot,
    SnapshotJob,
    Version,
)
from clients.retries import RetryPolicy
from clients.transport import as_client_error, broken_off, http_options

T = TypeVar("T")


class Client:
    """A connection to a paramem server. Safe to share between threads; close it when done.

    Whatever goes wrong between here and the answer is one of :mod:`clients.errors`.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        api_key: str | None = None,
        timeout_s: float = 300.0,
        retries: RetryPolicy | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._http = httpx.Client(transport=transport, **http_options(url, api_key, timeout_s))
        self._retries = retries or RetryPolicy()

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def url(self) -> str:
        return str(self._http.base_url)

    # --- writing

    def write(
        self, text: str, *, idempotency_key: str | None = None, **options: Unpack[WriteOptions]
    ) -> Job:
        """Queue a document; durable once this returns. Readable when the job has succeeded."""
        return self._run(calls.write(Document(text=text, **options), idempotency_key))

    def write_many(self, documents: Iterable[Document]) -> Iterator[BatchLine]:
        """Queue documents in batches; one line each, in the order they were accepted.

        One refused document never keeps the others back. While the server's queue is full it
        waits for room.
        """
        for batch in split_batches(documents):
            pending = PendingBatch(batch, self._retries)
            while sent := pending.next_round:
                time.sleep(pending.pause_s)
                try:
                    lines = pending.settle(self._run(calls.write_batch(sent)))
                except TooLargeError as error:
                    lines = pending.refuse(error)
                yield from lines

    def wait(self, job: Job | str, *, timeout_s: float | None = None, poll_s: float = 0.2) -> Job:
        """Return the job once it has succeeded.

        Raises: JobFailedError when it ends otherwise, WaitTimeoutError.
        """
        job_id = job if isinstance(job, str) else job.job_id
        started = time.monotonic()
        while not (current := self.job(job_id)).is_final:
            if timeout_s is not None and time.monotonic() - started >= timeout_s:
                raise WaitTimeoutError(current, timeout_s)
            time.sleep(poll_s)
        if not current.succeeded:
            raise JobFailedError(current)
        return current

    # --- asking

    def query(self, query: str, **options: Unpack[QueryOptions]) -> Answer:
        return self._run(calls.query(query, **options))

    @contextmanager
    def query_stream(
        self, query: str, **options: Unpack[QueryOptions]
    ) -> Iterator[Iterator[QueryEvent]]:
        """``with client.query_stream(…) as events``: leaving the block cancels the answer."""
        with self._stream(calls.query(query, stream=True, **options), QUERY_EVENTS) as events:
            yield events

    # --- jobs

    def job(self, job_id: str) -> Job:
        return self._run(calls.job(job_id))

    def jobs(
        self,
        *,
        status: str | None = None,
        collection: str | None = None,
        cursor: str | None = None,
        limit: int | None = None,
    ) -> Page[Job]:
        return self._run(calls.jobs(status, collection, cursor, limit))

    @contextmanager
    def job_events(self, job_id: str) -> Iterator[Iterator[Job]]:
        """``with client.job_events(id) as jobs``: the job at each change, the final one last."""
        with self._stream(calls.job_events(job_id), JOB_EVENTS) as events:
            yield events

    def cancel(self, job_id: str) -> Job:
        return self._run(calls.cancel(job_id))

    def retry(self, job_id: str) -> Job:
        """Queue a failed, dead or cancelled job again."""
        return self._run(calls.retry(job_id))

    # --- memories

    def memory(self, document_id: str, *, collection: str = "default") -> Memory:
        return self._run(calls.memory(document_id, collection))

    def memories(
        self,
        *,
        collection: str | None = None,
        cursor: str | None = None,
        limit: int | None = None,
    ) -> Page[Memory]:
        return self._run(calls.memories(collection, cursor, limit))

    def reconstruction(
        self,
        document_id: str,
        *,
        collection: str = "default",
        max_new_tokens: int | None = None,
    ) -> Reconstruction:
        """What the LLM recites from the memory alone."""
        return self._run(calls.reconstruction(document_id, collection, max_new_tokens))

    def delete(self, document_id: str, *, collection: str = "default") -> None:
        self._run(calls.delete(document_id, collection))

    def delete_where(self, filters: Mapping[str, Any], *, collection: str = "default") -> int:
        """Delete every document whose metadata match; how many that were."""
        return self._run(calls.delete_where(filters, collection))

    # --- collections and the server

    def collections(
        self, *, cursor: str | None = None, limit: int | None = None
    ) -> Page[Collection]:
        return self._run(calls.collections(cursor, limit))

    def put_collection(
        self, name: str, *, slots: int | None = None, code_format: CodeFormat | None = None
    ) -> Collection:
        return self._run(calls.put_collection(name, slots, code_format))

    def delete_collection(self, name: str) -> None:
        self._run(calls.delete_collection(name))

    def take_snapshot(self) -> SnapshotJob:
        """Of everything the server remembers; follow it with ``snapshot_job``."""
        return self._run(calls.take_snapshot())

    def snapshots(self, *, cursor: str | None = None, limit: int | None = None) -> Page[Snapshot]:
        """Newest first."""
        return self._run(calls.snapshots(cursor, limit))

    def restore_snapshot(self, snapshot_id: str) -> SnapshotJob:
        """Prepare it; it is applied when server and workers are next stopped and started."""
        return self._run(calls.restore_snapshot(snapshot_id))

    def delete_snapshot(self, snapshot_id: str) -> None:
        self._run(calls.delete_snapshot(snapshot_id))

    def snapshot_job(self, job_id: str) -> SnapshotJob:
        return self._run(calls.snapshot_job(job_id))

    def ready(self) -> Readiness:
        return self._run(calls.ready())

    def version(self) -> Version:
        return self._run(calls.version())

    def metrics(self) -> str:
        return self._run(calls.metrics())

    # --- sending

    def _run(self, call: Call[T]) -> T:
        return call.parse(self._send(call, stream=False))

    def _send(self, call: Call[Any], *, stream: bool) -> httpx.Response:
        """Send as often as the policy allows; return a successful response."""

        def attempt() -> httpx.Response:
            try:
                response = self._http.send(call.request(self._http), stream=stream)
                if response.is_error:
                    response.read()
            except httpx.RequestError as error:
                raise as_client_error(error, self._http.base_url) from error
            raise_for_error(response, call.answers)
            return response

        return Retrying(**self._retries.options(call.repeatable))(attempt)

    @contextmanager
    def _stream(self, call: Call[Any], kind: EventKind[T]) -> Iterator[Iterator[T]]:
        response = self._send(call, stream=True)
        try:
            yield self._events(response, kind)
        finally:
            response.close()

    def _events(self, response: httpx.Response, kind: EventKind[T]) -> Iterator[T]:
        try:
            for raw in EventSource(response).iter_sse():
                event = kind.decode(raw)
                if event is not None:
                    yield event
                    if kind.is_last(event):
                        return
        except httpx.RequestError as error:
            raise as_client_error(error, self._http.base_url) from error
        raise broken_off(self._http.base_url)
