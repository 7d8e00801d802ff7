"""Names that look like paths stay names: nothing they say reaches the file system."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient

from memory_store.store import MemoryStore
from tests.integration.server.conftest import error_of, write
from tests.integration.server.hash_worker import HashWorker

CLIMBING = (
    "../../../marker",
    "/marker",
    "a/../../marker",
    "..\\..\\marker",
    "file:///marker",
    "~/marker",
    "marker; rm -rf .",
    "$(marker)",
    "marker.safetensors",
)


@pytest.mark.parametrize("document_id", CLIMBING)
def test_an_id_that_climbs_is_a_name_like_any_other(
    client: TestClient, worker: HashWorker, tmp_path: Path, document_id: str
) -> None:
    write(client, "The ferry leaves at seven.", id=document_id, title=document_id)
    path = f"/memories/{quote(document_id, safe='')}"
    assert client.get(path).json()["document_id"] == document_id
    found = client.post("/query", json={"query": "ferry", "filters": {"document_id": document_id}})
    assert [memory["document_id"] for memory in found.json()["memories"]] == [document_id]
    assert [file for file in tmp_path.rglob("*") if "marker" in file.name] == []
    assert {entry.name for entry in tmp_path.iterdir()} == {"home"}
    assert client.delete(path).status_code == 204


@pytest.mark.parametrize("name", [*CLIMBING[:-1], "..", ".", ".hidden", "a/b", "a\0b", "a\n", "é"])
def test_a_collection_that_climbs_is_refused_everywhere(
    client: TestClient, store: MemoryStore, tmp_path: Path, name: str
) -> None:
    for method in () if name in (".", "..") else ("PUT", "GET", "DELETE"):  # clients resolve dots
        # a slash makes it another route: there is none, and none that takes the method
        answer = client.request(method, f"/collections/{quote(name, safe='')}")
        assert answer.status_code in (404, 405, 422), (method, answer.text)
    refused = client.post("/write", json={"text": "x", "collection": name})
    assert error_of(refused, 422)["param"] == "collection"
    assert error_of(client.get("/memories", params={"collection": name}), 404)
    assert [collection.name for collection in store.collections().items] == ["default"]
    assert {entry.name for entry in tmp_path.iterdir()} == {"home"}
