"""``/write/batch`` against any bytes: an answer a line, and what was accepted is stored."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st

from server.app import create_app
from tests.integration.server.conftest import make_settings, opened_store, wait_for

LIMIT = 1024  # bytes of a document: lines above what that takes as JSON are refused
NDJSON = {"Content-Type": "application/x-ndjson"}

texts = st.text(min_size=1, max_size=20)
json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
documents = st.fixed_dictionaries(
    {"text": texts},
    optional={
        "id": texts | st.sampled_from(["a", "b", "../../etc/passwd"]),
        "title": texts,
        "metadata": st.dictionaries(texts, json_values, max_size=2),
        "collection": texts | st.just("default"),
        "mode": st.sampled_from(["fast", "fit", "auto", "slow"]),
        "unknown": st.just(1),
    },
)
lines = st.one_of(
    documents.map(lambda value: json.dumps(value).encode()),
    json_values.map(lambda value: json.dumps(value).encode()),
    st.binary(max_size=30).map(lambda raw: raw.replace(b"\n", b"")),
    st.sampled_from([b"", b" \t\r", b"[" * 2000, b'{"text": "\\ud800"}', b'{"text": NaN}']),
    st.just(b'{"text": "' + b"x" * (80 << 10) + b'"}'),
)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    own = make_settings(tmp_path_factory.mktemp("home"), max_document_bytes=LIMIT)
    with opened_store(own) as store, TestClient(create_app(own, store=store)) as client:
        wait_for(lambda: client.get("/version").json()["engine"])
        yield client


@given(sent=st.lists(lines, max_size=8), cut=st.integers(1, 5000), ends=st.booleans())
@settings(max_examples=60, deadline=None)
def test_every_line_has_its_answer_whatever_it_holds(
    client: TestClient, sent: list[bytes], cut: int, ends: bool
) -> None:
    body = b"\n".join(sent) + (b"\n" if ends else b"")
    chunks = (body[at : at + cut] for at in range(0, len(body), cut))
    answer = client.post("/write/batch", content=chunks, headers=NDJSON)
    assert answer.status_code == 202
    answers = [json.loads(line) for line in answer.text.split("\n")[:-1]]
    expected = [number for number, line in enumerate(sent, start=1) if line.strip()]
    assert len(answers) == len(expected)
    for number, result in zip(expected, answers, strict=True):
        if "error" in result and "line" in result:
            assert result["line"] == number
            assert set(result["error"]) == {"type", "code", "message", "param", "request_id"}
            assert result["error"]["type"] != "internal_error", result
        else:
            assert client.get(f"/jobs/{result['job_id']}").json()["status"] in (
                "queued",
                "cancelled",  # a later line of another batch replaced the document
            )
