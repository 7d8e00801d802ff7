"""Routes that ask: what this server cannot answer now is refused before the body is read.

A crowd that comes again too soon costs a server most in parsing what it will not answer. The place
itself is taken once the body is there (``Services.admit_query``), or clients that send
slowly would hold all of them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any, TypeVar

from fastapi import Request, Response
from fastapi.sse import ServerSentEvent

from server.auth import caller_of
from server.disconnect import unless_disconnected
from server.json_body import JsonRoute
from server.read_path import Answering, begin_answer
from server.schemas.requests import QueryBody
from server.services import services_of
from server.sse import EventStream

T = TypeVar("T")


class QueryRoute(JsonRoute):
    """A route of queries; what it has beside POST is not one."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            if request.method == "POST":
                services_of(request).refuse_query()
            return await handler(request)

        return handle


async def respond(
    request: Request,
    query: QueryBody,
    *,
    stream: bool,
    whole: Callable[[Answering], Awaitable[T]],
    events: Callable[[Answering], AsyncIterator[ServerSentEvent]],
) -> Response | T:
    """The answer as a stream of ``events``, or the ``whole`` of it.

    Its place and the engine's row are free again when it has been sent, or its client is gone.
    """
    services = services_of(request)
    async with AsyncExitStack() as scope:
        scope.enter_context(services.admit_query())
        beginning = begin_answer(services, caller_of(request), query, scope)
        if not stream:
            return await unless_disconnected(request, _then(beginning, whole))
        answering = await unless_disconnected(request, beginning)
        return EventStream(events(answering), scope.pop_all())


async def _then(
    beginning: Coroutine[Any, Any, Answering], whole: Callable[[Answering], Awaitable[T]]
) -> T:
    return await whole(await beginning)
