"""The words of one collection's kept passages, ranked by BM25 (Robertson & Zaragoza 2009).

SQLite's FTS5 in memory: nothing on disk that could be stale or damaged. Made at the first search
by words, from the kept texts of the catalogue, then kept in step with it like the vector index.

A word that stands in many passages says little of any, and FTS5 visits each: a search leaves
such words out unless it finds too little without (four times faster for the same Recall@5,
experiments/LOG.md).
"""

from __future__ import annotations

import json
import re
import sqlite3
import threading
from collections.abc import Sequence

from memory_store.catalogue import collections, documents, memories
from memory_store.catalogue.collections import CollectionRow
from memory_store.index.vector_index import Found
from memory_store.storage import Storage

SCHEMA = "CREATE VIRTUAL TABLE passages USING fts5(text, tokenize = 'porter unicode61')"
WORD = re.compile(r"\w+")
COMMON = 0.3
"""Share of the passages above which a word is left out."""
MAX_COUNTED = 50_000
"""Words whose frequency is remembered."""


class LexicalIndex:
    """Thread-safe: one call at a time (SQLite works outside the interpreter's lock)."""

    def __init__(self, storage: Storage, row: CollectionRow) -> None:
        self._catalogue = storage.catalogue
        self._name = row.collection.name
        self._collection_id = row.collection_id
        self._lock = threading.Lock()
        self._words = sqlite3.connect(":memory:", check_same_thread=False)
        self._words.execute(SCHEMA)
        self._passages = 0
        self._counts: dict[str, int] = {}  # passages with a word
        self._seq = 0  # of the catalogue's change counter

    def search(self, query: str, top_k: int, allowed: Sequence[int] | None) -> Found:
        """(memory id, score) of the ``top_k`` best passages that share a word with the query.

        Args:
            allowed: only these memories; None means all.
        """
        words = list(dict.fromkeys(WORD.findall(query)))
        with self._lock:
            telling = self._telling(words)
            found = self._match(telling, top_k, allowed)
            if len(found) < top_k and len(telling) < len(words):
                found = self._match(words, top_k, allowed)
        return found

    def _match(self, words: Sequence[str], top_k: int, allowed: Sequence[int] | None) -> Found:
        if not words:
            return []
        some = "" if allowed is None else "AND rowid IN (SELECT value FROM json_each(?)) "
        given = () if allowed is None else (json.dumps(list(allowed)),)
        rows = self._words.execute(
            "SELECT rowid, -bm25(passages) FROM passages WHERE passages MATCH ? "
            f"{some}ORDER BY bm25(passages), rowid LIMIT ?",
            (" OR ".join(f'"{word}"' for word in words), *given, top_k),
        )
        return rows.fetchall()

    def _telling(self, words: Sequence[str]) -> list[str]:
        """Those that are not common."""
        if len(self._counts) > MAX_COUNTED:
            self._counts.clear()
        for word in words:
            if word not in self._counts:
                (self._counts[word],) = self._words.execute(
                    "SELECT count(*) FROM passages WHERE passages MATCH ?", (f'"{word}"',)
                ).fetchone()
        return [word for word in words if self._counts[word] <= COMMON * self._passages]

    def sync(self, change_seq: int) -> None:
        """Hold what was live at ``change_seq`` or later."""
        with self._lock:
            if self._seq < change_seq:
                self._catch_up()

    def _catch_up(self) -> None:
        with self._catalogue.read() as connection:
            row = collections.find(connection, self._name)
            if row.collection_id != self._collection_id:
                return  # deleted and made again meanwhile; the new one has its own index
            since = self._seq if self._seq >= row.purged_seq else 0
            added = documents.passages_added_since(connection, self._collection_id, since)
            gone = memories.removed_since(connection, self._collection_id, since)
        with self._words:  # all or nothing
            if since == 0:  # also where tombstones we had not seen were purged: begin again
                self._words.execute("DELETE FROM passages")
            self._words.executemany("DELETE FROM passages WHERE rowid = ?", [(i,) for i in gone])
            self._words.executemany("INSERT INTO passages (rowid, text) VALUES (?, ?)", added)
            count = self._words.execute("SELECT count(*) FROM passages_docsize")
            (self._passages,) = count.fetchone()
        self._counts.clear()
        self._seq = row.change_seq
