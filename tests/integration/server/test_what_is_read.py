"""Which of the selected memories an answer is made from, and in how many slots."""

from __future__ import annotations

from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from tests.integration.server.conftest import MakeClient, make_settings
from tests.integration.server.engines import CoarseEngine, MarginEngine
from tests.integration.server.hash_worker import SPEC
from tests.integration.server.questions import ask


def test_memories_after_the_best_are_read_in_as_many_slots_as_the_query_says(
    stocked: TestClient,
) -> None:
    whole, coarse = ask(stocked), ask(stocked, coarse_slots=1)
    assert whole["usage"]["memory_slots"] == 2 * SPEC.slots
    assert coarse["usage"]["memory_slots"] == SPEC.slots + 1
    assert coarse["memories"] == whole["memories"]
    assert coarse["answer"] != whole["answer"]
    assert ask(stocked, coarse_slots=SPEC.slots)["answer"] == whole["answer"]


@pytest.mark.parametrize("selection", ["cosine", "router", "attention", "hybrid"])
@pytest.mark.parametrize("context", ["memory", "text"])
def test_memories_that_score_too_far_below_the_best_are_selected_but_not_read(
    stocked: TestClient, selection: str, context: str
) -> None:
    asked = {"selection": selection, "context": context}
    both = ask(stocked, **asked, score_margin=100)
    best = ask(stocked, **asked, score_margin=0)
    assert [memory["read"] for memory in both["memories"]] == [True, True]
    assert [memory["read"] for memory in best["memories"]] == [True, False]
    assert ask(stocked, **asked, top_k=1)["answer"] == best["answer"] != both["answer"]
    gap = both["memories"][0]["score"] - both["memories"][1]["score"]
    assert ask(stocked, **asked, score_margin=gap * 1.01)["answer"] == both["answer"]
    assert ask(stocked, **asked, score_margin=gap * 0.99)["answer"] == best["answer"]


def test_a_query_that_does_not_say_gets_the_bundles_margin_for_attention_only(
    make_client: MakeClient, stocked: TestClient
) -> None:
    del stocked  # what it wrote is in the home that both share
    client = make_client(generator=MarginEngine(make_settings(Path("unused"))))
    assert client.get("/version").json()["engine"]["score_margin"] == 0.0
    slots = {
        str(fields): ask(client, **fields)["usage"]["memory_slots"]
        for fields in ({}, {"selection": "router"}, {"score_margin": 100})
    }
    assert list(slots.values()) == [SPEC.slots, 2 * SPEC.slots, 2 * SPEC.slots]


@pytest.mark.parametrize("margin", [-0.1, "NaN", None])
def test_a_margin_is_a_number_of_at_least_zero_or_left_to_the_server(
    stocked: TestClient, margin: object
) -> None:
    answer = stocked.post("/query", json={"query": "When?", "score_margin": margin})
    assert answer.status_code == (200 if margin is None else 422)


def test_a_query_that_does_not_say_gets_the_bundles_coarse_slots(
    make_client: MakeClient, stocked: TestClient
) -> None:
    del stocked  # what it wrote is in the home that both share
    client = make_client(generator=CoarseEngine(make_settings(Path("unused"))))
    assert client.get("/version").json()["engine"]["coarse_slots"] == CoarseEngine.coarse_slots
    assert ask(client)["usage"]["memory_slots"] == SPEC.slots + CoarseEngine.coarse_slots
    assert ask(client, coarse_slots=SPEC.slots)["usage"]["memory_slots"] == 2 * SPEC.slots
