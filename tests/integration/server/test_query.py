"""``POST /query``: the answer, what it was made from, and when it may be asked."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from memory_store.records import MemorySpec
from memory_store.store import MemoryStore
from paramem.settings import ReaderKind, Settings
from server import read_path
from server.engine.dummy import DummyEngine
from tests.integration.server.conftest import (
    MakeClient,
    error_of,
    make_settings,
    opened_store,
    write,
)
from tests.integration.server.engines import (
    FailingEngine,
    RerankingEngine,
    UntrainedEngine,
)
from tests.integration.server.hash_worker import SPEC, HashWorker, beat, work_all, work_once
from tests.integration.server.questions import FERRY, ask
from tests.integration.server.sse import events_of


def ask_streamed(
    client: TestClient, query: str = "When does the ferry leave?", **fields: Any
) -> Any:
    answer = client.post("/query", json={"query": query, "stream": True, **fields})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    return list(events_of(answer.text.splitlines()))


def test_the_memory_that_shares_the_words_comes_first(stocked: TestClient) -> None:
    answer = ask(stocked)
    assert [memory["document_id"] for memory in answer["memories"]] == ["ferry", "orchard"]
    best = answer["memories"][0]
    assert best["score"] > answer["memories"][1]["score"]
    assert (best["passage"], best["title"], best["metadata"]) == (0, "Ferry", {"year": 2024})


def test_an_answer_reports_usage_timings_and_why_it_ended(stocked: TestClient) -> None:
    answer = ask(stocked, top_k=1, max_new_tokens=3)
    assert len(answer["answer"].split()) == 3
    assert answer["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 3
    assert answer["usage"]["memory_slots"] == SPEC.slots
    assert answer["usage"]["prompt_tokens"] > SPEC.slots
    assert {"select", "load", "prefill", "ttft", "total"} <= set(answer["timings_ms"])
    assert all(ms >= 0 for ms in answer["timings_ms"].values())
    assert answer["timings_ms"]["total"] >= answer["timings_ms"]["ttft"]


def test_a_server_that_reads_text_refuses_to_read_memories(
    stocked: TestClient, make_client: MakeClient
) -> None:
    del stocked  # what it wrote is in the home that both share
    reader_of_text = make_client(reader=ReaderKind.TEXT)
    assert ask(reader_of_text, context="text")["answer"]
    refused = reader_of_text.post("/query", json={"query": "When?", "context": "memory"})
    assert error_of(refused, 422)["code"] == "context_unavailable"


def test_a_selection_that_the_bundle_lacks_is_refused(make_client: MakeClient) -> None:
    client = make_client(generator=UntrainedEngine(make_settings(Path("unused"))))
    refused = client.post("/query", json={"query": "x", "selection": "attention"})
    error = error_of(refused, 422)
    assert (error["code"], error["param"]) == ("selection_unavailable", "selection")
    assert "router, cosine" in error["message"]


@pytest.mark.parametrize(("engine", "reranks"), [(RerankingEngine, True), (UntrainedEngine, False)])
def test_a_query_that_names_no_selection_gets_the_engines_first(
    make_client: MakeClient, store: MemoryStore, engine: type[DummyEngine], reranks: bool
) -> None:
    client = make_client(generator=engine(make_settings(Path("unused"))))
    client.post("/write", json={"text": "The ferry leaves at seven.", "mode": "fast"})
    work_all(store)
    answer = ask(client, "ferry")
    assert len(answer["memories"]) == 1
    assert ("rerank" in answer["timings_ms"]) == reranks


def test_top_k_limits_the_memories(stocked: TestClient) -> None:
    assert len(ask(stocked, top_k=1)["memories"]) == 1


def test_filters_limit_what_is_selected(stocked: TestClient) -> None:
    by_year = ask(stocked, filters={"year": [2025, 2026]})["memories"]
    by_id = ask(stocked, filters={"document_id": "orchard"})["memories"]
    assert [[memory["document_id"] for memory in found] for found in (by_year, by_id)] == [
        ["orchard"],
        ["orchard"],
    ]
    assert ask(stocked, filters={"year": 1066})["memories"] == []


def test_the_answer_depends_on_the_memories_and_only_on_them(stocked: TestClient) -> None:
    with_ferry = ask(stocked, filters={"document_id": "ferry"})["answer"]
    assert ask(stocked, filters={"document_id": "ferry"})["answer"] == with_ferry
    assert ask(stocked, filters={"document_id": "orchard"})["answer"] != with_ferry


def test_the_same_passages_may_be_given_as_text(stocked: TestClient) -> None:
    memory, text = ask(stocked), ask(stocked, context="text")
    assert text["memories"] == memory["memories"]
    assert text["usage"]["memory_slots"] == 0
    assert text["usage"]["prompt_tokens"] > 10
    assert text["answer"] != memory["answer"]


def test_closed_book_selects_nothing(stocked: TestClient) -> None:
    answer = ask(stocked, context="none")
    assert answer["memories"] == []
    assert answer["usage"]["memory_slots"] == 0
    assert "select" not in answer["timings_ms"]


def test_an_empty_store_answers_closed_book(client: TestClient) -> None:
    answer = ask(client)
    assert answer["memories"] == []
    assert answer["answer"] == ask(client, context="none")["answer"]


def test_text_that_was_not_kept_cannot_be_given(client: TestClient, worker: HashWorker) -> None:
    write(client, FERRY, id="ferry", keep_text=False)
    answer = client.post("/query", json={"query": "ferry", "context": "text", "stream": True})
    error = error_of(answer, 409)
    assert (error["code"], error["param"]) == ("text_not_kept", "context")
    assert "ferry" in error["message"]


def test_sampling_follows_the_seed(stocked: TestClient) -> None:
    hot = [ask(stocked, temperature=1.0, seed=seed)["answer"] for seed in (1, 1, 2)]
    assert hot[0] == hot[1] != hot[2]


def test_a_streamed_answer_is_the_whole_answer_in_pieces(stocked: TestClient) -> None:
    whole = ask(stocked)
    events = ask_streamed(stocked)
    names = [name for name, _data in events]
    assert names == ["memories", *["delta"] * (len(names) - 2), "done"]
    assert events[0][1] == {"memories": whole["memories"]}
    done = events[-1][1]
    assert "".join(data["text"] for name, data in events if name == "delta") == done["answer"]
    assert {**done, "timings_ms": None} == {**whole, "timings_ms": None}


def test_an_error_after_the_first_event_is_an_event_of_the_same_shape(
    make_client: MakeClient, settings: Settings
) -> None:
    client = make_client(generator=FailingEngine(settings, after=2))
    events = ask_streamed(client)
    assert [name for name, _data in events] == ["memories", "delta", "delta", "error"]
    error = events[-1][1]["error"]
    assert (error["code"], error["type"]) == ("internal_error", "internal_error")
    assert error["request_id"]
    assert "secret" not in str(events)


@pytest.mark.parametrize("after", [0, 2])
def test_an_engine_that_breaks_is_a_500_without_details(
    make_client: MakeClient, settings: Settings, after: int
) -> None:
    client = make_client(generator=FailingEngine(settings, after=after))
    answer = client.post("/query", json={"query": "x"})
    error = error_of(answer, 500)
    assert error["code"] == "internal_error"
    assert "secret" not in answer.text
    assert client.get("/healthz").status_code == 200


def test_a_prompt_that_does_not_fit_is_refused_before_the_stream(stocked: TestClient) -> None:
    long = " ".join(f"w{n}" for n in range(4096))
    answer = stocked.post("/query", json={"query": long, "stream": True})
    error = error_of(answer, 422)
    assert error["code"] == "context_length_exceeded"
    assert "4096" in error["message"]


def test_a_query_may_wait_for_a_write(client: TestClient, store: MemoryStore) -> None:
    job = client.post("/write", json={"text": FERRY, "id": "ferry"}).json()
    late = threading.Timer(0.2, work_once, [store])
    late.start()
    answer = ask(client, read_after=job["job_id"])
    late.join()
    assert [memory["document_id"] for memory in answer["memories"]] == ["ferry"]
    assert answer["timings_ms"]["wait"] > 0


def test_waiting_for_a_write_that_failed_says_so(client: TestClient, store: MemoryStore) -> None:
    job = client.post("/write", json={"text": FERRY, "mode": "fast"}).json()
    store.jobs.lease("w", limit=1, lease_s=30)
    store.jobs.fail(job["job_id"], "w", code="no_words", message="too plain", retryable=False)
    answer = client.post("/query", json={"query": "x", "read_after": job["job_id"]})
    error = error_of(answer, 409)
    assert (error["code"], error["param"]) == ("write_not_succeeded", "read_after")
    assert "too plain" in error["message"]
    assert f"/jobs/{job['job_id']}/retry" in error["message"]


def test_waiting_for_a_write_has_an_end(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_path, "READ_AFTER_TIMEOUT_S", 0.05)
    job = client.post("/write", json={"text": FERRY}).json()
    answer = client.post("/query", json={"query": "x", "read_after": job["job_id"]})
    error = error_of(answer, 409)
    assert error["code"] == "read_after_timeout"
    assert job["job_id"] in error["message"]


def test_a_collection_of_another_bundle_cannot_be_read(
    client: TestClient, store: MemoryStore
) -> None:
    store.put_collection("old", MemorySpec("older-bundle", SPEC.slots, SPEC.z_dim))
    store.put_collection("wide", MemorySpec("dummy-1", SPEC.slots, 2 * SPEC.z_dim))
    for name, values in (("old", ("older-bundle", "dummy-1")), ("wide", ("64", "128"))):
        error = error_of(client.post("/query", json={"query": "x", "collection": name}), 409)
        assert (error["code"], error["param"]) == ("fingerprint_mismatch", "collection")
        for value in values:
            assert value in error["message"]


def test_fifty_queries_at_once_each_get_their_own_answer(stocked: TestClient) -> None:
    queries = [f"question number {n} about the ferry" for n in range(50)]
    alone = [ask(stocked, query)["answer"] for query in queries]
    with ThreadPoolExecutor(50) as pool:
        together = list(pool.map(lambda query: ask(stocked, query)["answer"], queries))
        streamed = list(pool.map(lambda query: ask_streamed(stocked, query)[-1][1], queries))
    assert together == alone
    assert [done["answer"] for done in streamed] == alone
    assert len(set(alone)) == 50


def test_too_many_queries_in_flight_get_429(make_client: MakeClient, settings: Settings) -> None:
    engine = DummyEngine(settings, token_delay_s=0.05)
    client = make_client(generator=engine, max_concurrent_requests=1)
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(ask, client)
        while engine.load() != (1, 0):
            time.sleep(0.005)
        answer = client.post("/query", json={"query": "x", "stream": True})
        assert error_of(answer, 429)["code"] == "too_many_queries"
        assert int(answer.headers["Retry-After"]) >= 1
        for path in ("/query", "/v1/chat/completions"):  # before the body is looked at
            unread = client.post(path, content=b"{", headers={"Content-Type": "application/json"})
            assert error_of(unread, 429)["code"] == "too_many_queries"
        assert client.get("/v1/models").status_code == 200
        slow.result()
    assert ask(client)["answer"]


def test_write_restart_query_gives_the_same_answer(
    settings: Settings, make_client: MakeClient, client: TestClient, store: MemoryStore
) -> None:
    client.post("/write", json={"text": FERRY, "id": "ferry", "mode": "fast"})
    work_all(store)
    before = ask(client)
    with opened_store(settings) as reopened:
        beat(reopened)
        again = ask(make_client(max_top_k=settings.max_top_k))
    assert (again["answer"], again["memories"]) == (before["answer"], before["memories"])


def test_memories_are_selected_by_the_words_of_their_texts(stocked: TestClient) -> None:
    answer = ask(stocked, "apple", selection="bm25")
    assert [memory["document_id"] for memory in answer["memories"]] == ["orchard"]
    assert "embed" not in answer["timings_ms"]


def test_hybrid_selection_adds_the_ranks_of_router_and_words(stocked: TestClient) -> None:
    answer = ask(stocked, "Skye apple trees", selection="hybrid")
    by_key = ask(stocked, "Skye apple trees", selection="router")["memories"]
    by_words = ask(stocked, "Skye apple trees", selection="bm25")["memories"]
    expected: dict[str, float] = {}
    for ranking in (by_key, by_words):
        for rank, memory in enumerate(ranking, start=1):
            name = memory["document_id"]
            expected[name] = expected.get(name, 0.0) + 1 / (60 + rank)
    scores = {memory["document_id"]: memory["score"] for memory in answer["memories"]}
    assert scores == pytest.approx(expected)
    assert sorted(scores.values(), reverse=True) == list(scores.values())
