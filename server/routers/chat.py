"""``/v1/chat/completions`` and ``/v1/models``: the same answers in OpenAI's shape."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.sse import ServerSentEvent
from uuid_utils import uuid7

from memory_store.records import DEFAULT_COLLECTION, Collection
from server.auth import Caller
from server.query_route import QueryRoute, respond
from server.read_path import Answering
from server.schemas.chat import (
    MODEL,
    AssistantMessage,
    ChatBody,
    ChatResult,
    ChatUsage,
    Choice,
    ModelResult,
    ModelsResult,
    collection_of,
)
from server.services import ServicesDep
from server.sse import data_event

DONE = "[DONE]"
CHUNK = "chat.completion.chunk"

router = APIRouter(prefix="/v1", route_class=QueryRoute, tags=["openai"])


@router.post(
    "/chat/completions",
    summary="Ask, in OpenAI's shape",
    response_model=ChatResult,
    responses={
        200: {
            "description": "The answer; with `stream` chunks, then `[DONE]`.",
            "content": {"text/event-stream": {}},
        }
    },
)
async def chat_completions(body: ChatBody, request: Request) -> Response | ChatResult:
    """Answers the last user message from the collection's memories. `model` is `paramem` or
    `paramem@collection`; what `POST /query` takes besides goes into the field `paramem`."""
    return await respond(
        request,
        body.query(),
        stream=body.stream,
        whole=lambda answering: _Reply(body, answering).whole(),
        events=lambda answering: _Reply(body, answering).events(),
    )


@router.get("/models", summary="List models")
async def list_models(services: ServicesDep, key: Caller) -> ModelsResult:
    """`paramem`, and `paramem@…` for the first 1,000 collections."""
    page = await services.read(services.store.collections, among=key.among(None), limit=1000)
    return ModelsResult(data=[_model(collection) for collection in page.items])


@router.get("/models/{model}", summary="One model")
async def get_model(model: str, services: ServicesDep, key: Caller) -> ModelResult:
    collection = collection_of(model)
    key.check_collection(collection)
    return _model(await services.read(services.store.collection, collection))


class _Reply:
    """One answer on its way out."""

    def __init__(self, body: ChatBody, answering: Answering) -> None:
        self._answering = answering
        self._with_usage = body.stream_options is not None and body.stream_options.include_usage
        self._head: dict[str, Any] = {
            "id": f"chatcmpl-{uuid7().hex}",
            "created": int(time.time()),
            "model": body.model,
        }

    async def whole(self) -> ChatResult:
        answer = await self._answering.whole()
        message = AssistantMessage(content=answer.answer)
        return ChatResult(
            **self._head,
            choices=[Choice(message=message, finish_reason=answer.finish_reason)],
            usage=ChatUsage.of(answer),
            memories=answer.memories,
        )

    async def events(self) -> AsyncIterator[ServerSentEvent]:
        memories = [memory.model_dump(mode="json") for memory in self._answering.memories]
        yield self._chunk({"role": "assistant", "content": ""}, memories=memories)
        async for piece in self._answering.pieces():
            yield self._chunk({"content": piece})
        answer = self._answering.result()
        yield self._chunk({}, finish_reason=answer.finish_reason)
        if self._with_usage:
            usage = ChatUsage.of(answer).model_dump()
            yield data_event({**self._head, "object": CHUNK, "choices": [], "usage": usage})
        yield ServerSentEvent(raw_data=DONE)

    def _chunk(
        self, delta: dict[str, str], *, finish_reason: str | None = None, **extra: Any
    ) -> ServerSentEvent:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        return data_event({**self._head, "object": CHUNK, "choices": [choice], **extra})


def _model(collection: Collection) -> ModelResult:
    default = collection.name == DEFAULT_COLLECTION
    name = MODEL if default else f"{MODEL}@{collection.name}"
    return ModelResult(id=name, created=int(collection.created_at))
