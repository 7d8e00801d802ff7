"""``POST /query``: an answer from memories, whole or streamed."""

from __future__ import annotations

from collections.abc import AsyncIterator

from fastapi import APIRouter, Request, Response
from fastapi.sse import ServerSentEvent

from server.query_route import QueryRoute, respond
from server.read_path import Answering
from server.schemas.requests import QueryBody
from server.schemas.results import AnswerResult
from server.sse import event

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
    return await respond(request, body, stream=body.stream, whole=Answering.whole, events=_events)


async def _events(answering: Answering) -> AsyncIterator[ServerSentEvent]:
    memories = [memory.model_dump(mode="json") for memory in answering.memories]
    yield event("memories", {"memories": memories})
    async for piece in answering.pieces():
        yield event("delta", {"text": piece})
    yield event("done", answering.result())
