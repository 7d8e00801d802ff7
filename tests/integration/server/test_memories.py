"""``/memories`` and ``/collections``: what is remembered can be listed, read back and forgotten."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient

from memory_store.records import MemorySpec
from memory_store.store import MemoryStore
from tests.integration.server.conftest import error_of, write
from tests.integration.server.hash_worker import SPEC, HashWorker, work_all

TWO_PASSAGES = "Gulls ate the bread.\n\nThe sea was calm."


def test_a_memory_shows_its_passages_and_what_they_cost(
    client: TestClient, worker: HashWorker
) -> None:
    write(client, TWO_PASSAGES, id="gulls", title="Gulls", metadata={"year": 2025})
    memory = client.get("/memories/gulls").json()
    assert (memory["title"], memory["metadata"], memory["version"]) == ("Gulls", {"year": 2025}, 1)
    assert (memory["tier"], memory["fingerprint"]) == ("fast", SPEC.fingerprint)
    codes_bytes = 2 * SPEC.slots * SPEC.z_dim * 2  # two passages in bf16
    assert memory["bytes"] == sum(passage["bytes"] for passage in memory["passages"])
    assert memory["bytes"] >= codes_bytes
    spans = [(passage["text_start"], passage["text_end"]) for passage in memory["passages"]]
    assert [TWO_PASSAGES[start:end] for start, end in spans] == TWO_PASSAGES.split("\n\n")
    assert [passage["passage"] for passage in memory["passages"]] == [0, 1]


def test_a_document_not_yet_written_is_there_without_memories(client: TestClient) -> None:
    client.post("/write", json={"text": "soon", "id": "soon"})
    memory = client.get("/memories/soon").json()
    assert (memory["passages"], memory["tier"], memory["bytes"]) == ([], None, 0)


def test_the_list_pages_through_every_document(client: TestClient, store: MemoryStore) -> None:
    for n in range(5):
        client.post("/write", json={"text": f"number {n}", "id": f"d{n}"})
    work_all(store)
    first = client.get("/memories?limit=3&collection=default").json()
    rest = client.get("/memories", params={"limit": 3, "cursor": first["next_cursor"]}).json()
    seen = [memory["document_id"] for memory in (*first["items"], *rest["items"])]
    assert sorted(seen) == ["d0", "d1", "d2", "d3", "d4"]
    assert rest["next_cursor"] is None
    assert all(memory["num_passages"] == 1 for memory in first["items"])


@pytest.mark.parametrize("document_id", ["reports/2025/a b.md", "ä?#%", "/leading", "a/"])
def test_any_id_can_be_read_and_deleted(
    client: TestClient, worker: HashWorker, document_id: str
) -> None:
    write(client, "text", id=document_id)
    path = f"/memories/{quote(document_id, safe='')}"
    assert client.get(path).json()["document_id"] == document_id
    assert client.get(f"{path}/reconstruction").json()["document_id"] == document_id
    assert client.delete(path).status_code == 204
    assert error_of(client.get(path), 404)["code"] == "not_found"
    assert error_of(client.delete(path), 404)["code"] == "not_found"


def test_a_deleted_document_is_never_selected_again(client: TestClient, worker: HashWorker) -> None:
    write(client, "The ferry leaves at seven.", id="ferry")
    client.delete("/memories/ferry")
    assert client.post("/query", json={"query": "ferry"}).json()["memories"] == []


def test_deleting_by_metadata_takes_those_that_match(
    client: TestClient, store: MemoryStore
) -> None:
    for n in range(4):
        client.post("/write", json={"text": "x", "id": f"d{n}", "metadata": {"even": n % 2 == 0}})
    answer = client.delete("/memories", params={"filter": json.dumps({"even": True})})
    assert answer.json() == {"deleted": 2}
    assert sorted(item.document_id for item in store.documents().items) == ["d1", "d3"]


def test_a_reconstruction_recites_each_passage_from_its_memory_alone(
    client: TestClient, worker: HashWorker
) -> None:
    write(client, TWO_PASSAGES, id="gulls", keep_text=False)
    recited = client.get("/memories/gulls/reconstruction").json()
    assert recited == client.get("/memories/gulls/reconstruction").json()
    first, second = recited["passages"]
    assert first["text"] != second["text"]
    assert len(first["text"].split()) == first["num_tokens"] > 0
    short = client.get("/memories/gulls/reconstruction?max_new_tokens=2").json()
    assert [passage["num_tokens"] for passage in short["passages"]] == [2, 2]
    assert [passage["finish_reason"] for passage in short["passages"]] == ["length", "length"]


def test_a_reconstruction_takes_more_passages_than_the_engine_batches(
    client: TestClient, worker: HashWorker
) -> None:
    write(client, "\n\n".join(f"paragraph {n}" for n in range(70)), id="long")
    recited = client.get("/memories/long/reconstruction?max_new_tokens=1").json()
    assert [passage["passage"] for passage in recited["passages"]] == list(range(70))


def test_the_default_collection_is_there_with_the_engines_spec(client: TestClient) -> None:
    collection = client.get("/collections/default").json()
    assert collection["fingerprint"] == SPEC.fingerprint
    assert (collection["slots"], collection["z_dim"]) == (SPEC.slots, SPEC.z_dim)
    listed = client.get("/collections").json()
    assert [item["name"] for item in listed["items"]] == ["default"]


def test_a_collection_can_be_made_used_and_deleted(client: TestClient, store: MemoryStore) -> None:
    made = client.put("/collections/notes", json={"code_format": "int8"})
    assert (made.status_code, made.json()["code_format"]) == (200, "int8")
    assert client.put("/collections/notes", json={"code_format": "int8"}).status_code == 200
    client.post("/write", json={"text": "a note", "collection": "notes", "id": "n", "mode": "fast"})
    work_all(store)
    assert client.get("/collections/notes").json()["memories"] == 1
    found = client.post("/query", json={"query": "note", "collection": "notes"}).json()
    assert [memory["document_id"] for memory in found["memories"]] == ["n"]
    assert error_of(client.get("/memories/n"), 404)
    assert client.get("/memories/n?collection=notes").status_code == 200
    assert client.delete("/collections/notes").status_code == 204
    assert error_of(client.get("/collections/notes"), 404)["param"] in ("collection", None)


def test_a_collection_may_have_fewer_slots_than_the_bundle(
    client: TestClient, store: MemoryStore
) -> None:
    made = client.put("/collections/small", json={"slots": 2}).json()
    assert (made["slots"], made["z_dim"]) == (2, SPEC.z_dim)
    client.post("/write", json={"text": "a note", "collection": "small", "mode": "fast"})
    work_all(store)
    answer = client.post("/query", json={"query": "note", "collection": "small"}).json()
    assert answer["usage"]["memory_slots"] == 2


def test_codes_of_a_quantiser_need_a_bundle_that_has_one(client: TestClient) -> None:
    error = error_of(client.put("/collections/coarse", json={"code_format": "rq"}), 409)
    assert (error["code"], error["param"]) == ("quantiser_missing", "code_format")
    assert "bf16, int8 or int4" in error["message"]


def test_a_collection_without_a_body_takes_the_defaults(client: TestClient) -> None:
    assert client.put("/collections/plain").json()["code_format"] == "bf16"


def test_another_spec_for_an_existing_collection_is_a_conflict_with_both_values(
    client: TestClient, store: MemoryStore
) -> None:
    store.put_collection("old", MemorySpec("older-bundle", SPEC.slots, SPEC.z_dim))
    error = error_of(client.put("/collections/old"), 409)
    assert "older-bundle" in error["message"]
    assert "dummy-1" in error["message"]


@pytest.mark.parametrize("name", ["-dash", "a b", "x" * 65, "%00"])
def test_a_collection_name_is_checked(client: TestClient, name: str) -> None:
    assert error_of(client.put(f"/collections/{name}"), 422)["param"] == "name"
