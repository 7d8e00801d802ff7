"""An app over a real store in a temporary home, with the dummy engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from memory_store.store import MemoryStore
from paramem.settings import Settings, load_settings
from server.app import create_app
from server.engine.generator import Generator
from tests.integration.server.hash_worker import SPEC, HashWorker, work_all
from tests.integration.server.questions import FERRY, ORCHARD

MakeClient = Callable[..., TestClient]


def make_settings(home: Path, **overrides: Any) -> Settings:
    given = {
        "home": home,
        "engine": "dummy",
        "slots": SPEC.slots,
        "z_dim": SPEC.z_dim,
        "disk_floor_bytes": 0,
        "shutdown_grace_s": 5.0,
        **overrides,
    }
    return load_settings(**given)


def wait_for(condition: Callable[[], Any], *, timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.005)


@contextmanager
def opened_store(settings: Settings) -> Iterator[MemoryStore]:
    with MemoryStore.open(
        settings.home,
        max_queue=settings.max_queue,
        disk_floor_bytes=settings.disk_floor_bytes,
        max_attempts=settings.max_attempts,
    ) as store:
        yield store


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return make_settings(tmp_path / "home")


@pytest.fixture
def store(settings: Settings) -> Iterator[MemoryStore]:
    with opened_store(settings) as store:
        yield store


@pytest.fixture
def make_client(settings: Settings, store: MemoryStore) -> Iterator[MakeClient]:
    """``make_client(generator=…, ready=False, **settings)``; all over the same home."""
    with ExitStack() as stack:

        def make(
            *, generator: Generator | None = None, ready: bool = True, **overrides: Any
        ) -> TestClient:
            own = settings.model_copy(update=overrides)
            own_store = stack.enter_context(opened_store(own)) if overrides else store
            app = create_app(own, store=own_store, generator=generator)
            client = stack.enter_context(TestClient(app, raise_server_exceptions=False))
            if ready:
                wait_for(lambda: client.get("/version").json()["engine"])
            return client

        yield make


@pytest.fixture
def client(make_client: MakeClient) -> TestClient:
    return make_client()


@pytest.fixture
def worker(store: MemoryStore) -> Iterator[HashWorker]:
    with HashWorker(store) as worker:
        yield worker


def write(client: TestClient, text: str, **fields: Any) -> dict[str, Any]:
    """Write and wait until readable (needs the ``worker``). Returns: the job."""
    answer = client.post("/write?wait=true", json={"text": text, "mode": "fast", **fields})
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    assert job["status"] == "succeeded", job
    return job


def error_of(answer: Any, status: int) -> dict[str, Any]:
    """The error object, after checking that it has the one shape."""
    assert answer.status_code == status, answer.text
    error: dict[str, Any] = answer.json()["error"]
    assert set(answer.json()) == {"error"}
    assert set(error) == {"type", "code", "message", "param", "request_id"}
    assert error["type"]
    assert error["code"]
    assert error["message"]
    assert error["request_id"] == answer.headers["X-Request-ID"]
    assert "Traceback" not in answer.text
    return error


@pytest.fixture
def stocked(client: TestClient, store: MemoryStore) -> TestClient:
    """Two documents in the default collection, no worker running."""
    for document_id, text, year in (("ferry", FERRY, 2024), ("orchard", ORCHARD, 2025)):
        body = {"text": text, "id": document_id, "metadata": {"year": year}, "mode": "fast"}
        client.post("/write", json={**body, "title": document_id.title()})
    work_all(store)
    return client


def samples(client: TestClient) -> dict[str, float]:
    """``name{label=value,…}`` to value."""
    found = {}
    for family in text_string_to_metric_families(client.get("/metrics").text):
        for sample in family.samples:
            labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found
