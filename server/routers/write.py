"""``POST /write`` and ``/write/batch``: durable when answered, readable when the job is done."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import PlainTextResponse

from memory_store.errors import NotFoundError
from memory_store.records import Submission, WriteRequest
from server.auth import Caller
from server.disconnect import unless_disconnected
from server.errors import ApiError, as_api_error
from server.json_body import (
    JsonRoute,
    body_too_large,
    check_content_type,
    max_body_bytes,
    parse_json,
)
from server.keys import ApiKey
from server.schemas.requests import WriteBody
from server.schemas.results import JobResult
from server.services import Services, ServingDep
from server.waiting import wait_until_final

NDJSON = "application/x-ndjson"
MAX_KEY_CHARS = 255

router = APIRouter(route_class=JsonRoute, tags=["write"])
IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=MAX_KEY_CHARS,
        description="The same key with the same body gives the same job, however often it is sent.",
    ),
]


@router.post("/write", status_code=202, summary="Remember a document")
async def write(
    body: WriteBody,
    request: Request,
    response: Response,
    services: ServingDep,
    key: Caller,
    idempotency_key: IdempotencyKey = None,
    wait: Annotated[bool, Query(description="Answer when the job is final.")] = False,
    timeout_s: Annotated[float, Query(ge=0, le=600, allow_inf_nan=False)] = 30.0,
) -> JobResult:
    """Queue a document; the answer is durable. ``Location`` names the job to follow."""
    document = body.checked(services.settings)
    submission = await services.write(_submit, services, key, document, idempotency_key)
    job = submission.job
    response.headers["Location"] = f"/jobs/{job.job_id}"
    if wait:
        waiting = wait_until_final(services, job.job_id, timeout_s=timeout_s)
        job = await unless_disconnected(request, waiting)
    return JobResult.of(job)


@router.post(
    "/write/batch",
    status_code=202,
    summary="Remember many documents",
    response_class=PlainTextResponse,
    responses={202: {"content": {NDJSON: {}}}},
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {NDJSON: {"schema": {"$ref": "#/components/schemas/WriteBody"}}},
        }
    },
)
async def write_batch(
    request: Request, services: ServingDep, key: Caller, idempotency_key: IdempotencyKey = None
) -> Response:
    """One document a line; for each the answer has one line, in order: its job, or
    ``{"line": n, "error": {…}}``. A refused line never keeps the others back.

    The answer begins when the last line has been read: a client that sends everything before it
    reads anything must not be blocked.
    """
    check_content_type(request, "x-ndjson", "ndjson", "jsonl", "json")
    batch = _Batch(services, key, idempotency_key)
    answers: list[str] = []
    async for line in _lines(request, max_body_bytes(services.settings)):
        answers.append(await batch.answer(line))
    return PlainTextResponse("".join(answers), 202, media_type=NDJSON)


class _Batch:
    """The lines of one request: their numbers, and the ids they have used."""

    def __init__(self, services: Services, key: ApiKey, idempotency_key: str | None) -> None:
        self._services = services
        self._key = key
        self._idempotency_key = idempotency_key
        self._line = 0
        self._documents = 0
        self._first_line_of: dict[tuple[str, str], int] = {}

    async def answer(self, raw: bytes | None) -> str:
        """The NDJSON line for one line of the request (None: one above the limit); a blank line
        has none."""
        self._line += 1
        if raw is not None and not raw.strip():
            return ""
        try:
            result = JobResult.of((await self._submit(raw)).job)
        except Exception as error:
            refusal = {"line": self._line, **as_api_error(error).body()}
            return json.dumps(refusal, ensure_ascii=False) + "\n"
        return result.model_dump_json() + "\n"

    async def _submit(self, raw: bytes | None) -> Submission:
        settings = self._services.settings
        self._services.refuse_if_draining()
        self._documents += 1
        if self._documents > settings.max_batch_documents:
            raise ApiError(
                413,
                "batch_too_large",
                f"a batch holds at most {settings.max_batch_documents} documents: send this one "
                "in another",
            )
        if raw is None:
            raise body_too_large(max_body_bytes(settings))
        document = WriteBody.model_validate(parse_json(raw, what="the line")).checked(settings)
        self._claim(document)
        same = f"{self._idempotency_key}:{self._line}" if self._idempotency_key else None
        return await self._services.write(_submit, self._services, self._key, document, same)

    def _claim(self, document: WriteRequest) -> None:
        if document.document_id is None:
            return
        name = (document.collection, document.document_id)
        first = self._first_line_of.setdefault(name, self._line)
        if first != self._line:
            raise ApiError(
                422,
                "duplicate_id",
                f"id {document.document_id} was on line {first} already: a batch writes a document "
                "once",
                param="id",
            )


async def _lines(request: Request, limit: int) -> AsyncIterator[bytes | None]:
    """The lines of the body as they stream in; None for each that is longer than ``limit``."""
    buffer = bytearray()
    overlong = False
    async for chunk in request.stream():
        *ended, last = chunk.split(b"\n")
        for piece in ended:
            whole = not overlong and len(buffer) + len(piece) <= limit
            yield bytes(buffer + piece) if whole else None
            buffer.clear()
            overlong = False
        if overlong or len(buffer) + len(last) > limit:
            overlong = True  # and none of it is kept
            buffer.clear()
        else:
            buffer += last
    if overlong or buffer:
        yield None if overlong else bytes(buffer)


def _submit(
    services: Services, key: ApiKey, document: WriteRequest, idempotency_key: str | None
) -> Submission:
    key.check_collection(document.collection)
    services.check_readable(services.store.collection(document.collection))
    services.quotas.charge(
        key,
        documents=_added_documents(services, key, document),
        num_bytes=len(document.text.encode()),
        measure=lambda: services.store.amount(key.among(None)),
    )
    return services.store.submit(document, idempotency_key=idempotency_key)


def _added_documents(services: Services, key: ApiKey, document: WriteRequest) -> int:
    """1, or 0 for one that is replaced. Looked up only for keys that have this quota."""
    if key.max_documents is None or document.document_id is None:
        return 1
    try:
        services.store.document(document.collection, document.document_id)
    except NotFoundError:
        return 1
    return 0
