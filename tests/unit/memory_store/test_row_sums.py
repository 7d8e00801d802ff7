"""A row of the catalogue that is not what was written: refused, found, mended if it can be."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from memory_store import (
    CorruptionError,
    MemoryStore,
    Snapshots,
    WriteMode,
    WriteRequest,
)
from memory_store.audit.bit_flips import mend_row
from memory_store.catalogue.row_sums import COLUMNS, row_sum
from tests.unit.memory_store.making import key_of, open_store, work, write

TEXT = "some words"


def damage(home: Path, statement: str) -> None:
    """Behind the back of the triggers, which live in the store's own connections."""
    with closing(sqlite3.connect(home / "catalogue.db")) as connection, connection:
        assert connection.execute(statement).rowcount == 1


@pytest.fixture
def home(tmp_path: Path) -> Path:
    with open_store(tmp_path) as store:
        write(store, TEXT, "d1", mode=WriteMode.FAST, metadata={"year": 2026})
        request = WriteRequest("waiting", "d2", mode=WriteMode.FAST)
        store.submit(request, idempotency_key="key")
    return tmp_path


def test_every_column_is_summed(home: Path) -> None:
    with closing(sqlite3.connect(home / "catalogue.db")) as connection:
        for table, columns in COLUMNS.items():
            there = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
            assert sorted(there) == sorted([*columns, "row_sum"])


ASKED: dict[str, tuple[str, Callable[[MemoryStore], object]]] = {
    "title": (
        "UPDATE documents SET title = 'other' WHERE document_id = 'd1'",
        lambda store: store.document("default", "d1"),
    ),
    "deleted": (
        "UPDATE documents SET is_current = 0 WHERE document_id = 'd1'",
        lambda store: store.document("default", "d1"),
    ),
    "listed": (
        "UPDATE documents SET num_chars = 3 WHERE document_id = 'd1'",
        lambda store: store.documents(),
    ),
    "place": (
        "UPDATE memories SET text_end = text_end - 1",
        lambda store: store.select("default", key_of(TEXT), 1),
    ),
    "document": (
        "UPDATE memories SET document_key = (SELECT max(document_key) FROM documents)",
        lambda store: store.select("default", key_of(TEXT), 1),
    ),
    "title of a hit": (
        "UPDATE documents SET title = 'other' WHERE document_id = 'd1'",
        lambda store: store.select("default", key_of(TEXT), 1),
    ),
    "tombstone": (
        "UPDATE memories SET removed_seq = 1",
        lambda store: store.document("default", "d1"),
    ),
    "job": (
        "UPDATE jobs SET status = 'failed' WHERE document_id = 'd2'",
        lambda store: store.jobs.list(),
    ),
    "collection": (
        "UPDATE collections SET code_format = 'int8'",
        lambda store: store.collection("default"),
    ),
    "name": (
        "UPDATE collections SET name = 'Default'",
        lambda store: store.collection("default"),
    ),
    "key": (
        "UPDATE idempotency_keys SET request_hash = 'x'",
        lambda store: store.submit(WriteRequest("waiting", "d2"), idempotency_key="key"),
    ),
    "text of another": (
        "UPDATE texts SET body = (SELECT body FROM texts ORDER BY document_key DESC LIMIT 1)"
        " WHERE document_key = 1",
        lambda store: store.document_text("default", "d1"),
    ),
}


@pytest.mark.parametrize("what", list(ASKED))
def test_a_changed_row_is_refused_and_found(home: Path, what: str) -> None:
    statement, ask = ASKED[what]
    damage(home, statement)
    with MemoryStore.open(home) as store:
        try:
            hidden = ask(store) == []  # a memory may be left out instead, and counted
        except CorruptionError:
            hidden = True
        assert hidden
        assert store.check()


def test_a_damaged_row_is_neither_signed_again_nor_deleted(home: Path) -> None:
    damage(home, "UPDATE jobs SET max_attempts = 9 WHERE document_id = 'd2'")
    damage(home, "UPDATE memories SET removed_seq = 1")
    with MemoryStore.open(home) as store:
        with pytest.raises(CorruptionError, match=r"row of jobs .* doctor --repair"):
            work(store)
        with pytest.raises(CorruptionError, match="row of memories"):
            store.compact()


FLIPS = [
    "UPDATE documents SET title = 'T1tle' WHERE document_id = 'd1'",  # one bit from "Tqtle"
    "UPDATE documents SET is_current = 0 WHERE document_id = 'd1'",
    "UPDATE documents SET metadata = CAST(x'7b2279656172223a20b23032367d' AS TEXT)"
    " WHERE document_id = 'd1'",  # no UTF-8 any more
    "UPDATE memories SET shard_row = 64",
    "UPDATE memories SET row_sum = (row_sum | 4) - (row_sum & 4)",
    "UPDATE collections SET slots = 3",
    "UPDATE shards SET num_rows = num_rows + 1024",
    "UPDATE jobs SET priority = 1 WHERE document_id = 'd2'",
]


@pytest.mark.parametrize("statement", FLIPS)
def test_one_flipped_bit_is_put_back(tmp_path: Path, statement: str) -> None:
    with open_store(tmp_path) as store:
        request = WriteRequest(
            TEXT, "d1", title="Tqtle", metadata={"year": 2026}, mode=WriteMode.FAST
        )
        store.submit(request)
        work(store)
        store.submit(WriteRequest("waiting", "d2", mode=WriteMode.FAST))
        before = store.documents().items
    damage(tmp_path, statement)
    with MemoryStore.open(tmp_path) as store:
        assert store.check()
        assert all(problem.repaired for problem in store.check(repair=True))
        assert store.check() == []
        assert store.documents().items == before
        assert len(store.select("default", key_of(TEXT), 1)) == 1


def test_a_memory_that_cannot_be_mended_is_written_again(home: Path) -> None:
    damage(home, "UPDATE memories SET stats = '{}', num_tokens = 77")
    with MemoryStore.open(home) as store:
        assert store.select("default", key_of(TEXT), 1) == []
        assert all(problem.repaired for problem in store.check(repair=True))
        work(store)
        hits = store.select("default", key_of(TEXT), 5)
        assert "d1" in {hit.memory.document_id for hit in hits}
        assert store.check() == []


def test_a_document_that_cannot_be_mended_is_named_and_stays_refused(home: Path) -> None:
    damage(home, "UPDATE documents SET title = 'quite another' WHERE document_id = 'd1'")
    with MemoryStore.open(home) as store:
        (problem,) = store.check(repair=True)
        assert (problem.code, problem.repaired) == ("row_damaged", False)
        assert "snapshot" in problem.repair
        with pytest.raises(CorruptionError):
            store.document("default", "d1")
        with pytest.raises(CorruptionError, match="no snapshot was taken"):
            store.snapshot(Snapshots(home, None))


def test_what_filters_search_is_derived_again(home: Path) -> None:
    damage(home, "UPDATE fields SET value = 1999")
    with MemoryStore.open(home, mend=False) as store:
        assert {problem.code for problem in store.check()} == {"fields_wrong"}
        store.check(repair=True)
        assert store.check() == []
        assert len(store.select("default", key_of(TEXT), 1, filters={"year": 2026})) == 1


def flip_in_an_index(home: Path) -> None:
    """Of the catalogue: the job of d2 is no longer found by its document."""
    with closing(sqlite3.connect(home / "catalogue.db")) as connection:
        (page,) = connection.execute(
            "SELECT rootpage FROM sqlite_schema WHERE name = 'jobs_by_document'"
        ).fetchone()
    path = home / "catalogue.db"
    data = bytearray(path.read_bytes())
    at = data.rindex(b"d2", (page - 1) * 4096, page * 4096)
    data[at] ^= 1
    path.write_bytes(data)


def test_indexes_of_the_catalogue_are_made_again(home: Path) -> None:
    flip_in_an_index(home)
    with MemoryStore.open(home, mend=False) as store:
        assert [problem.code for problem in store.check()] == ["catalogue_index_damaged"]
        assert all(problem.repaired for problem in store.check(repair=True))
        assert store.check() == []


def test_what_is_derived_is_mended_before_a_home_is_served(home: Path) -> None:
    flip_in_an_index(home)
    damage(home, "UPDATE fields SET value = 1999")
    with MemoryStore.open(home) as store:
        assert len(store.select("default", key_of(TEXT), 1, filters={"year": 2026})) == 1
        assert store.stats().index_rebuilds >= 2
        assert store.check() == []


def test_nothing_is_derived_from_a_damaged_row(home: Path) -> None:
    damage(home, """UPDATE documents SET metadata = '{"year": 1999}' WHERE document_id = 'd1'""")
    for mend in (True, False):
        with MemoryStore.open(home, mend=mend) as store:
            assert store.select("default", key_of(TEXT), 1, filters={"year": 1999}) == []


def test_a_row_that_is_no_text_does_not_keep_a_home_shut(home: Path) -> None:
    damage(home, "UPDATE documents SET title = CAST(x'ff' AS TEXT) WHERE document_id = 'd1'")
    with MemoryStore.open(home) as store:
        assert store.document("default", "d2").document_id == "d2"
        with pytest.raises(CorruptionError):
            store.document("default", "d1")


def test_a_lost_text_is_named_and_the_document_goes_on_without_it(home: Path) -> None:
    damage(home, "DELETE FROM texts WHERE document_key = 1")
    with MemoryStore.open(home) as store:
        with pytest.raises(CorruptionError, match="write the document again"):
            store.document_text("default", "d1")
        assert [problem.code for problem in store.check(repair=True)] == ["text_damaged"]
        assert store.document_text("default", "d1") is None
        assert store.check() == []


def test_nothing_is_mended_that_is_two_bits_away() -> None:
    row = [7, "text", 1.5, None, 2.0]
    assert mend_row([6, "text", 1.5, None, 2.0], row_sum(*row)) == row
    assert mend_row([7, "\udcf4ext", 1.5, None, 2.0], row_sum(*row)) == row
    assert mend_row([7, "text", 1.5, None, 3.0], row_sum(*row)) == row
    assert mend_row(row, row_sum(*row) ^ 1 << 40) == row
    assert mend_row([4, "text", 1.5, None, 2.0], row_sum(*row)) is None
