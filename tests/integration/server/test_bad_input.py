"""Whatever is sent: a clear error that names the field, nothing lost, the process alive."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fastapi.testclient import TestClient

from memory_store.store import MemoryStore
from tests.integration.server.conftest import MakeClient, error_of

JSON = {"Content-Type": "application/json"}
Case = tuple[Any, int, str, str | None]

# The body, then the status, code and param it is refused with.
WRITES: dict[str, Case] = {
    "no text": ({}, 422, "missing", "text"),
    "empty text": ({"text": ""}, 422, "text_empty", "text"),
    "white text": ({"text": " \n\t "}, 422, "text_empty", "text"),
    "NUL": ({"text": "a\0b"}, 422, "text_nul", "text"),
    "binary": ({"text": "\x01\x02\x03 PNG \x1a"}, 422, "text_binary", "text"),
    "text of wrong type": ({"text": 5}, 422, "string_type", "text"),
    "null text": ({"text": None}, 422, "string_type", "text"),
    "unknown field": ({"text": "x", "colection": "y"}, 422, "extra_forbidden", "colection"),
    "id of wrong type": ({"text": "x", "id": 7}, 422, "string_type", "id"),
    "empty id": ({"text": "x", "id": ""}, 422, "line_invalid", "id"),
    "long id": ({"text": "x", "id": "i" * 257}, 422, "string_too_long", "id"),
    "id with a control character": ({"text": "x", "id": "a\x07"}, 422, "line_invalid", "id"),
    "id that is a route": (
        {"text": "x", "id": "a/reconstruction"},
        422,
        "document_id_reserved",
        "id",
    ),
    "collection name": (
        {"text": "x", "collection": "../etc"},
        422,
        "string_pattern_mismatch",
        "collection",
    ),
    "mode": ({"text": "x", "mode": "slow"}, 422, "literal_error", "mode"),
    "keep_text as text": ({"text": "x", "keep_text": "yes"}, 422, "bool_type", "keep_text"),
    "keep_text as number": ({"text": "x", "keep_text": 1}, 422, "bool_type", "keep_text"),
    "nested metadata": (
        {"text": "x", "metadata": {"a": {"b": 1}}},
        422,
        "metadata_value",
        "metadata",
    ),
    "list in a list": ({"text": "x", "metadata": {"a": [[1]]}}, 422, "metadata_value", "metadata"),
    "metadata keys": (
        {"text": "x", "metadata": {str(n): n for n in range(65)}},
        422,
        "metadata_keys",
        "metadata",
    ),
    "large metadata": (
        {"text": "x", "metadata": {"a": "y" * 17_000}},
        422,
        "metadata_too_large",
        "metadata",
    ),
    "metadata of wrong type": ({"text": "x", "metadata": []}, 422, "dict_type", "metadata"),
    "empty metadata key": ({"text": "x", "metadata": {"": 1}}, 422, "line_invalid", "metadata"),
    "title": ({"text": "x", "title": "a\nb"}, 422, "line_invalid", "title"),
    "not an object": ([1, 2], 422, "model_attributes_type", None),
    "NaN": (b'{"text": "x", "metadata": {"a": NaN}}', 400, "invalid_json", None),
    "Infinity": (b'{"text": "x", "metadata": {"a": -Infinity}}', 400, "invalid_json", None),
    "infinite float": (
        b'{"text": "x", "metadata": {"a": 1e999}}',
        422,
        "metadata_value",
        "metadata",
    ),
    "lone surrogate": (b'{"text": "a\\ud800b"}', 422, "lone_surrogate", "text"),
    "lone surrogate inside": (
        b'{"text": "x", "metadata": {"a": "\\udfff"}}',
        422,
        "lone_surrogate",
        "metadata",
    ),
    "not UTF-8": (b'{"text": "\xff\xfe"}', 400, "not_utf8", None),
    "UTF-16": ('{"text": "x"}'.encode("utf-16"), 400, "not_utf8", None),
    "broken JSON": (b'{"text": "x"', 400, "invalid_json", None),
    "empty body": (b"", 422, "missing", None),
    "deep JSON": (b"[" * 100_000, 400, "invalid_json", None),
    "enormous integer": (b'{"text": "x", "id": ' + b"9" * 5000 + b"}", 400, "invalid_json", None),
}
QUERIES: dict[str, Case] = {
    "no query": ({}, 422, "missing", "query"),
    "empty query": ({"query": " "}, 422, "text_empty", "query"),
    "NUL": ({"query": "a\0"}, 422, "text_nul", "query"),
    "long query": ({"query": "x" * 40_000}, 422, "string_too_long", "query"),
    "top_k 0": ({"query": "x", "top_k": 0}, 422, "greater_than_equal", "top_k"),
    "top_k 10^6": ({"query": "x", "top_k": 10**6}, 422, "less_than_equal", "top_k"),
    "top_k as text": ({"query": "x", "top_k": "5"}, 422, "int_type", "top_k"),
    "top_k as float": ({"query": "x", "top_k": 5.5}, 422, "int_type", "top_k"),
    "top_k as boolean": ({"query": "x", "top_k": True}, 422, "int_type", "top_k"),
    "NaN temperature": (b'{"query": "x", "temperature": NaN}', 400, "invalid_json", None),
    "infinite temperature": (
        b'{"query": "x", "temperature": 1e999}',
        422,
        "finite_number",
        "temperature",
    ),
    "negative temperature": (
        {"query": "x", "temperature": -1},
        422,
        "greater_than_equal",
        "temperature",
    ),
    "max_new_tokens 0": (
        {"query": "x", "max_new_tokens": 0},
        422,
        "greater_than_equal",
        "max_new_tokens",
    ),
    "max_new_tokens 10^9": (
        {"query": "x", "max_new_tokens": 10**9},
        422,
        "less_than_equal",
        "max_new_tokens",
    ),
    "seed": ({"query": "x", "seed": -1}, 422, "greater_than_equal", "seed"),
    "unknown field": ({"query": "x", "k": 5}, 422, "extra_forbidden", "k"),
    "unknown selection": ({"query": "x", "selection": "tfidf"}, 422, "literal_error", "selection"),
    "context": ({"query": "x", "context": "all"}, 422, "literal_error", "context"),
    "filters": ({"query": "x", "filters": {"a": {"$gt": 1}}}, 422, "metadata_value", "filters"),
    "unknown collection": ({"query": "x", "collection": "nowhere"}, 404, "not_found", "collection"),
    "unknown read_after": ({"query": "x", "read_after": "nope"}, 404, "not_found", "read_after"),
    "stream as text": ({"query": "x", "stream": "true"}, 422, "bool_type", "stream"),
}


def send(client: TestClient, path: str, body: Any) -> Any:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return client.post(path, content=content, headers=JSON)


@pytest.mark.parametrize("case", WRITES.values(), ids=WRITES)
def test_a_bad_write_is_refused_and_stores_nothing(
    client: TestClient, store: MemoryStore, case: Case
) -> None:
    body, status, code, param = case
    error = error_of(send(client, "/write", body), status)
    assert (error["code"], error["param"]) == (code, param)
    assert param is None or param.split(".")[0] in error["message"]
    assert store.documents().items == []
    assert client.post("/write", json={"text": "still alive"}).status_code == 202


@pytest.mark.parametrize("case", QUERIES.values(), ids=QUERIES)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_bad_query_is_a_plain_error_streamed_or_not(
    client: TestClient, case: Case, stream: bool
) -> None:
    body, status, code, param = case
    if isinstance(body, dict) and "stream" not in body:
        body = {**body, "stream": stream}
    error = error_of(send(client, "/query", body), status)
    assert (error["code"], error["param"]) == (code, param)
    assert client.post("/query", json={"query": "still alive"}).status_code == 200


def test_several_problems_are_told_at_once(client: TestClient) -> None:
    error = error_of(client.post("/query", json={"top_k": 0, "temperature": 9}), 422)
    for field in ("query", "top_k", "temperature"):
        assert field in error["message"]


def test_the_text_limit_is_exact_and_counts_bytes(make_client: MakeClient) -> None:
    client = make_client(max_document_bytes=1024)
    assert client.post("/write", json={"text": "é" * 512}).status_code == 202
    error = error_of(client.post("/write", json={"text": "é" * 512 + "x"}), 413)
    assert (error["code"], error["param"]) == ("document_too_large", "text")
    assert "PARAMEM_MAX_DOCUMENT_BYTES" in error["message"]


def test_a_text_of_the_allowed_size_fits_whatever_its_escapes(make_client: MakeClient) -> None:
    client = make_client(max_document_bytes=300_000)
    text = "я" * 150_000
    assert client.post("/write", content=json.dumps({"text": text}), headers=JSON).is_success


def test_a_body_far_above_the_limit_is_refused_before_it_is_parsed(client: TestClient) -> None:
    body = b'{"text": "' + b"x" * (10 << 20)  # never closed: parsing it would be a 400
    assert error_of(send(client, "/write", body), 413)["code"] == "body_too_large"


def test_a_few_control_characters_do_not_make_a_text_binary(client: TestClient) -> None:
    text = "A page of an old report.\f" * 20 + "\x1b[1mbold\x1b[0m"
    assert client.post("/write", json={"text": text}).status_code == 202


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-www-form-urlencoded"])
def test_json_must_be_announced_as_json(client: TestClient, content_type: str | None) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    answer = client.post("/write", content=b'{"text": "x"}', headers=headers)
    error = error_of(answer, 415)
    assert "application/json" in error["message"]


@pytest.mark.parametrize(
    ("path", "param"),
    [
        ("/memories?limit=0", "limit"),
        ("/memories?limit=many", "limit"),
        ("/memories?cursor=rubbish", "cursor"),
        ("/jobs?status=lost", "status"),
        ("/jobs?cursor=rubbish", "cursor"),
        ("/collections?limit=100000", "limit"),
        ("/memories/x/reconstruction?max_new_tokens=0", "max_new_tokens"),
        ("/memories/x/reconstruction?max_new_tokens=1000000", "max_new_tokens"),
    ],
)
def test_a_bad_query_parameter_is_named(client: TestClient, path: str, param: str) -> None:
    assert error_of(client.get(path), 422)["param"] == param


@pytest.mark.parametrize("timeout_s", ["nan", "inf", "-1", "601", "soon"])
def test_a_bad_wait_is_refused_and_nothing_is_written(
    client: TestClient, store: MemoryStore, timeout_s: str
) -> None:
    answer = client.post(f"/write?wait=true&timeout_s={timeout_s}", json={"text": "x"})
    assert error_of(answer, 422)["param"] == "timeout_s"
    assert store.documents().items == []


@pytest.mark.parametrize("key", ["", "k" * 256])
def test_a_bad_idempotency_key_is_refused(client: TestClient, key: str) -> None:
    answer = client.post("/write", json={"text": "x"}, headers={"Idempotency-Key": key})
    assert error_of(answer, 422)["param"] == "idempotency-key"


@pytest.mark.parametrize("filter", ["", "[]", "5", "{", '{"a": NaN}', "{}", '{"a": {"b": 1}}'])
def test_a_bad_delete_filter_deletes_nothing(
    client: TestClient, store: MemoryStore, filter: str
) -> None:
    client.post("/write", json={"text": "kept", "id": "kept", "metadata": {"a": 1}})
    answer = client.delete("/memories", params={"filter": filter})
    assert answer.status_code in (400, 422)
    assert "filter" in error_of(answer, answer.status_code)["message"]
    assert len(store.documents().items) == 1


def test_a_delete_without_a_filter_is_refused(client: TestClient) -> None:
    assert error_of(client.delete("/memories"), 422)["param"] == "filter"
