from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from clients import (
    APIError,
    AsyncClient,
    AuthenticationError,
    BadRequestError,
    Client,
    ConflictError,
    ConnectionError,
    DiskFullError,
    Document,
    JobFailedError,
    NotFoundError,
    OverloadedError,
    ProtocolError,
    RetryPolicy,
    TooLargeError,
    UnavailableError,
    WaitTimeoutError,
)
from clients.documents import BATCH_DOCUMENTS
from clients.retries import NO_RETRIES
from tests.unit.clients.fake_server import POISON, FakeServer

Handler = Callable[[httpx.Request], httpx.Response]


def client_of(handler: Handler, policy: RetryPolicy = NO_RETRIES) -> Client:
    return Client("http://test", transport=httpx.MockTransport(handler), retries=policy)


def job_json(**changes: Any) -> dict[str, Any]:
    return {"job_id": "j1", "document_id": "a", "status": "succeeded", **changes}


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, BadRequestError),
        (401, AuthenticationError),
        (403, AuthenticationError),
        (404, NotFoundError),
        (409, ConflictError),
        (413, TooLargeError),
        (418, APIError),
        (422, BadRequestError),
        (429, OverloadedError),
        (500, APIError),
        (503, UnavailableError),
        (507, DiskFullError),
    ],
)
def test_every_status_has_its_error(status: int, kind: type[APIError]) -> None:
    body = {"error": {"code": "c", "message": "do this", "param": "text", "request_id": "r1"}}
    with pytest.raises(APIError) as caught:
        client_of(lambda _: httpx.Response(status, json=body)).job("j")
    error = caught.value
    assert type(error) is kind
    assert (error.status, error.code, error.message) == (status, "c", "do this")
    assert (error.param, error.request_id) == ("text", "r1")
    assert str(error) == "text: do this (c, request r1)"


@pytest.mark.parametrize("body", ["<html>bad gateway</html>", "[]", '{"error": "plain"}'])
def test_an_error_page_of_something_else_is_still_an_api_error(body: str) -> None:
    with pytest.raises(APIError, match="HTTP 502"):
        client_of(lambda _: httpx.Response(502, text=body)).job("j")


@pytest.mark.parametrize("body", ["<html>hello</html>", "[]", '{"job_id": 5}'])
def test_an_answer_that_is_not_paramems_says_so(body: str) -> None:
    with pytest.raises(ProtocolError, match="is it a paramem server"):
        client_of(lambda _: httpx.Response(200, text=body)).job("j")


def test_nobody_listening_tells_the_url_and_what_to_start() -> None:
    def refuse(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("connection refused")

    with pytest.raises(ConnectionError, match=r"http://test.*connection refused.*paramem up"):
        client_of(refuse).version()


@pytest.mark.parametrize("url", ["localhost:8420", "ftp://x", "http://", "http://[::1"])
def test_a_url_that_is_none_is_refused_by_name(url: str) -> None:
    with pytest.raises(ConnectionError, match="PARAMEM_URL"):
        Client(url)


def test_url_and_key_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARAMEM_URL", "http://elsewhere:99")
    monkeypatch.setenv("PARAMEM_API_KEY", "secret")
    seen: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json={"version": "1"})

    Client(transport=httpx.MockTransport(handler)).version()
    assert str(seen[0].url) == "http://elsewhere:99/version"
    assert seen[0].headers["authorization"] == "Bearer secret"


def test_a_document_id_with_slashes_and_spaces_is_one_path_segment(
    fake_server: FakeServer,
) -> None:
    name = "notes/über uns?#1%.md"
    with Client() as client:
        client.write("some words", id=name)
        assert client.memory(name).document_id == name
        client.delete(name)
        with pytest.raises(NotFoundError):
            client.memory(name)


def test_only_what_was_given_is_sent() -> None:
    sent: list[Any] = []

    def handler(request: httpx.Request) -> httpx.Response:
        sent.append(json.loads(request.content))
        return httpx.Response(200, json={"answer": "x"})

    client = client_of(handler)
    client.query("why?")
    client.query("why?", top_k=3, context="none", filters={"year": [1, 2]})
    assert sent == [
        {"query": "why?", "stream": False},
        {
            "query": "why?",
            "stream": False,
            "top_k": 3,
            "context": "none",
            "filters": {"year": [1, 2]},
        },
    ]


def test_an_unknown_option_is_an_error() -> None:
    with pytest.raises(TypeError, match="top_kk"):
        client_of(lambda _: httpx.Response(200)).query("why?", top_kk=3)  # type: ignore[call-arg]


def test_a_number_without_json_form_is_refused_by_field() -> None:
    client = client_of(lambda _: httpx.Response(200))
    with pytest.raises(BadRequestError, match="temperature") as caught:
        client.query("why?", temperature=float("nan"))
    assert caught.value.param == "temperature"
    with pytest.raises(BadRequestError, match="text"):
        client.write("lone surrogate \ud800")


def test_fields_of_a_newer_server_are_ignored() -> None:
    body = job_json(status="succeeded", colour="plum", result={"passages": 2, "new": [1]})
    job = client_of(lambda _: httpx.Response(200, json=body)).job("j1")
    assert job.result == {"passages": 2, "new": [1]}
    assert not hasattr(job, "colour")


def test_results_are_frozen() -> None:
    job = client_of(lambda _: httpx.Response(200, json=job_json())).job("j1")
    with pytest.raises(ValueError, match="frozen"):
        job.status = "failed"


def test_not_ready_is_an_answer_not_an_error(fake_server: FakeServer) -> None:
    fake_server.ready = False
    with Client() as client:
        readiness = client.ready()
    assert not readiness.ready
    assert readiness.checks == {"engine": {"ok": False}}
    assert len(fake_server.requests) == 1


def test_wait_returns_the_job_that_succeeded() -> None:
    states = iter(["queued", "running", "succeeded"])
    client = client_of(lambda _: httpx.Response(200, json=job_json(status=next(states))))
    assert client.wait("j1", poll_s=0).succeeded


@pytest.mark.parametrize("status", ["failed", "dead", "cancelled"])
def test_wait_raises_with_the_reason_when_a_job_ends_badly(status: str) -> None:
    body = job_json(status=status, error={"code": "text_error", "message": "too odd"})
    client = client_of(lambda _: httpx.Response(200, json=body))
    with pytest.raises(JobFailedError, match=rf"{status}: too odd \(text_error\)") as caught:
        client.wait("j1")
    assert caught.value.job.status == status


def test_wait_gives_up_at_its_timeout_and_says_how_to_look_again() -> None:
    client = client_of(lambda _: httpx.Response(200, json=job_json(status="running")))
    with pytest.raises(WaitTimeoutError, match="paramem jobs show j1"):
        client.wait("j1", timeout_s=0, poll_s=0)


def test_one_refused_document_keeps_no_other_back(fake_server: FakeServer) -> None:
    documents = [Document(text=text, id=text[:3]) for text in ("one fish", POISON, "two fish")]
    with Client() as client:
        lines = list(client.write_many(documents))
    assert [line.document_id for line in lines] == ["one", "ref", "two"]
    assert [line.job is not None for line in lines] == [True, False, True]
    assert lines[1].error is not None
    assert lines[1].error.code == "poison"
    assert set(fake_server.documents) == {"one", "two"}


def test_many_documents_go_in_several_batches_and_none_is_lost(fake_server: FakeServer) -> None:
    documents = [Document(text=f"word{n}") for n in range(BATCH_DOCUMENTS * 2 + 1)]
    with Client() as client:
        lines = list(client.write_many(documents))
    assert len(fake_server.requests) == 3
    assert len({line.document_id for line in lines}) == len(documents)
    assert {doc["text"] for doc in fake_server.documents.values()} == {d.text for d in documents}


class CrowdedServer:
    """Takes one document a round while the others find the queue full, or no batch above
    ``most`` documents."""

    def __init__(self, *, free: int = 10**6, most: int = 10**6) -> None:
        self.free = free
        self.most = most
        self.stored: list[str] = []
        self.rounds: list[int] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        documents = [json.loads(line) for line in request.content.decode().split("\n")]
        self.rounds.append(len(documents))
        if len(documents) > self.most:
            return httpx.Response(413, json={"error": {"code": "big", "message": "too big"}})
        full = {"code": "queue_full", "message": "later"}
        lines = []
        for number, document in enumerate(documents):
            if number < self.free:
                self.stored.append(document["id"])
                lines.append(job_json(document_id=document["id"]))
            else:
                lines.append({"line": number, "error": full})
        return httpx.Response(202, text="\n".join(json.dumps(line) for line in lines))


def test_write_many_goes_on_until_a_full_queue_has_taken_everything() -> None:
    server = CrowdedServer(free=1)
    client = client_of(server, RetryPolicy(longest_wait_s=0))
    lines = list(client.write_many(Document(text="x", id=str(n)) for n in range(4)))
    assert [line.document_id for line in lines] == server.stored == ["0", "1", "2", "3"]
    assert all(line.job for line in lines)


def test_write_many_gives_up_on_a_queue_that_stays_full() -> None:
    client = client_of(CrowdedServer(free=0), RetryPolicy(longest_wait_s=0))
    lines = list(client.write_many([Document(text="x", id="a")]))
    assert [line.error.code for line in lines if line.error] == ["queue_full"]


def test_a_batch_that_is_too_large_is_sent_in_parts() -> None:
    server = CrowdedServer(most=2)
    lines = list(client_of(server).write_many(Document(text="x", id=str(n)) for n in range(5)))
    assert server.stored == ["0", "1", "2", "3", "4"]
    assert all(line.job for line in lines)


def test_one_document_that_is_too_large_becomes_its_own_error_line() -> None:
    server = CrowdedServer(most=0)
    lines = list(client_of(server).write_many(Document(text="x", id=str(n)) for n in range(3)))
    assert [line.document_id for line in lines] == ["0", "1", "2"]
    assert [line.error.code for line in lines if line.error] == ["big"] * 3


def test_a_batch_answer_with_lines_missing_is_a_protocol_error() -> None:
    client = client_of(lambda _: httpx.Response(202, text=json.dumps(job_json())))
    with pytest.raises(ProtocolError, match="1 lines for 2 documents"):
        list(client.write_many([Document(text="x"), Document(text="y")]))


def test_the_async_client_does_what_the_sync_one_does(fake_server: FakeServer) -> None:
    async def main() -> None:
        async with AsyncClient() as client:
            job = await client.write("blue fish", id="a", title="Fish")
            assert (await client.wait(job)).succeeded
            documents = [Document(text="red fox", id="b"), Document(text=POISON, id="c")]
            lines = [line async for line in client.write_many(documents)]
            assert [line.error is None for line in lines] == [True, False]
            answer = await client.query("fish?", context="memory")
            assert answer.answer == "blue fish"
            assert answer.memories[0].title == "Fish"
            assert [memory.document_id for memory in (await client.memories()).items] == ["a", "b"]
            assert (await client.reconstruction("a")).passages[0].text == "blue fish"
            await client.delete("a")
            with pytest.raises(NotFoundError, match="there is none"):
                await client.memory("a")

    asyncio.run(main())
