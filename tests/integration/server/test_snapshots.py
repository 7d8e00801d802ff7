"""``/snapshots``: jobs that anyone can follow, and a restore that waits for the next start."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from memory_store.records import JobStatus, MemorySpec
from memory_store.snapshots import take as taking
from memory_store.snapshots.jobs import SnapshotJobs, SnapshotWork
from memory_store.snapshots.snapshots import Snapshots
from memory_store.store import MemoryStore
from paramem.settings import Settings
from tests.integration.server.conftest import MakeClient, error_of, opened_store, wait_for, write
from tests.integration.server.hash_worker import HashWorker
from tests.integration.server.test_operations import services_of


def finished(client: TestClient, answer: Any) -> dict[str, Any]:
    """The job that an accepted request stands for, at its end."""
    assert answer.status_code == 202, answer.text
    where = answer.headers["Location"]
    assert where == f"/jobs/{answer.json()['job_id']}"
    wait_for(lambda: client.get(where).json()["status"] in ("succeeded", "failed"))
    job: dict[str, Any] = client.get(where).json()
    return job


def take(client: TestClient) -> str:
    job = finished(client, client.post("/snapshots"))
    assert (job["status"], job["progress"], job["work"]) == ("succeeded", 1.0, "snapshot")
    return str(job["snapshot_id"])


def test_a_snapshot_is_taken_listed_and_deleted(client: TestClient, worker: HashWorker) -> None:
    write(client, "herons fish at dawn", id="heron")
    first, second = take(client), take(client)
    page = client.get("/snapshots", params={"limit": 1}).json()
    assert [one["snapshot_id"] for one in page["items"]] == [second]
    assert (page["items"][0]["documents"], page["items"][0]["fingerprints"]) == (1, ["dummy-1"])
    rest = client.get("/snapshots", params={"cursor": page["next_cursor"]}).json()
    assert [one["snapshot_id"] for one in rest["items"]] == [first]
    assert client.delete(f"/snapshots/{first}").status_code == 204
    assert error_of(client.get(f"/snapshots/{first}"), 404)["param"] == "snapshot_id"
    assert client.get(f"/snapshots/{second}").json()["bytes"] > 0


def test_a_restore_is_prepared_now_and_applied_when_nobody_has_the_home_open(
    make_client: MakeClient, settings: Settings, store: MemoryStore
) -> None:
    client = make_client()
    with HashWorker(store):
        write(client, "herons fish at dawn", id="heron")
        snapshot_id = take(client)
        client.delete("/memories/heron")
        write(client, "otters sleep in kelp", id="otter")
        job = finished(client, client.post(f"/snapshots/{snapshot_id}/restore"))
        assert (job["status"], job["result"]["applied"]) == ("succeeded", False)
        assert "next start" in job["result"]["next"]
        assert client.get("/memories/otter").status_code == 200
    client.__exit__(None, None, None)
    store.close()
    with opened_store(settings) as again:
        assert [document.document_id for document in again.documents().items] == ["heron"]
        assert again.check() == []
    assert SnapshotJobs(settings.home).get(job["job_id"]).status is JobStatus.SUCCEEDED


def test_a_snapshot_of_another_bundle_is_refused_with_both_fingerprints(
    make_client: MakeClient, store: MemoryStore, settings: Settings
) -> None:
    store.put_collection("default", MemorySpec("older-bundle", 4, 64))
    taken = store.snapshot(Snapshots(settings.home)).snapshot
    error = error_of(make_client().post(f"/snapshots/{taken.snapshot_id}/restore"), 409)
    assert error["code"] == "fingerprint_mismatch"
    assert "older-bundle" in error["message"]
    assert "dummy-1" in error["message"]


@pytest.mark.parametrize("snapshot_id", ["snap_0", "..%2F..%2Fetc", f"snap_{0:032}"])
def test_an_unknown_snapshot_is_not_found(client: TestClient, snapshot_id: str) -> None:
    for method, path in (
        ("GET", f"/snapshots/{snapshot_id}"),
        ("DELETE", f"/snapshots/{snapshot_id}"),
        ("POST", f"/snapshots/{snapshot_id}/restore"),
    ):
        error_of(client.request(method, path), 404)


def test_a_place_that_cannot_be_used_fails_the_job_with_its_reason(
    make_client: MakeClient, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    job = finished(
        client := make_client(snapshots=str(tmp_path / "file")), client.post("/snapshots")
    )
    assert job["status"] == "failed"
    assert job["error"]["code"] == "disk_failed"
    job = finished(client := make_client(snapshots="nowhere://x"), client.post("/snapshots"))
    assert "nowhere" in job["error"]["message"]


def test_one_at_a_time_and_a_server_that_stops_leaves_the_job_for_the_next(
    make_client: MakeClient, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied, go_on = threading.Event(), threading.Event()

    def stop_after_the_catalogue(point: str) -> None:
        if point == "h-catalogue-copied":
            copied.set()
            assert go_on.wait(30)

    with monkeypatch.context() as patch:
        patch.setattr(taking, "reach", stop_after_the_catalogue)
        client = make_client()
        job_id = client.post("/snapshots").json()["job_id"]
        assert copied.wait(30)
        assert client.get(f"/jobs/{job_id}").json()["status"] == "running"
        assert job_id in error_of(client.post("/snapshots"), 409)["message"]
        services_of(client).draining = True
        assert error_of(client.post("/snapshots"), 503)["code"] == "draining"
        go_on.set()
        client.__exit__(None, None, None)
    [left] = SnapshotJobs(settings.home).unfinished()
    assert (left.job_id, left.status, left.attempts) == (job_id, JobStatus.QUEUED, 0)
    again = make_client()
    wait_for(lambda: again.get(f"/jobs/{job_id}").json()["status"] == "succeeded")
    assert len(again.get("/snapshots").json()["items"]) == 1


def test_a_job_that_ends_its_server_every_time_is_given_up(
    make_client: MakeClient, settings: Settings
) -> None:
    jobs = SnapshotJobs(settings.home)
    job = jobs.add(SnapshotWork.SNAPSHOT, None)
    jobs.save(replace(job, attempts=3))
    client = make_client()
    wait_for(lambda: client.get(f"/jobs/{job.job_id}").json()["status"] == "failed")
    assert client.get(f"/jobs/{job.job_id}").json()["error"]["code"] == "interrupted"
