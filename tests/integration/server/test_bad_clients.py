"""Clients that keep the server waiting: each costs a connection for a while, and nothing else."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager, suppress

import psutil
import pytest

from memory_store.store import MemoryStore
from paramem.settings import Settings
from server.engine.dummy import DummyEngine
from server.engine.generator import GenerationChunk, GenerationRequest
from server.protocol import MAX_HEADER_BYTES, ImpatientProtocol
from tests.integration.server.conftest import error_of, wait_for
from tests.integration.server.engines import HeldEngine
from tests.integration.server.served import Served, serve

CHUNK = "x" * (256 << 10)
PATIENCE_S = 0.2
IDLE = 500
STREAMS = 256


class Impatient(ImpatientProtocol):
    headers_s = body_gap_s = stall_s = PATIENCE_S


class Patient(ImpatientProtocol):
    headers_s = 60.0
    most = 1000


class ChattyEngine(DummyEngine):
    """Answers with megabytes, and knows how many pieces it was let make."""

    pieces = 0

    async def generate(self, request: GenerationRequest) -> AsyncIterator[GenerationChunk]:
        async for chunk in super().generate(request):
            if chunk.finish_reason is None:
                for _ in range(1000):
                    self.pieces += 1
                    await asyncio.sleep(0)
                    yield GenerationChunk(text=CHUNK)
            yield chunk


@pytest.fixture
def impatient(settings: Settings, store: MemoryStore) -> Iterator[Served]:
    with serve(settings, store, protocol=Impatient) as served:
        yield served


def last_words(client: socket.socket, dribble: bytes = b"", *, every_s: float = 0.02) -> bytes:
    """What the server says before it hangs up on a client that sends ``dribble`` byte by byte.

    Raises:
        TimeoutError: it does not hang up.
    """
    client.settimeout(every_s)
    said = b""
    for n in range(1000):
        if dribble:
            with suppress(OSError):  # it may have hung up, and what it said is still to be read
                client.send(dribble[n % len(dribble) :][:1])
        try:
            received = client.recv(1 << 16)
        except TimeoutError:
            continue
        except ConnectionError:
            return said
        if not received:
            return said
        said += received
    raise TimeoutError("the server holds on to a client that it should have left")


@pytest.mark.parametrize(
    ("sent", "dribble"),
    [
        (b"", b""),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-A: ", b"a"),
        (b"POST /write HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{", b""),
        (b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\n{", b"a"),
    ],
    ids=["silent", "slow headers", "half a body", "refused, still sending"],
)
def test_who_keeps_the_server_waiting_is_cut_off(
    impatient: Served, sent: bytes, dribble: bytes
) -> None:
    with impatient.connect() as client:
        client.send(sent)
        last_words(client, dribble)
    wait_for(lambda: impatient.services.requests_in_flight == 0)
    assert impatient.http.get("/healthz").status_code == 200


def test_a_body_that_makes_progress_may_take_its_time(impatient: Served) -> None:
    started, body = threading.Event(), json.dumps({"text": "slow but steady"}).encode()

    def slowly() -> Iterator[bytes]:
        for byte in body:  # longer than the patience in all, never between two
            started.wait(PATIENCE_S / 8)
            yield bytes([byte])

    headers = {"Content-Type": "application/json", "Content-Length": str(len(body))}
    assert impatient.http.post("/write", content=slowly(), headers=headers).status_code == 202


def test_a_body_that_trickles_for_ever_is_answered_408(
    settings: Settings, store: MemoryStore
) -> None:
    bounded = settings.model_copy(update={"body_timeout_s": 2 * PATIENCE_S})
    with serve(bounded, store, protocol=Impatient) as served, served.connect() as client:
        client.send(b"POST /write HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n")
        client.send(b"Content-Length: 9999\r\n\r\n")
        told = last_words(client, b" ", every_s=PATIENCE_S / 8)
        assert told.startswith(b"HTTP/1.1 408")
        assert b"body_too_slow" in told
    assert store.jobs.depth() == 0


def test_a_reader_that_stops_reading_loses_its_answer_not_the_servers_memory(
    settings: Settings, store: MemoryStore
) -> None:
    engine = ChattyEngine(settings)
    with serve(settings, store, engine=engine, protocol=Impatient) as served:
        body = json.dumps({"query": "x", "stream": True}).encode()
        head = f"POST /query HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        with served.connect() as client:
            client.send(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
            wait_for(lambda: engine.pieces > 0)
            wait_for(lambda: engine.load() == (0, 0))  # while the client still holds on
        assert engine.pieces * len(CHUNK) < 64 << 20  # of 1000 pieces: what sockets buffer
        wait_for(lambda: served.services.queries_in_flight == 0)


def test_headers_have_a_largest_size(impatient: Served) -> None:
    with impatient.connect() as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-A: " + b"a" * (2 * MAX_HEADER_BYTES))
        assert last_words(client).startswith(b"HTTP/1.1 400")
    assert impatient.http.get("/healthz").status_code == 200


@pytest.mark.parametrize("hosts", [b"", b"Host: x\r\nHost: y\r\n"], ids=["none", "two"])
def test_a_request_names_one_host(impatient: Served, hosts: bytes) -> None:
    with impatient.connect() as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\n" + hosts + b"\r\n")
        assert last_words(client).startswith(b"HTTP/1.1 400")


def test_what_comes_after_a_body_is_no_header(impatient: Served) -> None:
    body = json.dumps({"query": "x"}).encode()
    with impatient.connect() as client:
        client.sendall(
            b"POST /query HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            + b"%x\r\n%s\r\n0\r\nContent-Type: application/json\r\n\r\n" % (len(body), body)
        )
        assert client.recv(1 << 16).startswith(b"HTTP/1.1 415")


def test_half_a_request_sent_ahead_waits_for_its_turn(
    settings: Settings, store: MemoryStore
) -> None:
    engine = HeldEngine(settings)
    with serve(settings, store, engine=engine, protocol=Impatient) as served:
        body = json.dumps({"query": "x"}).encode()
        head = b"POST /query HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        asked = head + b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
        with served.connect() as client:
            client.sendall(asked + asked[:40])
            wait_for(lambda: served.services.queries_in_flight == 1)
            client.settimeout(3 * PATIENCE_S)
            with pytest.raises(TimeoutError):
                client.recv(1)
            engine.gate.set()
            client.settimeout(10)
            client.sendall(asked[40:])
            answers = b""
            while answers.count(b'"finish_reason"') < 2:
                received = client.recv(1 << 16)
                assert received, f"cut off after {answers!r}"
                answers += received
        assert answers.count(b"HTTP/1.1 200") == 2


@contextmanager
def idle_connections(served: Served, count: int) -> Iterator[None]:
    with ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(served.connect())
        yield


def test_hundreds_of_idle_connections_leave_room_for_work(
    settings: Settings, store: MemoryStore
) -> None:
    with serve(settings, store, protocol=Patient) as served:
        with idle_connections(served, IDLE):
            wait_for(lambda: served.connections() > IDLE)
            assert served.http.post("/query", json={"query": "x"}).status_code == 200
        wait_for(lambda: served.connections() <= 1)


def test_a_connection_too_many_is_closed_and_the_others_are_served(
    settings: Settings, store: MemoryStore
) -> None:
    class Few(Patient):
        most = 20

    with serve(settings, store, protocol=Few) as served:
        with idle_connections(served, Few.most - 1):
            wait_for(lambda: served.connections() == Few.most)
            with served.connect() as late:
                assert last_words(late) == b""
            assert served.http.get("/healthz").status_code == 200
        wait_for(lambda: served.connections() <= 1)
        with served.connect() as client:
            client.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.recv(64).startswith(b"HTTP/1.1 200")


def ask(served: Served) -> socket.socket:
    """A connection on which a streamed answer was asked for."""
    body = json.dumps({"query": "x", "stream": True}).encode()
    head = f"POST /query HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}"
    client = served.connect()
    client.send(head.encode() + b"\r\nContent-Type: application/json\r\n\r\n" + body)
    return client


def read_all(client: socket.socket) -> bytes:
    return b"".join(iter(lambda: client.recv(1 << 16), b""))


def test_256_streams_are_held_in_little_memory_and_all_finish(
    settings: Settings, store: MemoryStore
) -> None:
    engine = HeldEngine(settings)
    with serve(settings, store, engine=engine) as served, ExitStack() as stack:
        process = psutil.Process()
        before = process.memory_info().rss
        clients = [stack.enter_context(ask(served)) for _ in range(STREAMS)]
        wait_for(lambda: served.services.queries_in_flight == STREAMS, timeout_s=30)
        wait_for(lambda: sum(engine.load()) == STREAMS)
        assert engine.load()[0] == settings.max_batch_size
        refused = served.http.post("/query", json={"query": "x"})
        assert error_of(refused, 429)["code"] == "too_many_queries"
        assert process.memory_info().rss - before < 64 << 20
        engine.gate.set()
        assert all(b"event: done" in read_all(client) for client in clients)
