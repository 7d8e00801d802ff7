"""``/v1``: what OpenAI's clients and load generators send and expect."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fastapi.testclient import TestClient

from memory_store.store import MemoryStore
from tests.integration.server.conftest import error_of
from tests.integration.server.hash_worker import work_all

QUESTION = "When does the ferry leave?"


@pytest.fixture
def stocked(client: TestClient, store: MemoryStore) -> TestClient:
    client.put("/collections/boats")
    for collection in ("default", "boats"):
        text = f"The ferry of {collection} leaves at seven."
        body = {"text": text, "id": "ferry", "collection": collection, "mode": "fast"}
        client.post("/write", json=body)
    work_all(store)
    return client


def chat(client: TestClient, **fields: Any) -> Any:
    messages = [{"role": "user", "content": QUESTION}]
    body = {"model": "paramem", "messages": messages, "max_tokens": 8, **fields}
    return client.post("/v1/chat/completions", json=body)


def chunks(answer: Any) -> list[Any]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    lines = [line for line in answer.text.split("\n\n") if line.startswith("data: ")]
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def test_the_answer_is_that_of_query_in_openais_shape(stocked: TestClient) -> None:
    plain = stocked.post("/query", json={"query": QUESTION, "max_new_tokens": 8}).json()
    answer = chat(stocked).json()
    assert (answer["object"], answer["model"]) == ("chat.completion", "paramem")
    [choice] = answer["choices"]
    assert choice["message"] == {"role": "assistant", "content": plain["answer"]}
    assert choice["finish_reason"] == plain["finish_reason"]
    usage = plain["usage"]
    assert answer["usage"] == {
        "prompt_tokens": usage["prompt_tokens"],
        "completion_tokens": usage["completion_tokens"],
        "total_tokens": usage["prompt_tokens"] + usage["completion_tokens"],
    }
    assert answer["memories"] == plain["memories"]


def test_a_stream_has_the_same_pieces_then_usage_then_done(stocked: TestClient) -> None:
    whole = chat(stocked).json()
    first, *middle, last, usage = chunks(
        chat(stocked, stream=True, stream_options={"include_usage": True})
    )
    assert {chunk["object"] for chunk in (first, *middle, last, usage)} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in (first, *middle, last, usage)}) == 1
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert first["memories"] == whole["memories"]
    said = "".join(chunk["choices"][0]["delta"]["content"] for chunk in middle)
    assert said == whole["choices"][0]["message"]["content"]
    assert last["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]
    assert (usage["choices"], usage["usage"]) == ([], whole["usage"])


def test_usage_is_streamed_only_if_asked_for(stocked: TestClient) -> None:
    assert all(chunk["choices"] for chunk in chunks(chat(stocked, stream=True)))


def test_the_last_user_message_is_the_question(stocked: TestClient) -> None:
    parts = [{"type": "text", "text": QUESTION}]
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Something else?"},
        {"role": "assistant", "content": "No."},
        {"role": "user", "content": parts},
    ]
    answer = chat(stocked, messages=messages).json()
    assert answer["choices"] == chat(stocked).json()["choices"]


def test_the_model_names_the_collection(stocked: TestClient) -> None:
    default, boats = chat(stocked).json(), chat(stocked, model="paramem@boats").json()
    assert default["choices"] != boats["choices"]
    listed = stocked.get("/v1/models").json()
    assert [model["id"] for model in listed["data"]] == ["paramem@boats", "paramem"]
    assert stocked.get("/v1/models/paramem@boats").json()["object"] == "model"
    assert stocked.get("/v1/models/paramem").json()["id"] == "paramem"


@pytest.mark.parametrize("model", ["gpt-4", "paramem@", "paramem@nowhere"])
def test_an_unknown_model_is_404(stocked: TestClient, model: str) -> None:
    assert error_of(chat(stocked, model=model), 404)
    assert error_of(stocked.get(f"/v1/models/{model}"), 404)


def test_what_query_takes_besides_goes_into_the_field_paramem(stocked: TestClient) -> None:
    answer = chat(stocked, paramem={"context": "none"}).json()
    assert answer["memories"] == []
    filtered = chat(stocked, paramem={"filters": {"document_id": "other"}}).json()
    assert filtered["memories"] == []


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": []},
        {"messages": [{"role": "system", "content": "only this"}]},
        {"messages": [{"role": "user", "content": " "}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        {"n": 2},
        {"tools": [{"type": "function"}]},
        {"logprobs": True},
        {"temperature": 3},
        {"max_tokens": 0},
        {"max_tokens": 1_000_000},
        {"paramem": {"top_q": 5}},
    ],
)
def test_what_would_change_the_answer_and_cannot_be_done_is_refused(
    stocked: TestClient, fields: dict[str, Any]
) -> None:
    assert error_of(chat(stocked, **fields), 422)["type"] == "invalid_request_error"


def test_what_clients_send_out_of_habit_is_ignored(stocked: TestClient) -> None:
    habits = {"top_p": 1.0, "user": "me", "stop": None, "presence_penalty": 0}
    assert chat(stocked, **habits).json()["choices"] == chat(stocked).json()["choices"]


def test_a_load_tester_gets_as_many_tokens_as_it_wants(stocked: TestClient) -> None:
    answer = chat(stocked, ignore_eos=True, max_tokens=50).json()
    assert answer["usage"]["completion_tokens"] == 50
    assert answer["choices"][0]["finish_reason"] == "length"
