"""Collections are tenants: whatever is asked, with whatever key, no other collection answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.app import create_app
from server.keys import digest_of
from tests.integration.server.conftest import make_settings, opened_store, wait_for, write
from tests.integration.server.hash_worker import SPEC, HashWorker

COLLECTIONS = ("default", "notes", "notes2", "Notes", "wiki")
HOLDERS: dict[str, frozenset[str]] = {
    "operator": frozenset(COLLECTIONS),
    "reader": frozenset(COLLECTIONS),
    "notes": frozenset({"notes"}),
    "several": frozenset({"notes2", "wiki"}),
    "stranger": frozenset({"not-there-yet"}),
}
IDS = ("same", "other", "a/b", "default/same", "notes", "' OR 1=1 --", "%", "*")
TEXTS = ("The ferry leaves at seven.", "Otters sleep in kelp.", "Herons fish at dawn.")

ids = st.sampled_from(IDS)
values = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), ids, st.sampled_from(COLLECTIONS), st.text()
)
filters = st.none() | st.dictionaries(
    st.sampled_from(("document_id", "title", "home", "year", "collection", "collection_id"))
    | st.text(max_size=8),
    values | st.lists(values, max_size=4),
    max_size=4,
)
questions = st.fixed_dictionaries(
    {
        "query": st.sampled_from(TEXTS) | st.text(min_size=1, max_size=40),
        "collection": st.sampled_from((*COLLECTIONS, "not-there-yet", "nowhere")),
        "top_k": st.integers(1, 64),
        "selection": st.sampled_from(("cosine", "router", "attention")),
        "context": st.sampled_from((None, "memory", "text", "none")),
        "filters": filters,
        "max_new_tokens": st.just(1),
    }
)


def key_line(holder: str) -> str:
    opened = HOLDERS[holder]
    only = "" if opened == set(COLLECTIONS) else f" collections={','.join(sorted(opened))}"
    return f"{holder} sha256:{digest_of(holder.encode()).hex()} scopes=read,write{only}\n"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """The same ids, texts and metadata in every collection; ``home`` tells them apart."""
    own = make_settings(tmp_path_factory.mktemp("home"))
    key_file = tmp_path_factory.mktemp("keys") / "keys"
    key_file.write_text("".join(map(key_line, HOLDERS)))
    own = own.model_copy(update={"api_key_file": key_file})
    with opened_store(own) as store, HashWorker(store):
        for name in COLLECTIONS:
            store.put_collection(name, SPEC)
        with TestClient(create_app(own, store=store)) as client:
            client.headers["Authorization"] = "Bearer operator"
            wait_for(lambda: client.get("/version").json()["engine"])
            for name in COLLECTIONS:
                for n, document_id in enumerate(IDS):
                    fields: dict[str, Any] = {"metadata": {"home": name, "year": n}}
                    write(client, TEXTS[n % 3], id=document_id, collection=name, **fields)
            yield client


def as_chat(question: dict[str, Any]) -> dict[str, Any]:
    options = {name: question[name] for name in ("top_k", "selection", "context", "filters")}
    return {
        "model": f"paramem@{question['collection']}",
        "messages": [{"role": "user", "content": question["query"]}],
        "max_tokens": 1,
        "paramem": options,
    }


@given(question=questions, holder=st.sampled_from(tuple(HOLDERS)), in_chat=st.booleans())
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_no_query_reaches_into_another_collection(
    shared: TestClient, question: dict[str, Any], holder: str, in_chat: bool
) -> None:
    path, body = ("/v1/chat/completions", as_chat(question)) if in_chat else ("/query", question)
    answer = shared.post(path, json=body, headers={"Authorization": f"Bearer {holder}"})
    assert answer.status_code < 500, answer.text
    if answer.status_code == 200:
        assert question["collection"] in HOLDERS[holder]
        homes = {memory["metadata"]["home"] for memory in answer.json()["memories"]}
        assert homes <= {question["collection"]}
        assert len(answer.json()["memories"]) <= len(IDS)
    elif answer.status_code != 422:
        known = question["collection"] in HOLDERS[holder]
        assert answer.status_code == (404 if known or not limited(holder) else 403)


def limited(holder: str) -> bool:
    return HOLDERS[holder] != set(COLLECTIONS)


@given(
    holder=st.sampled_from(tuple(HOLDERS)),
    collection=st.none() | st.sampled_from(COLLECTIONS),
    document_id=st.none() | ids,
)
@settings(max_examples=60, deadline=None)
def test_no_list_and_no_document_is_of_another_collection(
    shared: TestClient, holder: str, collection: str | None, document_id: str | None
) -> None:
    path = "/memories" if document_id is None else f"/memories/{document_id}".replace("%", "%25")
    params = {} if collection is None else {"collection": collection}
    answer = shared.get(path, params=params, headers={"Authorization": f"Bearer {holder}"})
    wanted = collection or (None if document_id is None else "default")
    if wanted is not None and wanted not in HOLDERS[holder]:
        assert answer.status_code == 403
        return
    assert answer.status_code == 200
    found = answer.json()["items"] if document_id is None else [answer.json()]
    assert {item["metadata"]["home"] for item in found} <= ({wanted} if wanted else HOLDERS[holder])
    assert all(item["metadata"]["home"] == item["collection"] for item in found)
