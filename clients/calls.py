"""Every request of the HTTP contract as a value: what is sent, and how the answer is read.

``Client`` and ``AsyncClient`` only differ in how they send a ``Call``.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypedDict, TypeVar
from urllib.parse import quote

import httpx

from clients.documents import Document
from clients.errors import BadRequestError, ProtocolError
from clients.responses import parse_as, parse_json, validate
from clients.results import (
    Answer,
    BatchLine,
    CodeFormat,
    Collection,
    Context,
    ErrorBody,
    Job,
    Memory,
    Page,
    Readiness,
    Reconstruction,
    Snapshot,
    SnapshotJob,
    Version,
    WriteMode,
)

T = TypeVar("T")
JSON = {"Content-Type": "application/json"}
EVENTS = {"Accept": "text/event-stream", "Cache-Control": "no-store"}


READ_ALL = 100.0
"""A score margin beyond any score's: every memory that is selected is read."""


class WriteOptions(TypedDict, total=False):
    """The fields of a document beside its text, as keyword arguments of ``write``."""

    id: str | None
    title: str | None
    metadata: dict[str, Any]
    collection: str
    mode: WriteMode
    keep_text: bool


class QueryOptions(TypedDict, total=False):
    """Keyword arguments of ``query`` and ``query_stream``; what is left out the server decides."""

    collection: str
    top_k: int  # K
    selection: str
    context: Context
    score_margin: float | None
    coarse_slots: int | None
    filters: Mapping[str, Any]
    max_new_tokens: int
    ignore_eos: bool
    temperature: float
    read_after: str


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    method: str
    path: str
    parse: Callable[[httpx.Response], T]
    params: Mapping[str, str | int] = field(default_factory=dict)
    content: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    repeatable: bool = True
    """Whether arriving twice does no harm."""
    answers: tuple[int, ...] = ()
    """Statuses that are answers although they look like errors."""

    def request(self, http: httpx.Client | httpx.AsyncClient) -> httpx.Request:
        return http.build_request(
            self.method,
            self.path,
            params=dict(self.params),
            content=self.content,
            headers=dict(self.headers),
        )


def write(document: Document, idempotency_key: str | None) -> Call[Job]:
    return Call(
        "POST",
        "/write",
        parse_as(Job),
        content=_encode(document.model_dump(exclude_none=True)),
        headers={**JSON, "Idempotency-Key": idempotency_key or uuid.uuid4().hex},
    )


def write_batch(documents: Sequence[Document]) -> Call[Sequence[BatchLine]]:
    """All documents must have an id: it is what makes the batch repeatable."""

    def parse(response: httpx.Response) -> Sequence[BatchLine]:
        lines = [line for line in response.text.split("\n") if line.strip()]
        if len(lines) != len(documents):
            raise ProtocolError(
                f"{response.url} answered {len(lines)} lines for {len(documents)} documents"
            )
        return [
            _batch_line(str(document.id), parse_json(line, response), response)
            for document, line in zip(documents, lines, strict=True)
        ]

    lines = [_encode(document.model_dump(exclude_none=True)) for document in documents]
    return Call(
        "POST",
        "/write/batch",
        parse,
        content=b"\n".join(lines),
        headers={"Content-Type": "application/x-ndjson", "Idempotency-Key": uuid.uuid4().hex},
    )


def _batch_line(document_id: str, data: Any, response: httpx.Response) -> BatchLine:
    if isinstance(data, dict) and "job_id" not in data and data.get("error"):
        return BatchLine(
            document_id=document_id, error=validate(ErrorBody, data["error"], response)
        )
    return BatchLine(document_id=document_id, job=validate(Job, data, response))


def query(
    query: str,
    *,
    stream: bool = False,
    collection: str | None = None,
    top_k: int | None = None,
    selection: str | None = None,
    context: Context | None = None,
    score_margin: float | None = None,
    coarse_slots: int | None = None,
    filters: Mapping[str, Any] | None = None,
    max_new_tokens: int | None = None,
    ignore_eos: bool | None = None,
    temperature: float | None = None,
    read_after: str | None = None,
) -> Call[Answer]:
    """Repeatable: a query changes nothing on the server."""
    options = {
        "collection": collection,
        "top_k": top_k,
        "selection": selection,
        "context": context,
        "score_margin": score_margin,
        "coarse_slots": coarse_slots,
        "filters": filters,
        "max_new_tokens": max_new_tokens,
        "ignore_eos": ignore_eos,
        "temperature": temperature,
        "read_after": read_after,
    }
    given = {name: value for name, value in options.items() if value is not None}
    return Call(
        "POST",
        "/query",
        parse_as(Answer),
        content=_encode({"query": query, "stream": stream, **given}),
        headers={**JSON, **EVENTS} if stream else JSON,
    )


def job(job_id: str) -> Call[Job]:
    return Call("GET", f"/jobs/{_quoted(job_id)}", parse_as(Job))


def jobs(
    status: str | None, collection: str | None, cursor: str | None, limit: int | None
) -> Call[Page[Job]]:
    params = _given(status=status, collection=collection, cursor=cursor, limit=limit)
    return Call("GET", "/jobs", parse_as(Page[Job]), params=params)


def job_events(job_id: str) -> Call[None]:
    return Call("GET", f"/jobs/{_quoted(job_id)}/events", _no_result, headers=EVENTS)


def cancel(job_id: str) -> Call[Job]:
    """Not repeatable: a second cancellation is a conflict."""
    return Call("DELETE", f"/jobs/{_quoted(job_id)}", parse_as(Job), repeatable=False)


def retry(job_id: str) -> Call[Job]:
    return Call("POST", f"/jobs/{_quoted(job_id)}/retry", parse_as(Job), repeatable=False)


def memory(document_id: str, collection: str) -> Call[Memory]:
    return Call(
        "GET",
        f"/memories/{_quoted(document_id)}",
        parse_as(Memory),
        params={"collection": collection},
    )


def memories(collection: str | None, cursor: str | None, limit: int | None) -> Call[Page[Memory]]:
    params = _given(collection=collection, cursor=cursor, limit=limit)
    return Call("GET", "/memories", parse_as(Page[Memory]), params=params)


def delete(document_id: str, collection: str) -> Call[None]:
    return Call(
        "DELETE",
        f"/memories/{_quoted(document_id)}",
        _no_result,
        params={"collection": collection},
        repeatable=False,
    )


def delete_where(filters: Mapping[str, Any], collection: str) -> Call[int]:
    params = {"collection": collection, "filter": json.dumps(filters)}
    return Call("DELETE", "/memories", _deleted, params=params)


def reconstruction(
    document_id: str, collection: str, max_new_tokens: int | None
) -> Call[Reconstruction]:
    return Call(
        "GET",
        f"/memories/{_quoted(document_id)}/reconstruction",
        parse_as(Reconstruction),
        params=_given(collection=collection, max_new_tokens=max_new_tokens),
    )


def collections(cursor: str | None, limit: int | None) -> Call[Page[Collection]]:
    params = _given(cursor=cursor, limit=limit)
    return Call("GET", "/collections", parse_as(Page[Collection]), params=params)


def put_collection(
    name: str, slots: int | None, code_format: CodeFormat | None
) -> Call[Collection]:
    """With the loaded engine's fingerprint; the same again changes nothing.

    ``slots`` and ``code_format``: None = the server's defaults.
    """
    path = f"/collections/{_quoted(name)}"
    wanted = {"slots": slots, "code_format": code_format}
    content = _encode({key: value for key, value in wanted.items() if value is not None})
    return Call("PUT", path, parse_as(Collection), content=content, headers=JSON)


def delete_collection(name: str) -> Call[None]:
    return Call("DELETE", f"/collections/{_quoted(name)}", _no_result, repeatable=False)


def take_snapshot() -> Call[SnapshotJob]:
    """Not repeatable: while one is taken a second is a conflict."""
    return Call("POST", "/snapshots", parse_as(SnapshotJob), repeatable=False)


def snapshots(cursor: str | None, limit: int | None) -> Call[Page[Snapshot]]:
    params = _given(cursor=cursor, limit=limit)
    return Call("GET", "/snapshots", parse_as(Page[Snapshot]), params=params)


def restore_snapshot(snapshot_id: str) -> Call[SnapshotJob]:
    path = f"/snapshots/{_quoted(snapshot_id)}/restore"
    return Call("POST", path, parse_as(SnapshotJob), repeatable=False)


def delete_snapshot(snapshot_id: str) -> Call[None]:
    return Call("DELETE", f"/snapshots/{_quoted(snapshot_id)}", _no_result, repeatable=False)


def snapshot_job(job_id: str) -> Call[SnapshotJob]:
    return Call("GET", f"/jobs/{_quoted(job_id)}", parse_as(SnapshotJob))


def ready() -> Call[Readiness]:
    """ "Not ready" (503) is an answer here, not an error to be sent again."""
    return Call("GET", "/readyz", parse_as(Readiness), repeatable=False, answers=(200, 503))


def version() -> Call[Version]:
    return Call("GET", "/version", parse_as(Version))


def metrics() -> Call[str]:
    """In Prometheus' text format."""
    return Call("GET", "/metrics", lambda response: response.text)


def _deleted(response: httpx.Response) -> int:
    data = parse_json(response.text, response)
    return int(data["deleted"]) if isinstance(data, dict) and "deleted" in data else 0


def _no_result(_response: httpx.Response) -> None:
    return None


def _encode(body: Mapping[str, Any]) -> bytes:
    """JSON as UTF-8. Raises: BadRequestError naming the first field that has no such form."""
    for name, value in body.items():
        try:
            json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
        except (TypeError, ValueError) as error:
            raise BadRequestError(
                f"{name} cannot be sent as JSON: {error}", code="invalid_value", param=name
            ) from error
    return json.dumps(body, ensure_ascii=False).encode()


def _quoted(segment: str) -> str:
    return quote(segment, safe="")


def _given(**params: str | int | None) -> dict[str, str | int]:
    return {name: value for name, value in params.items() if value is not None}
