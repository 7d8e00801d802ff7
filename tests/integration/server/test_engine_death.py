"""An engine that dies is told over HTTP: 503 with Retry-After, readiness down, then it is back."""

from __future__ import annotations

from pathlib import Path

import pytest

from paramem.settings import Settings
from server.engine.vllm_engine import VllmEngine
from tests.integration.engines.fake_vllm import FakeVllm
from tests.integration.server.conftest import MakeClient, error_of, wait_for

QUESTION = {"query": "two words", "context": "none", "max_new_tokens": 8}


@pytest.fixture
def vllm() -> FakeVllm:
    return FakeVllm()


@pytest.fixture
def engine(vllm: FakeVllm, tiny_model: Path, tmp_path: Path) -> VllmEngine:
    settings = Settings(
        home=tmp_path / "model", cache=tmp_path / "cache", model=str(tiny_model), slots=4, z_dim=32
    )
    return VllmEngine(settings, start=vllm)


def test_a_dead_engine_is_503_until_it_serves_again(
    make_client: MakeClient, engine: VllmEngine, vllm: FakeVllm
) -> None:
    client = make_client(generator=engine)
    answer = client.post("/query", json=QUESTION).json()["answer"]
    vllm.failures = 1  # the first restart fails: it stays away for a second at least
    vllm.started[0].kill()
    error = client.post("/query", json=QUESTION)
    assert error_of(error, 503)["code"] == "engine_not_ready"
    assert int(error.headers["Retry-After"]) >= 1
    ready = client.get("/readyz")
    assert ready.status_code == 503
    assert ready.json()["checks"]["engine"]["state"] == "dead"
    assert client.get("/healthz").status_code == 200
    assert "paramem_engine_ready 0.0" in client.get("/metrics").text
    wait_for(lambda: client.get("/readyz").json()["checks"]["engine"]["ok"])
    assert client.post("/query", json=QUESTION).json()["answer"] == answer
    assert client.get("/version").json()["engine"]["model"]
