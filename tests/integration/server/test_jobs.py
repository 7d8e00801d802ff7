"""``/jobs``: every state can be listed, followed, cancelled and repeated."""

from __future__ import annotations

import threading
from typing import Any

from fastapi.testclient import TestClient

from memory_store.store import MemoryStore
from tests.integration.server.conftest import error_of
from tests.integration.server.hash_worker import WORKER, work_all, work_once
from tests.integration.server.sse import events_of


def test_jobs_are_listed_by_status_and_page_by_page(client: TestClient, store: MemoryStore) -> None:
    for n in range(5):
        client.post("/write", json={"text": f"number {n}", "mode": "fast"})
    seen, cursor = [], None
    while True:
        params: dict[str, Any] = {
            "status": "queued",
            "limit": 2,
            **({"cursor": cursor} if cursor else {}),
        }
        page = client.get("/jobs", params=params).json()
        seen += [job["job_id"] for job in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert len(set(seen)) == len(seen) == 5
    work_all(store)
    assert client.get("/jobs?status=queued").json() == {"items": [], "next_cursor": None}
    assert len(client.get("/jobs?status=succeeded&collection=default").json()["items"]) == 5
    assert client.get("/jobs?collection=other").json()["items"] == []


def test_a_cancelled_job_stays_cancelled_and_a_second_time_is_a_conflict(
    client: TestClient,
) -> None:
    job_id = client.post("/write", json={"text": "x"}).json()["job_id"]
    answer = client.delete(f"/jobs/{job_id}")
    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
    assert error_of(client.delete(f"/jobs/{job_id}"), 409)["type"] == "conflict_error"


def test_a_failed_job_tells_why_and_can_be_repeated(client: TestClient, store: MemoryStore) -> None:
    job_id = client.post("/write", json={"text": "x", "mode": "fast"}).json()["job_id"]
    store.jobs.lease(WORKER, limit=1, lease_s=30)
    store.jobs.fail(job_id, WORKER, code="odd", message="cannot be written", retryable=False)
    failed = client.get(f"/jobs/{job_id}").json()
    assert failed["status"] == "failed"
    assert failed["error"] == {"code": "odd", "message": "cannot be written"}
    retried = client.post(f"/jobs/{job_id}/retry")
    assert (retried.status_code, retried.json()["status"]) == (202, "queued")
    work_all(store)
    assert client.get(f"/jobs/{job_id}").json()["status"] == "succeeded"
    assert error_of(client.post(f"/jobs/{job_id}/retry"), 409)["code"] == "conflict"


def test_unknown_jobs_are_404_on_every_route(client: TestClient) -> None:
    for method, path in (
        ("GET", "/jobs/nope"),
        ("DELETE", "/jobs/nope"),
        ("POST", "/jobs/nope/retry"),
        ("GET", "/jobs/nope/events"),
    ):
        assert error_of(client.request(method, path), 404)["code"] == "not_found"


def test_following_a_job_shows_its_progress_and_ends_with_it(
    client: TestClient, store: MemoryStore
) -> None:
    job_id = client.post("/write", json={"text": "x", "mode": "fast"}).json()["job_id"]

    def work_slowly() -> None:
        pause = threading.Event()
        (job,) = store.jobs.lease("slow", limit=1, lease_s=30)
        pause.wait(0.4)  # longer than the follower's longest pause
        store.jobs.heartbeat("slow", {job.job_id: 0.5}, lease_s=30)
        pause.wait(0.4)
        store.jobs.release("slow")
        work_once(store)

    thread = threading.Thread(target=work_slowly)
    thread.start()
    events = list(events_of(client.get(f"/jobs/{job_id}/events").text.splitlines()))
    thread.join()
    assert {name for name, _job in events} == {"job"}
    jobs = [job for _name, job in events]
    assert (jobs[-1]["status"], jobs[-1]["progress"]) == ("succeeded", 1.0)
    assert ("running", 0.5) in [(job["status"], job["progress"]) for job in jobs]
    assert jobs[-1] == client.get(f"/jobs/{job_id}").json()


def test_following_a_final_job_shows_it_once(client: TestClient, store: MemoryStore) -> None:
    job_id = client.post("/write", json={"text": "x", "mode": "fast"}).json()["job_id"]
    work_all(store)
    answer = client.get(f"/jobs/{job_id}/events")
    assert answer.headers["content-type"].startswith("text/event-stream")
    ((name, job),) = events_of(answer.text.splitlines())
    assert (name, job["status"]) == ("job", "succeeded")
