"""``/healthz``, ``/readyz``, ``/metrics``, ``/version``: the truth, in every state."""

from __future__ import annotations

import re
import threading
from typing import Any

import pytest
from fastapi.testclient import TestClient

from memory_store.records import MemorySpec
from memory_store.snapshots.snapshots import Snapshots
from memory_store.store import MemoryStore
from paramem import __version__
from paramem.settings import Settings
from server.services import Services
from tests.integration.server.conftest import MakeClient, error_of, samples, wait_for, write
from tests.integration.server.engines import GatedEngine, UnloadableEngine
from tests.integration.server.hash_worker import HashWorker, beat, work_all


def services_of(client: TestClient) -> Services:
    services: Services = client.app.state.services  # type: ignore[attr-defined]
    return services


def readiness(client: TestClient, *, ready: bool) -> dict[str, Any]:
    answer = client.get("/readyz")
    assert answer.status_code == (200 if ready else 503), answer.text
    assert ("Retry-After" in answer.headers) is not ready
    assert answer.json()["ready"] is ready
    checks: dict[str, Any] = answer.json()["checks"]
    return checks


@pytest.fixture
def loading(make_client: MakeClient, settings: Settings) -> tuple[TestClient, GatedEngine]:
    engine = GatedEngine(settings)
    return make_client(generator=engine, ready=False), engine


def test_health_is_good_once_questions_can_be_answered(
    loading: tuple[TestClient, GatedEngine],
) -> None:
    client, engine = loading
    assert error_of(client.get("/health"), 503)["code"] == "engine_not_ready"
    assert client.get("/healthz").status_code == 200
    engine.gate.set()
    wait_for(lambda: client.get("/health").status_code == 200)


def test_ready_means_engine_worker_and_disk(client: TestClient, store: MemoryStore) -> None:
    beat(store)
    checks = readiness(client, ready=True)
    assert all(check["ok"] for check in checks.values())
    assert checks["worker"]["fingerprint"] == checks["engine"]["fingerprint"]


def test_without_a_worker_it_is_not_ready_and_says_what_to_run(client: TestClient) -> None:
    checks = readiness(client, ready=False)
    assert (checks["worker"]["ok"], checks["worker"]["state"]) == (False, "absent")
    assert "paramem worker" in checks["worker"]["error"]
    assert checks["engine"]["ok"]


@pytest.mark.parametrize(("age_s", "ready"), [(14.0, True), (16.0, False)])
def test_a_silent_worker_is_not_counted(
    client: TestClient, store: MemoryStore, age_s: float, ready: bool
) -> None:
    beat(store, age_s=age_s)
    readiness(client, ready=ready)


@pytest.mark.parametrize("state", ["loading", "stopping"])
def test_a_worker_that_cannot_work_is_not_counted(
    client: TestClient, store: MemoryStore, state: str
) -> None:
    beat(store, state=state, fingerprint="" if state == "loading" else "dummy-1")
    assert readiness(client, ready=False)["worker"]["state"] == state


def test_a_worker_of_another_bundle_is_reported_with_both_fingerprints(
    client: TestClient, store: MemoryStore
) -> None:
    beat(store, fingerprint="other-bundle")
    worker = readiness(client, ready=False)["worker"]
    assert worker["state"] == "fingerprint_mismatch"
    assert "other-bundle" in worker["error"]
    assert "dummy-1" in worker["error"]
    beat(store, worker_id="second")
    readiness(client, ready=True)


def test_a_disk_below_its_floor_is_not_ready(make_client: MakeClient, store: MemoryStore) -> None:
    beat(store)
    disk = readiness(make_client(disk_floor_bytes=1 << 62), ready=False)["disk"]
    assert disk["state"] == "below_floor"
    assert disk["free_bytes"] < disk["floor_bytes"]


def test_while_the_engine_loads_only_what_needs_it_waits(
    loading: tuple[TestClient, GatedEngine], store: MemoryStore
) -> None:
    client, engine = loading
    beat(store)
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/version").json() == {"version": __version__, "engine": None}
    assert readiness(client, ready=False)["engine"]["state"] == "loading"
    for method, path, body in (
        ("POST", "/write", {"text": "x"}),
        ("POST", "/query", {"query": "x"}),
        ("PUT", "/collections/new", {}),
    ):
        answer = client.request(method, path, json=body)
        assert error_of(answer, 503)["code"] == "engine_not_ready"
        assert int(answer.headers["Retry-After"]) >= 1
    assert client.get("/memories").status_code == 200
    engine.gate.set()
    wait_for(lambda: client.get("/readyz").status_code == 200)
    assert client.post("/write", json={"text": "x"}).status_code == 202


def test_an_engine_that_cannot_load_is_told_and_the_rest_goes_on(
    make_client: MakeClient, settings: Settings, store: MemoryStore
) -> None:
    client = make_client(generator=UnloadableEngine(settings), ready=False)
    beat(store)
    wait_for(lambda: services_of(client).engine_state == "failed")
    engine = readiness(client, ready=False)["engine"]
    assert engine["state"] == "failed"
    assert "nowhere/model" in engine["error"]
    error = error_of(client.post("/query", json={"query": "x"}), 503)
    assert "nowhere/model" in error["message"]
    assert client.get("/jobs").status_code == 200


def test_draining_refuses_new_work_and_readiness(client: TestClient, store: MemoryStore) -> None:
    beat(store)
    job_id = client.post("/write", json={"text": "x"}).json()["job_id"]
    services_of(client).draining = True
    assert readiness(client, ready=False)["server"]["state"] == "draining"
    for path, body in (("/write", {"text": "x"}), ("/query", {"query": "x"})):
        answer = client.post(path, json=body)
        assert error_of(answer, 503)["code"] == "draining"
        assert "Retry-After" in answer.headers
    assert client.get(f"/jobs/{job_id}").status_code == 200
    assert client.get("/healthz").status_code == 200


def test_draining_ends_those_who_wait_for_a_worker(client: TestClient) -> None:
    job_id = client.post("/write", json={"text": "x"}).json()["job_id"]
    timer = threading.Timer(0.2, setattr, [services_of(client), "draining", True])
    timer.start()
    events = client.get(f"/jobs/{job_id}/events").text
    assert "event: job" in events
    assert "event: error" in events
    assert "draining" in events
    timer.join()


def test_a_default_collection_of_another_bundle_does_not_keep_the_server_down(
    make_client: MakeClient, store: MemoryStore
) -> None:
    store.put_collection("default", MemorySpec("older-bundle", 4, 64))
    client = make_client()
    assert client.get("/version").json()["engine"]["fingerprint"] == "dummy-1"
    assert error_of(client.post("/query", json={"query": "x"}), 409)["code"] == (
        "fingerprint_mismatch"
    )


def test_the_version_describes_the_loaded_model(client: TestClient) -> None:
    engine = client.get("/version").json()["engine"]
    assert (engine["model"], engine["fingerprint"]) == ("dummy", "dummy-1")
    assert (engine["slots"], engine["z_dim"], engine["code_format"]) == (4, 64, "bf16")
    assert engine["selections"] == ["router", "cosine", "attention", "bm25", "hybrid"]


def test_metrics_count_requests_by_route_template_and_status(client: TestClient) -> None:
    client.get("/memories/secret-document")
    client.get("/nowhere")
    client.post("/write", json={})
    found = samples(client)
    prefix = "paramem_http_requests_total"
    memory = "method=GET,route=/memories/{document_id:path},status=404"
    assert found[f"{prefix}{{{memory}}}"] == 1
    assert found[f"{prefix}{{method=GET,route=unmatched,status=404}}"] == 1
    assert found[f"{prefix}{{method=POST,route=/write,status=422}}"] == 1
    assert "secret-document" not in client.get("/metrics").text


def test_metrics_follow_the_queue_and_the_store(client: TestClient, store: MemoryStore) -> None:
    for n in range(3):
        client.post("/write", json={"text": f"number {n}", "mode": "fast"})
    before = samples(client)
    assert before["paramem_write_queue_depth"] == 3
    assert before["paramem_jobs{status=queued}"] == 3
    assert before["paramem_write_queue_oldest_age_seconds"] >= 0
    assert before["paramem_worker_heartbeat_age_seconds"] == float("inf")
    beat(store, age_s=2.0)
    work_all(store)
    after = samples(client)
    assert after["paramem_write_queue_depth"] == 0
    assert after["paramem_memories{collection=default}"] == 3
    assert after["paramem_documents"] == 3
    assert after["paramem_store_bytes{kind=shard}"] > 0
    assert 2.0 <= after["paramem_worker_heartbeat_age_seconds"] < 60.0


def test_metrics_time_every_stage_and_count_tokens(client: TestClient, worker: HashWorker) -> None:
    write(client, "The ferry leaves at seven.")
    client.post("/query", json={"query": "ferry", "max_new_tokens": 3})
    client.post("/query", json={"query": "ferry", "max_new_tokens": 3, "stream": True})
    found = samples(client)
    for stage in ("embed", "search", "select", "load", "queue", "expand", "prefill", "decode"):
        assert found[f"paramem_query_stage_seconds_count{{stage={stage}}}"] == 2
    assert found["paramem_query_ttft_seconds_count"] == 2
    assert found["paramem_query_e2e_seconds_count"] == 2
    assert found["paramem_inter_token_latency_seconds_count"] == 2
    assert found["paramem_generation_tokens_total"] == 6
    assert found["paramem_memory_slots_total"] == 8
    assert found["paramem_request_success_total{finished_reason=length}"] == 2
    assert found["paramem_queries_in_flight"] == 0


def test_metrics_count_ended_jobs_and_fits_across_processes(
    make_client: MakeClient, store: MemoryStore
) -> None:
    client = make_client()
    for mode in ("fast", "fit", "auto"):
        client.post("/write", json={"text": f"in mode {mode}", "mode": mode})
    cancelled = client.post("/write", json={"text": "never mind", "mode": "fast"}).json()
    client.delete(f"/jobs/{cancelled['job_id']}")
    work_all(store)
    found = samples(make_client())  # another app on the same home: these are the store's
    assert found["paramem_write_jobs_total{status=succeeded}"] == 4  # auto makes two
    assert found["paramem_write_jobs_total{status=cancelled}"] == 1
    assert found["paramem_write_jobs_total{status=dead}"] == 0
    assert found["paramem_fit_seconds_count"] == 2
    assert found["paramem_fit_seconds_sum"] > 0
    assert found["paramem_fit_steps_sum"] == 14
    assert found["paramem_fit_token_accuracy_sum"] == 1.5
    store.compact()  # forgets old jobs, not how many there were
    assert samples(client)["paramem_write_jobs_total{status=succeeded}"] == 4


def test_metrics_tell_cache_hits_and_the_age_of_the_last_snapshot(
    client: TestClient, store: MemoryStore, settings: Settings, worker: HashWorker
) -> None:
    write(client, "The ferry leaves at seven.")
    for _ in range(2):
        client.post("/query", json={"query": "ferry"})
    before = samples(client)
    assert before["paramem_shard_cache_hits_total"] >= 1
    assert before["paramem_shard_opens_total"] >= 1
    assert before["paramem_snapshot_age_seconds"] == float("inf")
    assert before["paramem_engine_ready"] == 1
    store.snapshot(Snapshots(settings.home))
    assert samples(client)["paramem_snapshot_age_seconds"] < 3600


def test_metrics_tell_what_the_last_audit_found(
    client: TestClient, store: MemoryStore, settings: Settings, worker: HashWorker
) -> None:
    write(client, "The ferry leaves at seven.")
    assert samples(client)["paramem_audit_age_seconds"] == float("inf")
    store.check()
    sound = samples(client)
    assert sound["paramem_audit_age_seconds"] < 3600
    assert sound["paramem_audit_problems"] == 0
    [shard] = (settings.home / "shards").glob("*/*")
    shard.write_bytes(shard.read_bytes()[:-1])
    store.check()
    assert samples(client)["paramem_audit_problems"] >= 1
    store.check(repair=True)
    assert samples(client)["paramem_audit_problems"] == 0


def test_each_app_has_metrics_of_its_own(make_client: MakeClient) -> None:
    first, second = make_client(), make_client()
    first.get("/jobs")
    assert "paramem_http_requests_total{method=GET,route=/jobs,status=200}" in samples(first)
    assert "paramem_http_requests_total{method=GET,route=/jobs,status=200}" not in samples(second)


def test_a_request_id_is_echoed_and_a_strange_one_replaced(client: TestClient) -> None:
    given = {"X-Request-ID": "trace-42.a_b"}
    answer = client.get("/jobs/nope", headers=given)
    assert error_of(answer, 404)["request_id"] == "trace-42.a_b"
    strange = client.get("/jobs/nope", headers={"X-Request-ID": "a b<script>" * 20})
    assert re.fullmatch(r"[0-9a-f]{32}", error_of(strange, 404)["request_id"])
