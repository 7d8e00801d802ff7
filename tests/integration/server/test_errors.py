"""One error shape, whatever route and whatever goes wrong."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from memory_store.store import MemoryStore
from paramem.settings import Settings
from server.app import create_app
from tests.crash.faulty_disk import CatalogueFault, FaultyDisk, faulty_catalogue
from tests.integration.server.conftest import (
    MakeClient,
    error_of,
    opened_store,
    wait_for,
    write,
)
from tests.integration.server.hash_worker import HashWorker

KEYS = "# keys of the test\nsecret-one\n\n  secret-two\n"
METHODS = ("get", "post", "put", "patch", "delete")


def routes(client: TestClient) -> Iterator[tuple[str, str]]:
    """(method, path) of every route, parameters filled with something that is not there."""
    for path, operations in client.get("/openapi.json").json()["paths"].items():
        filled = path.replace(":path", "")
        for name in ("job_id", "document_id", "name"):
            filled = filled.replace(f"{{{name}}}", "nope")
        for method in operations:
            yield method, filled


def test_every_route_refuses_nonsense_in_the_one_shape(client: TestClient) -> None:
    refused = 0
    for method, path in routes(client):
        answer = client.request(
            method, path, content=b"\xff{", headers={"Content-Type": "application/json"}
        )
        if answer.status_code >= 400 and path != "/readyz":
            error_of(answer, answer.status_code)
            assert answer.status_code < 500, (method, path, answer.text)
            refused += 1
    assert refused >= 10


def test_every_route_refuses_other_methods_in_the_one_shape(client: TestClient) -> None:
    allowed: dict[str, set[str]] = {}
    for method, path in routes(client):
        allowed.setdefault(path, set()).add(method)
    for path, methods in allowed.items():
        for method in set(METHODS) - methods:
            answer = client.request(method, path)
            if (method, path) == ("delete", "/memories/nope/reconstruction"):
                error_of(answer, 404)  # ids may hold slashes, so this is a document's name
                continue
            assert error_of(answer, 405)["code"] == "method_not_allowed", (method, path)
            assert answer.headers["Allow"]


@pytest.mark.parametrize("path", ["/", "/nowhere", "/write/", "/jobs/x/y/z", "/v1/nothing"])
def test_unknown_routes_are_404_in_the_one_shape(client: TestClient, path: str) -> None:
    error = error_of(client.get(path), 404)
    assert (error["code"], error["type"]) == ("route_not_found", "not_found_error")


def test_a_surprise_in_the_store_is_a_500_without_a_stack_trace(
    client: TestClient, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(*_args: Any, **_kwargs: Any) -> None:
        raise ZeroDivisionError("secret path /home/someone")

    monkeypatch.setattr(store, "documents", explode)
    answer = client.get("/memories", headers={"X-Request-ID": "abc"})
    error = error_of(answer, 500)
    assert (error["code"], error["request_id"]) == ("internal_error", "abc")
    assert "secret" not in answer.text
    assert client.get("/jobs").status_code == 200


@pytest.fixture
def guarded(make_client: MakeClient, settings: Any) -> TestClient:
    path = settings.home / "keys"
    path.write_text(KEYS)
    client = make_client(ready=False, api_key_file=path)
    client.headers["Authorization"] = "Bearer secret-two"
    return client


def test_a_key_opens_every_route_and_its_absence_closes_all_but_the_open_ones(
    guarded: TestClient,
) -> None:
    paths = list(routes(guarded))
    del guarded.headers["Authorization"]
    for method, path in paths:
        answer = guarded.request(method, path)
        if path in ("/health", "/healthz", "/readyz", "/metrics"):
            assert answer.status_code != 401
        else:
            assert error_of(answer, 401)["type"] == "authentication_error", path
            assert answer.headers["WWW-Authenticate"] == "Bearer"
    for path in ("/docs", "/openapi.json", "/nowhere"):
        assert guarded.get(path).status_code == 401


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        "Basic secret-one",
        "secret-one",
        "Bearer # keys",
        "Bearer secret-one secret-two",
        "Bearer \xe9",
    ],
)
def test_anything_but_a_key_is_refused(guarded: TestClient, header: str) -> None:
    answer = guarded.get("/jobs", headers={b"Authorization": header.encode("latin-1")})
    assert error_of(answer, 401)["code"] == "invalid_api_key"


@pytest.mark.parametrize("key", ["secret-one", "secret-two"])
def test_every_key_of_the_file_is_taken(guarded: TestClient, key: str) -> None:
    answer = guarded.get("/jobs", headers={"Authorization": f"bearer {key}"})
    assert answer.status_code == 200


def test_the_docs_are_served(client: TestClient) -> None:
    assert "openapi.json" in client.get("/docs").text


def test_a_corrupt_shard_is_an_error_that_names_the_remedy(
    client: TestClient, store: MemoryStore, settings: Any, worker: HashWorker
) -> None:
    write(client, "The ferry leaves at seven.", id="ferry")
    assert client.post("/query", json={"query": "ferry"}).json()["memories"]
    for path in (settings.home / "shards").rglob("*.safetensors"):
        data = bytearray(path.read_bytes())
        data[-1] ^= 0xFF
        data[-300] ^= 0xFF
        path.write_bytes(data)
    answer = client.post("/query", json={"query": "ferry"})
    assert error_of(answer, 500)["code"] == "corruption"
    assert client.post("/query", json={"query": "x", "context": "none"}).status_code == 200


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        (CatalogueFault.FULL, 507, "disk_full"),
        (CatalogueFault.FAILED, 503, "disk_failed"),
        (CatalogueFault.READ_ONLY, 503, "disk_failed"),
        (CatalogueFault.DAMAGED, 500, "corruption"),
    ],
)
def test_a_failing_disk_is_told_in_the_one_shape_and_passes(
    settings: Settings, fault: CatalogueFault, status: int, code: str
) -> None:
    disk = FaultyDisk(fault)
    body = {"text": "herons fish at dawn", "id": "heron"}
    with faulty_catalogue(disk, rolls_back=False), opened_store(settings) as store:
        app = create_app(settings, store=store)
        with TestClient(app, raise_server_exceptions=False) as client:
            wait_for(lambda: client.get("/version").json()["engine"])
            for statement in range(3):
                disk.fail_at = len(disk.calls) + statement
                assert error_of(client.post("/write", json=body), status)["code"] == code
            disk.fail_at = None
            assert client.post("/write", json=body).status_code == 202
            assert client.get("/memories/heron").json()["version"] == 1
