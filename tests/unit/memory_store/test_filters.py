"""Filters select exactly what they say, by type."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from memory_store import InvalidFilterError, MemoryStore, WriteMode, WriteRequest
from tests.unit.memory_store.making import key_of, write

DOCUMENTS: dict[str, dict[str, Any]] = {
    "d1": {"lang": "en", "year": 2024, "draft": True, "note": None},
    "d2": {"lang": "de", "year": 2024.0, "draft": False, "tags": ["a", "b"]},
    "d3": {"lang": "en", "year": "2024", "draft": 1},
}


@pytest.fixture
def filled(store: MemoryStore) -> MemoryStore:
    for name, metadata in DOCUMENTS.items():
        write(store, f"text of {name}", name, title=name * 2, metadata=metadata)
    return store


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, {"d1", "d2", "d3"}),
        ({"lang": "en"}, {"d1", "d3"}),
        ({"lang": ["en", "de"]}, {"d1", "d2", "d3"}),
        ({"lang": "en", "year": 2024}, {"d1"}),
        ({"year": 2024}, {"d1", "d2"}),
        ({"year": "2024"}, {"d3"}),
        ({"year": [2024, "2024"]}, {"d1", "d2", "d3"}),
        ({"draft": True}, {"d1"}),
        ({"draft": 1}, {"d3"}),
        ({"note": None}, {"d1"}),
        ({"tags": "a"}, set()),
        ({"lang": []}, set()),
        ({"nothing": "x"}, set()),
        ({"document_id": "d2"}, {"d2"}),
        ({"document_id": ["d2", "d3", "d9"], "lang": "en"}, {"d3"}),
        ({"title": "d1d1"}, {"d1"}),
        ({"lang' OR 1=1 --": "x"}, set()),
        ({"lang": "en' OR '1'='1"}, set()),
    ],
)
def test_select_and_delete_agree_on_what_matches(
    filled: MemoryStore, filters: dict[str, Any], expected: set[str]
) -> None:
    hits = filled.select("default", key_of("text of d1"), 10, filters=filters)
    assert {hit.memory.document_id for hit in hits} == expected
    if filters:
        assert filled.delete_documents("default", filters) == len(expected)
        left = {document.document_id for document in filled.documents().items}
        assert left == DOCUMENTS.keys() - expected


def test_a_filter_is_exact_however_far_the_match(store: MemoryStore) -> None:
    for number in range(40):
        write(store, f"text {number:04d}", f"d{number}", metadata={"n": number})
    query = key_of("text 0003")
    everything = store.select("default", query, 40)
    worst = everything[-1].memory.document_id
    hits = store.select("default", query, 5, filters={"document_id": worst})
    assert [hit.memory.document_id for hit in hits] == [worst]


@pytest.mark.parametrize("bad", [{"a": 1}, [["x"]], float("nan"), 1 << 70, {1, 2}, b"bytes"])
def test_what_cannot_be_compared_is_refused_by_name(store: MemoryStore, bad: Any) -> None:
    with pytest.raises(InvalidFilterError, match="'colour'") as refused:
        store.select("default", np.ones(8, np.float32), 1, filters={"colour": bad})
    assert refused.value.param == "filters.colour"


@pytest.mark.parametrize("key", ["document_id", "title"])
def test_reserved_keys_take_strings(store: MemoryStore, key: str) -> None:
    with pytest.raises(InvalidFilterError, match=key):
        store.select("default", np.ones(8, np.float32), 1, filters={key: 7})


def test_deleting_everything_by_accident_is_refused(filled: MemoryStore) -> None:
    with pytest.raises(InvalidFilterError, match="delete the collection"):
        filled.delete_documents("default", {})
    assert len(filled.documents().items) == 3


def test_filters_see_the_metadata_of_the_version_that_answers(store: MemoryStore) -> None:
    write(store, "old words.", "d1", mode=WriteMode.FAST, metadata={"v": "old"})
    store.submit(WriteRequest("new words!", "d1", metadata={"v": "new"}))
    query = key_of("old words.")
    assert store.select("default", query, 1, filters={"v": "new"}) == []
    (hit,) = store.select("default", query, 1, filters={"v": "old"})
    assert hit.metadata == {"v": "old"}
