"""``POST /write`` and ``/write/batch``: durable when answered, nothing lost, nothing twice."""

from __future__ import annotations

import json
from typing import Any

from fastapi.testclient import TestClient

from memory_store.records import JobStatus, MemorySpec
from memory_store.store import MemoryStore
from tests.integration.server.conftest import MakeClient, error_of, write
from tests.integration.server.hash_worker import RESULT, HashWorker, work_all

NDJSON = {"Content-Type": "application/x-ndjson"}


def post_batch(
    client: TestClient, lines: list[Any], headers: dict[str, str] | None = None
) -> list[dict[str, Any]]:
    """Strings and bytes go out as they are, anything else as JSON."""
    raw = [
        line if isinstance(line, bytes) else json.dumps(line, ensure_ascii=False).encode()
        for line in lines
    ]
    answer = client.post(
        "/write/batch", content=b"\n".join(raw), headers={**NDJSON, **(headers or {})}
    )
    assert answer.status_code == 202, answer.text
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    return [json.loads(line) for line in answer.text.splitlines()]


def test_a_write_answers_202_with_its_job_and_where_to_follow_it(client: TestClient) -> None:
    answer = client.post("/write", json={"text": "The lighthouse keeper fed the gulls."})
    job = answer.json()
    assert answer.status_code == 202
    assert answer.headers["Location"] == f"/jobs/{job['job_id']}"
    assert (job["status"], job["mode"], job["version"]) == ("queued", "auto", 1)
    assert job["error"] is None
    assert client.get(answer.headers["Location"]).json() == job


def test_all_fields_of_a_document_reach_the_store(client: TestClient, store: MemoryStore) -> None:
    body = {
        "text": "Gulls ate bread.\n\nThe sea was calm — 静か.",
        "id": "reports/2025/gulls",
        "title": "Gulls",
        "metadata": {"year": 2025, "tags": ["bird", "sea"], "draft": False, "note": None},
        "mode": "fit",
        "keep_text": False,
    }
    job = client.post("/write", json=body).json()
    document = store.document("default", "reports/2025/gulls")
    assert (job["document_id"], job["tier"]) == ("reports/2025/gulls", "fit")
    assert document.title == "Gulls"
    assert document.metadata == body["metadata"]
    assert store.document_source(store.jobs.get(job["job_id"])).text == body["text"]
    work_all(store)
    assert store.document_text("default", "reports/2025/gulls") is None


def test_the_same_idempotency_key_gives_the_same_job(client: TestClient) -> None:
    headers = {"Idempotency-Key": "once"}
    first = client.post("/write", json={"text": "one"}, headers=headers)
    second = client.post("/write", json={"text": "one"}, headers=headers)
    assert first.json()["job_id"] == second.json()["job_id"]
    assert len(client.get("/jobs").json()["items"]) == 1


def test_an_idempotency_key_with_another_body_is_a_conflict(client: TestClient) -> None:
    headers = {"Idempotency-Key": "once"}
    client.post("/write", json={"text": "one"}, headers=headers)
    answer = client.post("/write", json={"text": "two"}, headers=headers)
    assert error_of(answer, 409)["code"] == "idempotency_key_reused"


def test_waiting_answers_with_the_final_job(client: TestClient, worker: HashWorker) -> None:
    job = write(client, "The tide came in at noon.")
    assert (job["progress"], job["result"]) == (1.0, RESULT)


def test_waiting_longer_than_the_timeout_answers_with_the_job_as_it_is(client: TestClient) -> None:
    answer = client.post("/write?wait=true&timeout_s=0.05", json={"text": "nobody works"})
    assert (answer.status_code, answer.json()["status"]) == (202, "queued")


def test_a_full_queue_answers_429_with_retry_after(
    make_client: MakeClient, store: MemoryStore
) -> None:
    client = make_client(max_queue=2)
    for n in range(2):
        assert client.post("/write", json={"text": f"number {n}"}).status_code == 202
    answer = client.post("/write", json={"text": "one too many"})
    assert error_of(answer, 429)["code"] == "queue_full"
    assert int(answer.headers["Retry-After"]) >= 1
    (refused,) = post_batch(client, [{"text": "one too many"}])
    assert refused["error"]["code"] == "queue_full"
    work_all(store)
    assert client.post("/write", json={"text": "room again"}).status_code == 202


def test_a_disk_below_its_floor_answers_507_and_still_reads(
    make_client: MakeClient, client: TestClient, worker: HashWorker
) -> None:
    write(client, "Written while there was room.", id="early")
    full = make_client(disk_floor_bytes=1 << 62)
    error = error_of(full.post("/write", json={"text": "too late"}), 507)
    assert error["type"] == "storage_error"
    answer = full.post("/query", json={"query": "room"})
    assert answer.json()["memories"][0]["document_id"] == "early"


def test_unknown_collection_is_404_and_says_how_to_make_it(client: TestClient) -> None:
    answer = client.post("/write", json={"text": "x", "collection": "nowhere"})
    error = error_of(answer, 404)
    assert "nowhere" in error["message"]
    assert "PUT /collections/" in error["message"]


def test_a_batch_answers_a_line_a_document_and_keeps_every_valid_one(
    client: TestClient, store: MemoryStore
) -> None:
    answers = post_batch(
        client,
        [
            {"text": "first", "id": "a"},
            b"{not json",
            {"text": "   ", "id": "b"},
            {"text": "again", "id": "a"},
            {"text": "typed wrong", "id": 7},
            b"\xff\xfe{}",
            {"text": "elsewhere", "collection": "nowhere"},
            {"text": "last", "id": "z"},
        ],
    )
    codes = [answer["error"]["code"] if answer.get("error") else None for answer in answers]
    assert codes == [
        None,
        "invalid_json",
        "text_empty",
        "duplicate_id",
        "string_type",
        "not_utf8",
        "not_found",
        None,
    ]
    assert [answer["line"] for answer in answers if "line" in answer] == [2, 3, 4, 5, 6, 7]
    assert all(
        answer["error"]["request_id"] and answer["error"]["message"]
        for answer in answers
        if "line" in answer
    )
    stored = store.documents().items
    assert sorted(document.document_id for document in stored) == ["a", "z"]


def test_a_batch_names_the_field_that_is_wrong(client: TestClient) -> None:
    (answer,) = post_batch(client, [{"text": "x", "metadata": {"a": {"b": 1}}}])
    assert answer["error"]["param"] == "metadata"


def test_a_batch_skips_blank_lines_but_counts_them(client: TestClient) -> None:
    answers = post_batch(client, [b"", {"text": "one"}, b"  ", {"oops": 1}, b""])
    assert len(answers) == 2
    assert answers[0]["status"] == "queued"
    assert answers[1]["line"] == 4


def test_a_line_above_the_limit_is_refused_alone(make_client: MakeClient) -> None:
    client = make_client(max_document_bytes=1024)
    answers = post_batch(
        client,
        [{"text": "before"}, {"text": "x" * 200_000}, {"text": "y" * 1025}, {"text": "after"}],
    )
    codes = [(answer.get("error") or {}).get("code") for answer in answers]
    assert codes == [None, "body_too_large", "document_too_large", None]


def test_a_batch_above_its_number_of_documents_keeps_the_first(make_client: MakeClient) -> None:
    client = make_client(max_batch_documents=2)
    answers = post_batch(client, [{"text": str(n)} for n in range(3)])
    assert answers[2]["error"]["code"] == "batch_too_large"
    assert [answer["status"] for answer in answers[:2]] == ["queued", "queued"]


def test_a_batch_sent_twice_under_one_key_stores_nothing_twice(
    client: TestClient, store: MemoryStore
) -> None:
    lines = [{"text": f"document {n}"} for n in range(3)]
    first = post_batch(client, lines, {"Idempotency-Key": "batch-1"})
    second = post_batch(client, lines, {"Idempotency-Key": "batch-1"})
    assert [job["job_id"] for job in first] == [job["job_id"] for job in second]
    assert len(store.documents().items) == 3


def test_a_batch_must_say_what_it_is(client: TestClient) -> None:
    answer = client.post(
        "/write/batch", content=b'{"text":"x"}', headers={"Content-Type": "text/plain"}
    )
    assert error_of(answer, 415)["param"] == "Content-Type"


def test_a_replaced_document_answers_from_its_new_text(
    client: TestClient, worker: HashWorker
) -> None:
    write(client, "The ferry leaves at seven.", id="ferry")
    write(client, "The ferry leaves at nine.", id="ferry")
    answer = client.post("/query", json={"query": "ferry leaves nine", "context": "text"})
    assert [memory["document_id"] for memory in answer.json()["memories"]] == ["ferry"]
    assert client.get("/memories/ferry").json()["version"] == 2


def test_writes_to_a_collection_of_another_bundle_are_refused_with_both_fingerprints(
    client: TestClient, store: MemoryStore
) -> None:
    store.put_collection("old", MemorySpec("older-bundle", 4, 64))
    error = error_of(client.post("/write", json={"text": "x", "collection": "old"}), 409)
    assert error["code"] == "fingerprint_mismatch"
    assert "older-bundle" in error["message"]
    assert "dummy-1" in error["message"]
    assert store.jobs.list(status=JobStatus.QUEUED).items == []
