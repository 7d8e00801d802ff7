"""Scoped, limited and rotated keys, over the whole HTTP surface."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from memory_store.store import MemoryStore
from server.auth import OPEN_PATHS, sufficient_scopes
from server.keys import SCOPES, digest_of
from tests.integration.server.conftest import MakeClient, error_of, wait_for, write
from tests.integration.server.hash_worker import SPEC, HashWorker
from tests.integration.server.sse import events_of
from tests.integration.server.test_errors import routes

LIMITED = "collections=notes,wiki"


def line(name: str, options: str) -> str:
    return f"{name} sha256:{digest_of(f'key-of-{name}'.encode()).hex()} {options}\n"


def as_holder(client: TestClient, name: str) -> TestClient:
    client.headers["Authorization"] = f"Bearer key-of-{name}"
    return client


@pytest.fixture
def key_file(settings: Any) -> Path:
    path: Path = settings.home / "keys"
    path.write_text(
        "key-of-operator\n"
        + "".join(line(scope, f"scopes={scope}") for scope in SCOPES)
        + line("tenant", f"scopes=read,write,admin {LIMITED}")
        + line("slow", "scopes=read rate=2/h")
        + line("small", "scopes=read,write collections=notes documents=2 bytes=1MB")
        + line("tiny", "scopes=read,write collections=notes bytes=100")
    )
    return path


@pytest.fixture
def guarded(make_client: MakeClient, store: MemoryStore, key_file: Path) -> TestClient:
    for name in ("notes", "wiki", "private"):
        store.put_collection(name, SPEC)
    client = make_client(ready=False, api_key_file=key_file)
    as_holder(client, "operator")
    wait_for(lambda: client.get("/version").json()["engine"])
    return client


@pytest.mark.parametrize("scope", SCOPES)
def test_a_scope_opens_its_routes_and_no_other(guarded: TestClient, scope: str) -> None:
    every = list(routes(guarded))
    as_holder(guarded, scope)
    for method, path in every:
        answer = guarded.request(method, path)
        if path in OPEN_PATHS or scope in sufficient_scopes(method.upper(), path):
            assert answer.status_code not in (401, 403), (method, path)
        else:
            error = error_of(answer, 403)
            assert (error["type"], error["code"]) == ("permission_error", "scope_missing")


def test_a_key_that_is_unknown_is_401_and_one_that_may_not_is_403(guarded: TestClient) -> None:
    assert error_of(as_holder(guarded, "nobody").get("/jobs"), 401)
    assert error_of(as_holder(guarded, "admin").get("/memories"), 403)


def test_metrics_name_no_collection_to_who_has_no_key(guarded: TestClient) -> None:
    del guarded.headers["Authorization"]
    told = guarded.get("/metrics").text
    assert 'paramem_memories{collection="*"} 0.0' in told
    assert not any(name in told for name in ("notes", "wiki", "private"))


def requests_into(collection: str) -> list[tuple[str, str, Any]]:
    """(method, path, JSON body) of every way to name a collection."""
    ask = {"messages": [{"role": "user", "content": "x"}], "model": f"paramem@{collection}"}
    return [
        ("POST", "/write", {"text": "x", "collection": collection}),
        ("POST", "/query", {"query": "x", "collection": collection}),
        ("POST", "/query", {"query": "x", "collection": collection, "stream": True}),
        ("POST", "/v1/chat/completions", ask),
        ("GET", f"/v1/models/paramem@{collection}", None),
        ("GET", f"/memories?collection={collection}", None),
        ("DELETE", f'/memories?collection={collection}&filter={{"a":1}}', None),
        ("GET", f"/memories/doc?collection={collection}", None),
        ("GET", f"/memories/doc/reconstruction?collection={collection}", None),
        ("DELETE", f"/memories/doc?collection={collection}", None),
        ("GET", f"/jobs?collection={collection}", None),
        ("GET", f"/collections/{collection}", None),
        ("PUT", f"/collections/{collection}", None),
        ("DELETE", f"/collections/{collection}", None),
    ]


@pytest.mark.parametrize("collection", ["private", "default", "nowhere"])
def test_a_limited_key_is_kept_out_of_other_collections(
    guarded: TestClient, store: MemoryStore, collection: str
) -> None:
    as_holder(guarded, "tenant")
    for method, path, body in requests_into(collection):
        answer = guarded.request(method, path, json=body)
        error = error_of(answer, 403)
        assert error["code"] == "collection_forbidden", (method, path)
    batch = json.dumps({"text": "x", "collection": collection})
    answer = guarded.post(
        "/write/batch", content=batch, headers={"Content-Type": "application/x-ndjson"}
    )
    assert json.loads(answer.text)["error"]["code"] == "collection_forbidden"
    assert error_of(guarded.get("/snapshots"), 403)["code"] == "collection_forbidden"
    assert store.jobs.depth() == 0


def test_every_parameter_named_collection_is_among_those_tried(guarded: TestClient) -> None:
    tried = {
        (method.lower(), path.partition("?")[0].replace("paramem@c", "nope"))
        for method, path, _body in requests_into("c")
    }
    for path, operations in guarded.get("/openapi.json").json()["paths"].items():
        for method, operation in operations.items():
            names = {parameter["name"] for parameter in operation.get("parameters", [])}
            if names & {"collection", "model"}:
                filled = path.replace("{document_id}", "doc").replace("{model}", "nope")
                assert (method, filled) in tried


def test_a_limited_key_works_in_its_own_collections(
    guarded: TestClient, worker: HashWorker
) -> None:
    as_holder(guarded, "tenant")
    write(guarded, "The ferry leaves at seven.", id="ferry", collection="notes")
    answer = guarded.post("/query", json={"query": "ferry", "collection": "notes"}).json()
    assert [memory["document_id"] for memory in answer["memories"]] == ["ferry"]
    assert guarded.delete("/memories/ferry?collection=notes").status_code == 204


def test_lists_show_a_limited_key_its_own_only(guarded: TestClient, worker: HashWorker) -> None:
    jobs = {
        name: write(guarded, f"text of {name}", collection=name)["job_id"]
        for name in ("default", "notes", "private", "wiki")
    }
    as_holder(guarded, "tenant")
    for path in ("/jobs?limit=1", "/memories?limit=1", "/collections?limit=1"):
        seen, cursor = set[str](), None
        while True:
            page = guarded.get(path, params={"cursor": cursor} if cursor else {}).json()
            seen |= {item.get("collection") or item["name"] for item in page["items"]}
            cursor = page["next_cursor"]
            if cursor is None:
                break
        assert seen == {"notes", "wiki"}, path
    models = [model["id"] for model in guarded.get("/v1/models").json()["data"]]
    assert models == ["paramem@notes", "paramem@wiki"]
    assert guarded.get(f"/jobs/{jobs['notes']}").status_code == 200
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/retry"), ("GET", "/events")):
        hidden = error_of(guarded.request(method, f"/jobs/{jobs['private']}{path}"), 404)
        assert hidden["message"] == f"there is no job '{jobs['private']}'"
    waits = {"query": "x", "collection": "notes", "read_after": jobs["private"]}
    assert error_of(guarded.post("/query", json=waits), 404)["param"] == "read_after"


def test_tenants_do_not_meet_on_an_idempotency_key(guarded: TestClient) -> None:
    header = {"Idempotency-Key": "1"}
    theirs = {"text": "theirs", "collection": "private"}
    first = guarded.post("/write", json=theirs, headers=header).json()
    as_holder(guarded, "tenant")
    own = {"text": "ours", "collection": "notes"}
    answer = guarded.post("/write", json=own, headers=header)
    assert (answer.status_code, answer.json()["collection"]) == (202, "notes")
    assert answer.json()["job_id"] != first["job_id"]


def test_a_rate_is_kept_to(guarded: TestClient) -> None:
    as_holder(guarded, "slow")
    assert [guarded.get("/jobs").status_code for _ in range(2)] == [200, 200]
    answer = guarded.get("/jobs")
    assert error_of(answer, 429)["code"] == "rate_limited"
    assert 0 < int(answer.headers["Retry-After"]) <= 1800
    assert guarded.get("/healthz").status_code == 200
    assert as_holder(guarded, "read").get("/jobs").status_code == 200


def test_a_quota_of_documents_refuses_the_next_and_names_itself(
    guarded: TestClient, worker: HashWorker
) -> None:
    as_holder(guarded, "small")
    for name in ("a", "b"):
        write(guarded, f"text {name}", id=name, collection="notes")
    more = {"text": "one more", "id": "c", "collection": "notes"}
    refusal = error_of(guarded.post("/write", json=more), 507)
    assert (refusal["code"], refusal["param"]) == ("quota_exceeded", "documents")
    write(guarded, "replaces", id="a", collection="notes")  # adds none
    guarded.delete("/memories/b?collection=notes")
    assert guarded.post("/write", json=more).status_code == 202


def test_a_quota_of_bytes_counts_a_batch_line_by_line(guarded: TestClient) -> None:
    as_holder(guarded, "tiny")
    lines = "\n".join(json.dumps({"text": "x" * 40, "collection": "notes"}) for _ in range(4))
    answer = guarded.post(
        "/write/batch", content=lines, headers={"Content-Type": "application/x-ndjson"}
    )
    given = [json.loads(line).get("error") for line in answer.text.splitlines()]
    assert given[0] is given[1] is None
    assert {error["param"] for error in given[2:] if error} <= {"bytes"}
    long = {"text": "x" * 200, "collection": "notes"}
    assert error_of(guarded.post("/write", json=long), 507)["param"] == "bytes"


def test_a_stream_of_a_limited_key_tells_of_its_collection_only(
    guarded: TestClient, worker: HashWorker
) -> None:
    write(guarded, "The ferry leaves at seven.", id="secret", collection="private")
    as_holder(guarded, "tenant")
    ask = {"query": "The ferry leaves", "collection": "notes", "stream": True, "filters": {}}
    with guarded.stream("POST", "/query", json=ask) as answer:
        name, memories = next(events_of(answer.iter_lines()))
    assert (name, memories) == ("memories", {"memories": []})
