"""``POST /query`` by ``attention``: the router's candidates, ranked by all of their slots."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from fastapi.testclient import TestClient

from memory_store.records import FloatArray, Memory
from memory_store.store import MemoryStore
from paramem.settings import Settings
from tests.integration.server.conftest import MakeClient, samples, write
from tests.integration.server.engines import WordEngine
from tests.integration.server.hash_worker import HashWorker, work_all
from tests.integration.server.questions import ask


def test_attention_reorders_the_routers_candidates_by_their_slots(
    client: TestClient, store: MemoryStore
) -> None:
    # the router sees the whole passage, attention its best slot: where the words stand together
    together = "seven ferry leaves " + "stone " * 60
    apart = " ".join(f"{word} {'gull ' * 9}" for word in ("ferry", "leaves", "seven") * 2)
    for document_id, text in (("together", together), ("apart", apart)):
        client.post("/write", json={"text": text, "id": document_id, "mode": "fast"})
    work_all(store)
    orders = {
        selection: [
            memory["document_id"]
            for memory in ask(client, "ferry leaves seven", selection=selection)["memories"]
        ]
        for selection in ("router", "attention")
    }
    assert orders == {"router": ["apart", "together"], "attention": ["together", "apart"]}


def test_attention_looks_at_more_candidates_than_it_returns(stocked: TestClient) -> None:
    answer = ask(stocked, selection="attention", top_k=1)
    assert [memory["document_id"] for memory in answer["memories"]] == ["ferry"]
    assert "rerank" in answer["timings_ms"]


def test_words_that_the_kept_text_shares_with_the_query_count(
    make_client: MakeClient, worker: HashWorker, settings: Settings
) -> None:
    client = make_client(generator=WordEngine(settings))
    write(client, "Ferry, ferry, ferry.", id="like the query")
    write(client, "Seals sleep on Skye.", id="shares the word")
    write(client, "Gulls sleep on Skye.", id="text not kept", keep_text=False)
    answer = ask(client, "ferry", selection="attention")
    order = [memory["document_id"] for memory in answer["memories"]]
    assert order[0] == "shares the word"
    scores = [memory["score"] for memory in answer["memories"]]
    assert scores[0] > 9
    assert 4 < scores[order.index("text not kept")] < 7  # the mean of the two others


def test_an_empty_collection_is_asked_like_any_other(client: TestClient) -> None:
    answer = ask(client, selection="attention")
    assert answer["memories"] == []
    assert answer["timings_ms"]["load"] >= 0


@pytest.mark.parametrize("kept_mib", [64, 0])
def test_of_candidates_known_from_the_last_query_only_the_read_ones_are_loaded(
    make_client: MakeClient, stocked: TestClient, monkeypatch: pytest.MonkeyPatch, kept_mib: int
) -> None:
    del stocked  # what it wrote is in the home that both share
    client = make_client(rerank_cache_mib=kept_mib)
    loaded: list[int] = []
    load_codes = MemoryStore.load_codes

    def counted(store: MemoryStore, memories: Sequence[Memory]) -> list[FloatArray]:
        loaded.append(len(memories))
        return load_codes(store, memories)

    monkeypatch.setattr(MemoryStore, "load_codes", counted)
    asked = {"selection": "attention", "top_k": 1}
    first, second = ask(client, **asked), ask(client, **asked)
    assert first["memories"] == second["memories"]
    assert first["answer"] == second["answer"]
    assert loaded == ([2, 1, 1] if kept_mib else [2, 1, 2, 1])
    found = samples(client)
    assert found["paramem_rerank_cache_hits_total"] == (2 if kept_mib else 0)
    assert found["paramem_rerank_cache_misses_total"] == (2 if kept_mib else 4)


def test_a_replaced_document_is_re_ranked_by_what_it_says_now(
    client: TestClient, worker: HashWorker
) -> None:
    write(client, "The ferry leaves at seven.", id="one")
    write(client, "Plums ripen late in autumn.", id="two")
    asked = {"query": "When does the ferry leave?", "selection": "attention", "top_k": 2}
    before = ask(client, **asked)["memories"]
    write(client, "Nothing of the kind any more.", id="one")
    after = ask(client, **asked)["memories"]
    [score] = [memory["score"] for memory in after if memory["document_id"] == "one"]
    assert before[0]["document_id"] == "one"
    assert score < before[0]["score"]
