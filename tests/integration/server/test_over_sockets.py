"""What only a real server shows: streaming as it happens, clients that leave, draining."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from memory_store.right_of_way import RightOfWay
from memory_store.store import MemoryStore
from paramem.settings import Settings
from tests.integration.server.conftest import make_settings, wait_for
from tests.integration.server.hash_worker import HashWorker
from tests.integration.server.served import Served, serve
from tests.integration.server.sse import events_of

TOKEN_DELAY_S = 0.02
ASK = {"query": "When does the ferry leave?", "stream": True}


@pytest.fixture
def served(settings: Settings, store: MemoryStore) -> Iterator[Served]:
    with serve(settings, store, token_delay_s=TOKEN_DELAY_S) as served:
        yield served


def test_pieces_arrive_while_the_answer_is_being_made(served: Served) -> None:
    with served.http.stream("POST", "/query", json=ASK) as answer:
        assert answer.headers["cache-control"] == "no-cache"
        events = events_of(answer.iter_lines())
        assert next(events)[0] == "memories"
        assert next(events)[0] == "delta"
        assert served.engine.load() == (1, 0)  # it is still at work
        assert [name for name, _data in events][-1] == "done"


def test_the_worker_sees_that_a_query_is_being_answered(served: Served, settings: Settings) -> None:
    seen_by_worker = RightOfWay(settings.home / ".queries")
    with served.http.stream("POST", "/query", json=ASK) as answer:
        events = events_of(answer.iter_lines())
        next(events)
        assert seen_by_worker.is_taken()
        assert [name for name, _data in events][-1] == "done"
    wait_for(lambda: not seen_by_worker.is_taken())


def test_a_query_that_waits_for_a_write_is_not_in_its_way(
    served: Served, settings: Settings
) -> None:
    job = served.http.post("/write", json={"text": "nobody works"}).json()
    seen_by_worker = RightOfWay(settings.home / ".queries")

    def ask() -> None:
        with suppress(httpx.ReadTimeout):
            served.http.post("/query", json={**ASK, "read_after": job["job_id"]}, timeout=1)

    asking = threading.Thread(target=ask)
    asking.start()
    wait_for(lambda: served.services.queries_in_flight == 1)
    assert not seen_by_worker.is_taken()
    asking.join()


def test_a_client_that_leaves_frees_its_place_at_once(served: Served) -> None:
    with served.http.stream("POST", "/query", json={**ASK, "max_new_tokens": 1024}) as answer:
        events = events_of(answer.iter_lines())
        next(events)
        next(events)
        assert served.engine.load() == (1, 0)
    wait_for(lambda: served.engine.load() == (0, 0), timeout_s=5)
    wait_for(lambda: served.services.queries_in_flight == 0)
    assert served.http.post("/query", json=ASK).status_code == 200


def test_a_client_that_leaves_an_unstreamed_answer_frees_its_place(
    settings: Settings, store: MemoryStore
) -> None:
    with serve(settings, store, token_delay_s=0.5) as served:
        with pytest.raises(httpx.ReadTimeout):
            served.http.post("/query", json={"query": "x"}, timeout=0.3)
        wait_for(lambda: served.engine.load() == (0, 0), timeout_s=3)


def test_a_client_that_leaves_while_it_waits_for_a_write_is_forgotten(served: Served) -> None:
    with pytest.raises(httpx.ReadTimeout):
        served.http.post("/write?wait=true", json={"text": "nobody works"}, timeout=0.3)
    wait_for(lambda: served.services.requests_in_flight == 0, timeout_s=5)


def test_ten_megabytes_get_an_answer_not_a_broken_connection(served: Served) -> None:
    answer = served.http.post("/write", json={"text": "x" * (10 << 20)})
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "body_too_large"
    assert served.http.get("/healthz").status_code == 200


def test_an_endless_body_is_cut_off(served: Served) -> None:
    def endless() -> Iterator[bytes]:
        yield b'{"text": "'
        while True:
            yield b"x" * (1 << 20)

    headers = {"Content-Type": "application/json"}
    with suppress(httpx.TransportError):  # it may be cut off while it sends
        status = served.http.post("/write", content=endless(), headers=headers).status_code
        assert status == 413
    assert served.http.get("/healthz").status_code == 200


def test_a_long_batch_is_taken_by_a_client_that_reads_last(served: Served) -> None:
    lines = b"\n".join(json.dumps({"text": f"n {n}", "id": str(n)}).encode() for n in range(300))
    headers = {"Content-Type": "application/x-ndjson"}
    answer = served.http.post("/write/batch", content=lines, headers=headers)
    assert len(answer.text.splitlines()) == 300


def test_a_drain_finishes_the_stream_and_refuses_new_work(
    served: Served, store: MemoryStore
) -> None:
    with HashWorker(store), served.http.stream("POST", "/query", json=ASK) as answer:
        events = events_of(answer.iter_lines())
        next(events)
        assert served.http.get("/readyz").status_code == 200
        served.terminate()
        refused = served.http.post("/query", json=ASK)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
        assert served.http.get("/readyz").status_code == 503
        name, done = list(events)[-1]
        assert name == "done"
        assert done["answer"]
    wait_for(lambda: served.server.should_exit)


def test_the_grace_has_an_end(settings: Settings, store: MemoryStore) -> None:
    short = settings.model_copy(update={"shutdown_grace_s": 0.2})
    with serve(short, store, token_delay_s=60.0) as served:

        def ask() -> None:
            with suppress(httpx.TransportError):
                served.http.post("/query", json={"query": "x"})

        thread = threading.Thread(target=ask)
        thread.start()
        wait_for(lambda: served.engine.load() == (1, 0))
        served.terminate()
        wait_for(lambda: served.engine.load() == (0, 0), timeout_s=10)
        thread.join()


SERVE = """
from paramem.settings import load_settings
from server.engine.dummy import DummyEngine
from server.run import run_server
settings = load_settings()

class Engine(DummyEngine):
    @property
    def lost(self):
        return (settings.home / "device-lost").exists()

run_server(settings, generator=Engine(settings, token_delay_s=TOKEN_DELAY_S))
""".replace("TOKEN_DELAY_S", str(TOKEN_DELAY_S))


def run_process(settings: Settings, **environment: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", SERVE],
        env={
            **os.environ,
            "PARAMEM_HOME": str(settings.home),
            "PARAMEM_ENGINE": "dummy",
            "PARAMEM_DISK_FLOOR_BYTES": "0",
            **environment,
        },
        stderr=subprocess.PIPE,
    )


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def wait_until_loaded(process: subprocess.Popen[bytes], url: str) -> None:
    def loaded() -> Any:
        assert process.poll() is None
        try:
            return httpx.get(f"{url}/version", trust_env=False).json()["engine"]
        except httpx.TransportError:
            return None

    wait_for(loaded, timeout_s=60)


def test_sigterm_lets_the_stream_finish_and_ends_the_process_with_status_0(tmp_path: Path) -> None:
    port = free_port()
    process = run_process(make_settings(tmp_path / "home"), PARAMEM_PORT=str(port))
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until_loaded(process, url)
        job = httpx.post(f"{url}/write", json={"text": "kept"}, trust_env=False).json()
        assert job["status"] == "queued"
        with (
            httpx.Client(base_url=url, timeout=20, trust_env=False) as http,
            http.stream("POST", "/query", json=ASK) as answer,
        ):
            events = events_of(answer.iter_lines())
            next(events)
            process.send_signal(signal.SIGTERM)
            assert [name for name, _data in events][-1] == "done"
        _out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0, err.decode()
    lines = [json.loads(line) for line in err.decode().splitlines()]
    requests = [line for line in lines if line["event"] == "request"]
    assert any(line["route"] == "/write" and line["request_id"] for line in requests)
    with MemoryStore.open(tmp_path / "home") as store:
        assert store.jobs.get(job["job_id"]).document_id == job["document_id"]


def test_a_server_whose_accelerator_is_lost_ends_so_that_another_is_started(tmp_path: Path) -> None:
    port = free_port()
    process = run_process(make_settings(tmp_path / "home"), PARAMEM_PORT=str(port))
    try:
        wait_until_loaded(process, f"http://127.0.0.1:{port}")
        (tmp_path / "home" / "device-lost").touch()
        _out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 1
    assert "accelerator failed" in err.decode()
    assert "Traceback" not in err.decode()


def test_an_open_door_is_refused_at_start(tmp_path: Path) -> None:
    process = run_process(make_settings(tmp_path / "home"), PARAMEM_HOST="0.0.0.0")
    _out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "PARAMEM_API_KEY_FILE" in err.decode()
    assert "Traceback" not in err.decode()
