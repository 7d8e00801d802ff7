"""Transactions, durability settings, migrations."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest

from memory_store import CorruptionError, DiskFullError, IncompatibleFormatError, StoreError
from memory_store.catalogue.database import Catalogue
from memory_store.catalogue.migrate import Migration, migrate, shipped_migrations


def counters(catalogue: Catalogue) -> list[tuple[str, float]]:
    with catalogue.read() as connection:
        return connection.execute("SELECT name, value FROM measures ORDER BY name").fetchall()


def add_all(catalogue: Catalogue, names: list[str]) -> None:
    with catalogue.write() as connection:
        for name in names:
            connection.execute("INSERT INTO measures VALUES (?, 1)", (name,))


def add(catalogue: Catalogue, name: str) -> None:
    add_all(catalogue, [name])


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    return Catalogue(tmp_path / "catalogue.db")


def test_a_commit_survives_power_loss_by_configuration(catalogue: Catalogue) -> None:
    connection = catalogue.connection()
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
    assert connection.execute("PRAGMA foreign_keys").fetchone() == (1,)
    catalogue.close()


def test_a_transaction_that_raises_leaves_nothing(catalogue: Catalogue) -> None:
    add(catalogue, "a")
    with pytest.raises(sqlite3.IntegrityError):
        add_all(catalogue, ["b", "a"])
    assert counters(catalogue) == [("a", 1.0)]
    add(catalogue, "c")
    assert counters(catalogue) == [("a", 1.0), ("c", 1.0)]
    catalogue.close()


def test_every_thread_writes_through_its_own_connection(catalogue: Catalogue) -> None:
    threads = [threading.Thread(target=add, args=(catalogue, f"t{n}")) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(counters(catalogue)) == 8
    catalogue.close()


def test_two_processes_worth_of_catalogues_see_each_others_commits(tmp_path: Path) -> None:
    first, second = (Catalogue(tmp_path / "catalogue.db") for _ in range(2))
    add(first, "a")
    add(second, "b")
    assert counters(first) == counters(second) == [("a", 1.0), ("b", 1.0)]
    first.close()
    second.close()


def test_closing_closes_the_connections_of_every_thread(catalogue: Catalogue) -> None:
    opened: list[sqlite3.Connection] = []
    thread = threading.Thread(target=lambda: opened.append(catalogue.connection()))
    thread.start()
    thread.join()
    catalogue.close()
    with pytest.raises(sqlite3.ProgrammingError):
        opened[0].execute("SELECT 1")
    with pytest.raises(StoreError, match="closed"):
        catalogue.connection()


def test_a_full_disk_undoes_the_transaction_and_is_named(catalogue: Catalogue) -> None:
    (pages,) = catalogue.connection().execute("PRAGMA page_count").fetchone()
    catalogue.connection().execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(DiskFullError, match="compact"):
        add_all(catalogue, [f"m{number}" * 20 for number in range(10_000)])
    assert counters(catalogue) == []
    catalogue.close()


def test_a_file_that_is_no_catalogue_is_named(tmp_path: Path) -> None:
    (tmp_path / "catalogue.db").write_bytes(b"not a database" * 100)
    with pytest.raises(CorruptionError, match="snapshot"):
        Catalogue(tmp_path / "catalogue.db")


def test_migrations_are_numbered_without_gaps_and_applied_once(tmp_path: Path) -> None:
    shipped = shipped_migrations()
    assert [migration.number for migration in shipped] == list(range(1, len(shipped) + 1))
    for _ in range(2):
        catalogue = Catalogue(tmp_path / "catalogue.db")
        with catalogue.read() as connection:
            rows = connection.execute("SELECT name, sha256 FROM migrations").fetchall()
        assert rows == [(migration.name, migration.sha256) for migration in shipped]
        catalogue.close()


def test_a_catalogue_of_a_newer_paramem_is_refused(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "catalogue.db", isolation_level=None)
    newer = Migration(len(shipped_migrations()) + 1, "9999_future.sql", "CREATE TABLE future (x);")
    migrate(connection, [*shipped_migrations(), newer])
    connection.close()
    with pytest.raises(IncompatibleFormatError, match="upgrade"):
        Catalogue(tmp_path / "catalogue.db")


def test_a_migration_that_was_edited_afterwards_is_refused(tmp_path: Path) -> None:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    migrate(connection, [Migration(1, "0001_a.sql", "CREATE TABLE a (x);")])
    with pytest.raises(CorruptionError, match="0001_a"):
        migrate(connection, [Migration(1, "0001_a.sql", "CREATE TABLE b (x);")])
    connection.close()


def test_a_migration_that_fails_leaves_nothing_of_any() -> None:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    good = Migration(1, "0001_a.sql", "CREATE TABLE a (x);")
    bad = Migration(2, "0002_b.sql", "CREATE TABLE b (x);\nCREATE TABLE nonsense;")
    with pytest.raises(sqlite3.OperationalError):
        migrate(connection, [good, bad])
    assert connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
    connection.close()


def test_closing_under_a_running_transaction_lets_it_finish(tmp_path: Path) -> None:
    catalogue = Catalogue(tmp_path / "catalogue.db")
    inside, closed = threading.Event(), threading.Event()
    refused: list[str] = []

    def work() -> None:
        with catalogue.write() as connection:
            inside.set()
            closed.wait(10)
            connection.execute("INSERT INTO measures VALUES ('late', 1)")
        try:
            catalogue.connection()
        except StoreError as error:
            refused.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    assert inside.wait(10)
    catalogue.close()
    closed.set()
    thread.join(10)
    assert refused == ["the store is closed"]
    again = Catalogue(tmp_path / "catalogue.db")
    rows = again.connection().execute("SELECT name FROM measures").fetchall()
    assert [tuple(row) for row in rows] == [("late",)]
    again.close()
