"""Selection by words follows the catalogue, and finds only what was kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from memory_store import MemoryStore, WriteMode
from tests.unit.memory_store.making import open_store, write


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def put(store: MemoryStore, document_id: str, text: str, **fields: Any) -> None:
    write(store, text, document_id, mode=WriteMode.FAST, **fields)


def found(store: MemoryStore, query: str, top_k: int = 20, **options: Any) -> list[str]:
    hits = store.select_by_words("default", query, top_k, **options)
    return [hit.memory.document_id for hit in hits]


def test_the_passage_with_the_rarer_word_comes_first(home: Path) -> None:
    with open_store(home) as store:
        for name in ("a", "b", "c"):
            put(store, name, "the cat")
        put(store, "rare", "the lynx")
        assert found(store, "the lynx") == ["rare", "a", "b", "c"]
        assert found(store, "the lynx", top_k=1) == ["rare"]
        assert found(store, "dog") == []


def test_inflected_words_and_any_spelling_of_case_are_found(home: Path) -> None:
    with open_store(home) as store:
        put(store, "a", "two boats")
        assert found(store, "BOAT?") == ["a"]


@pytest.mark.parametrize("query", ["", "?!", '"', 'NEAR("a" OR', "a* AND -b", "col:x", "\x00"])
def test_no_query_is_taken_for_syntax(home: Path, query: str) -> None:
    with open_store(home) as store:
        put(store, "a", "zebra")
        assert found(store, query) == []


def test_replaced_deleted_and_compacted_texts_are_not_found(home: Path) -> None:
    with open_store(home) as writer, open_store(home) as reader:
        put(writer, "a", "old words")
        put(writer, "b", "old boats")
        assert found(reader, "old") == ["a", "b"]
        put(writer, "a", "new words")
        assert found(reader, "old") == ["b"]
        writer.delete_document("default", "b")
        writer.compact()
        put(writer, "c", "old again")
        assert found(reader, "old") == ["c"]
        assert found(reader, "new") == ["a"]


def test_a_text_that_was_not_kept_is_not_found(home: Path) -> None:
    with open_store(home) as store:
        put(store, "secret", "lynx one", keep_text=False)
        put(store, "open", "lynx two")
        assert found(store, "lynx") == ["open"]


def test_filters_restrict_what_is_found(home: Path) -> None:
    with open_store(home) as store:
        put(store, "a", "lynx one", metadata={"year": 1})
        put(store, "b", "lynx two", metadata={"year": 2})
        assert found(store, "lynx", filters={"year": 2}) == ["b"]
        assert found(store, "lynx", filters={"year": 3}) == []


def test_a_collection_made_again_starts_empty(home: Path) -> None:
    with open_store(home) as store:
        put(store, "a", "lynx")
        assert found(store, "lynx") == ["a"]
        spec = store.collection("default").spec
        store.delete_collection("default")
        store.put_collection("default", spec)
        assert found(store, "lynx") == []
