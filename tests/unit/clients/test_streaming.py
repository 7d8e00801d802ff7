from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest

from clients import (
    APIError,
    AsyncClient,
    Client,
    ConnectionError,
    DeltaEvent,
    DoneEvent,
    MemoriesEvent,
    ProtocolError,
    QueryEvent,
    RetryPolicy,
    UnavailableError,
)

MEMORIES = {"memories": [{"document_id": "a", "passage": 0, "score": 0.5}]}
DONE = {"answer": "grün\nund \u2028 blau", "memories": MEMORIES["memories"]}


def sse(*events: tuple[str, Any]) -> bytes:
    return "".join(f"event: {name}\ndata: {json.dumps(data)}\n\n" for name, data in events).encode()


class Body(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A response body in pieces of ``size`` bytes, which notes whether it was closed."""

    def __init__(self, data: bytes, size: int = 7, error: Exception | None = None) -> None:
        self.pieces = [data[start : start + size] for start in range(0, len(data), size)]
        self.error = error
        self.given = 0
        self.closed = False

    def __iter__(self) -> Iterator[bytes]:
        for piece in self.pieces:
            self.given += 1
            yield piece
        if self.error:
            raise self.error

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self:
            yield piece

    def close(self) -> None:
        self.closed = True

    async def aclose(self) -> None:
        self.closed = True


def transport(body: Body, content_type: str = "text/event-stream") -> httpx.MockTransport:
    headers = {"Content-Type": content_type}
    return httpx.MockTransport(lambda _: httpx.Response(200, headers=headers, stream=body))


def collect(body: Body, content_type: str = "text/event-stream") -> list[QueryEvent]:
    client = Client("http://test", transport=transport(body, content_type))
    with client.query_stream("why?") as events:
        return list(events)


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_events_arrive_typed_and_in_order_however_the_bytes_are_cut(size: int) -> None:
    deltas = [("delta", {"text": piece}) for piece in ("grün\n", "und \u2028", " blau")]
    body = Body(sse(("memories", MEMORIES), *deltas, ("done", DONE)), size)
    first, *middle, last = collect(body)
    assert isinstance(first, MemoriesEvent)
    assert first.memories[0].document_id == "a"
    assert middle == [DeltaEvent("grün\n"), DeltaEvent("und \u2028"), DeltaEvent(" blau")]
    assert isinstance(last, DoneEvent)
    assert last.answer.answer == DONE["answer"]
    assert body.closed


def test_comments_and_unknown_events_are_skipped() -> None:
    data = b": ping\n\n" + sse(("thought", {"x": 1}), ("done", DONE))
    assert len(collect(Body(data))) == 1


def test_an_error_event_is_raised_with_its_fields() -> None:
    error = {"error": {"code": "engine_died", "message": "try again", "request_id": "r9"}}
    body = Body(sse(("delta", {"text": "x"}), ("error", error)))
    with pytest.raises(APIError, match="try again") as caught:
        collect(body)
    assert (caught.value.code, caught.value.request_id, caught.value.status) == (
        "engine_died",
        "r9",
        None,
    )
    assert body.closed


def test_a_stream_that_breaks_off_is_not_taken_for_a_whole_answer() -> None:
    with pytest.raises(ConnectionError, match="broke off"):
        collect(Body(sse(("memories", MEMORIES), ("delta", {"text": "x"}))))


def test_a_connection_lost_in_the_middle_is_a_connection_error() -> None:
    body = Body(sse(("delta", {"text": "x"})), error=httpx.ReadError("reset"))
    with pytest.raises(ConnectionError, match="reset"):
        collect(body)


def test_a_page_instead_of_a_stream_is_a_protocol_error() -> None:
    with pytest.raises(ProtocolError, match="event stream"):
        collect(Body(b"<html>"), "text/html")


@pytest.mark.parametrize("data", [b"event: delta\ndata: {\n\n", b"event: delta\ndata: 3\n\n"])
def test_an_event_that_is_no_json_object_is_a_protocol_error(data: bytes) -> None:
    with pytest.raises(ProtocolError, match="delta"):
        collect(Body(data))


def test_leaving_early_closes_the_connection_so_that_the_server_stops() -> None:
    deltas = [("delta", {"text": str(n)}) for n in range(1000)]
    body = Body(sse(*deltas, ("done", DONE)), size=64)
    with Client("http://test", transport=transport(body)).query_stream("why?") as events:
        next(events)
    assert body.closed
    assert body.given < len(body.pieces)


def test_a_busy_server_is_asked_again_before_the_stream_begins() -> None:
    answers = iter([503, 503])

    def handler(_: httpx.Request) -> httpx.Response:
        for status in answers:
            return httpx.Response(status, json={"error": {"code": "loading", "message": "wait"}})
        headers = {"Content-Type": "text/event-stream"}
        return httpx.Response(200, headers=headers, content=sse(("done", DONE)))

    policy = RetryPolicy(attempts=3, first_wait_s=0)
    client = Client("http://test", transport=httpx.MockTransport(handler), retries=policy)
    with client.query_stream("why?") as events:
        assert len(list(events)) == 1


def test_a_refused_stream_raises_the_servers_error() -> None:
    body = {"error": {"code": "draining", "message": "going down"}}
    refusing = httpx.MockTransport(lambda _: httpx.Response(503, json=body))
    client = Client("http://test", transport=refusing, retries=RetryPolicy(attempts=1))
    with pytest.raises(UnavailableError, match="going down"), client.query_stream("why?"):
        pass


def test_job_events_end_with_the_final_job() -> None:
    def job(status: str) -> tuple[str, Any]:
        return "job", {"job_id": "j", "document_id": "a", "status": status}

    body = Body(sse(job("queued"), job("running"), job("succeeded")))
    with Client("http://test", transport=transport(body)).job_events("j") as jobs:
        assert [one.status for one in jobs] == ["queued", "running", "succeeded"]


def test_the_async_stream_is_the_same_and_closes_the_same() -> None:
    deltas = [("delta", {"text": str(n)}) for n in range(100)]

    async def whole() -> list[QueryEvent]:
        client = AsyncClient("http://test", transport=transport(Body(sse(*deltas, ("done", DONE)))))
        async with client, client.query_stream("why?") as events:
            return [event async for event in events]

    async def part(body: Body) -> None:
        client = AsyncClient("http://test", transport=transport(body))
        async with client, client.query_stream("why?") as events:
            async for _ in events:
                break

    received = asyncio.run(whole())
    assert len(received) == 101
    assert isinstance(received[-1], DoneEvent)
    body = Body(sse(*deltas, ("done", DONE)))
    asyncio.run(part(body))
    assert body.closed
    assert body.given < len(body.pieces)
