"""A streamed answer: server-sent events whose errors have the one error shape."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

from fastapi.sse import EventSourceResponse, ServerSentEvent, format_sse_event
from pydantic import BaseModel
from starlette.types import Receive, Scope, Send

from server.errors import as_api_error


def event(name: str, data: dict[str, Any] | BaseModel) -> ServerSentEvent:
    payload = data.model_dump(mode="json") if isinstance(data, BaseModel) else data
    return ServerSentEvent(event=name, raw_data=json.dumps(payload, ensure_ascii=False))


def data_event(data: dict[str, Any]) -> ServerSentEvent:
    """An event without a name, as OpenAI's streams have them."""
    return ServerSentEvent(raw_data=json.dumps(data, ensure_ascii=False))


async def with_error_event(events: AsyncIterator[ServerSentEvent]) -> AsyncIterator[Any]:
    """After the first byte the status is spent: what goes wrong then is the last event."""
    try:
        async for sent in events:
            yield sent
    except Exception as error:
        yield event("error", as_api_error(error).body())


class EventStream(EventSourceResponse):
    """For a route that streams only if asked to (FastAPI's own way is for those that always do).

    ``scope`` is left when the last event was sent, or its client is gone.
    """

    def __init__(self, events: AsyncIterator[ServerSentEvent], scope: AsyncExitStack) -> None:
        super().__init__(
            _encoded(with_error_event(events)),
            headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
        )
        self._scope = scope

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._scope:
            await super().__call__(scope, receive, send)


async def _encoded(events: AsyncIterator[ServerSentEvent]) -> AsyncIterator[bytes]:
    async for sent in events:
        yield format_sse_event(data_str=sent.raw_data, event=sent.event)
