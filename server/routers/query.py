"""``POST /query``: an answer from memories, whole or streamed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.sse import ServerSentEvent

from server.auth import caller_of
from server.disconnect import unless_disconnected
from server.query_route import QueryRoute
from server.read_path import Answering, begin_answer
from server.schemas.requests import QueryBody
from server.schemas.results import AnswerResult
from server.services import services_of
from server.sse import EventStream, event

router = APIRouter(route_class=QueryRoute, tags=["query"])


@router.post(
    "/query",
    summary="Ask",
    response_model=AnswerResult,
    responses={
        200: {
            "description": "The answer; with `stream` the events `memories`, `delta` …, then "
            "`done` (the whole answer) or `error`.",
            "content": {"text/event-stream": {}},
        }
    },
)
async def query(body: QueryBody, request: Request) -> Response | AnswerResult:
    """Select the memories nearest to the query and answer from them."""
    services = services_of(request)
    async with AsyncExitStack() as scope:
        scope.enter_context(services.admit_query())
        beginning = begin_answer(services, caller_of(request), body, scope)
        if not body.stream:
            return await unless_disconnected(request, _whole(beginning))
        events = _events(await unless_disconnected(request, beginning))
        return EventStream(events, scope.pop_all())


async def _whole(beginning: Coroutine[Any, Any, Answering]) -> AnswerResult:
    return await (await beginning).whole()


async def _events(answering: Answering) -> AsyncIterator[ServerSentEvent]:
    memories = [memory.model_dump(mode="json") for memory in answering.memories]
    yield event("memories", {"memories": memories})
    async for piece in answering.pieces():
        yield event("delta", {"text": piece})
    yield event("done", answering.result())
