"""The mark is where the log's last commit ends, never farther, whoever wrote it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from memory_store.catalogue.commit_mark import (
    FRAME_HEADER_BYTES,
    HEADER_BYTES,
    Mark,
    mark_of,
    read_mark,
)
from memory_store.catalogue.database import Catalogue, Connection
from memory_store.errors import CorruptionError

FRAME_BYTES = FRAME_HEADER_BYTES + 4096


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "catalogue.db"


@pytest.fixture
def pair(path: Path) -> Iterator[tuple[Catalogue, Catalogue]]:
    """Two on one file, as two processes have it."""
    with ExitStack() as stack:
        first, second = Catalogue(path), Catalogue(path)
        stack.callback(first.close)
        stack.callback(second.close)
        yield first, second


def log_of(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def write(catalogue: Catalogue, name: str, bytes_: int = 10) -> None:
    with catalogue.write() as connection:
        note(connection, name, bytes_)


def note(connection: Connection, name: str, bytes_: int) -> None:
    connection.execute("INSERT OR REPLACE INTO measures VALUES (?, ?)", (name * bytes_, 1.0))


def names(catalogue: Catalogue) -> set[str]:
    with catalogue.read() as connection:
        return {name[0] for (name,) in connection.execute("SELECT name FROM measures")}


def frames_of_this_log(path: Path) -> Mark:
    """Counted by their salts: behind them may be what is left of the log before."""
    data = log_of(path).read_bytes()
    salts = data[16:24]
    starts = range(HEADER_BYTES, len(data), FRAME_BYTES)
    return Mark(salts, sum(data[start + 8 : start + 16] == salts for start in starts))


def test_it_is_where_the_last_commit_ends(path: Path, pair: tuple[Catalogue, Catalogue]) -> None:
    for number in range(12):
        write(pair[number % 2], "abcdefghijkl"[number], bytes_=1 + 3000 * (number % 3))
        assert read_mark(log_of(path)) == frames_of_this_log(path)


@pytest.mark.parametrize("how", ["RESTART", "TRUNCATE"])
def test_it_follows_a_log_that_begins_anew(
    path: Path, pair: tuple[Catalogue, Catalogue], how: str
) -> None:
    for number in range(6):
        write(pair[number % 2], "abcdef"[number])
        before = read_mark(log_of(path))
        pair[0].connection().execute(f"PRAGMA wal_checkpoint({how})").fetchall()
        write(pair[number % 2], "ghijkl"[number])
        after = read_mark(log_of(path))
        assert after == frames_of_this_log(path)
        assert after.salts != before.salts


def test_a_transaction_without_changes_leaves_it(
    path: Path, pair: tuple[Catalogue, Catalogue]
) -> None:
    write(pair[0], "a")
    before = read_mark(log_of(path))
    with pair[0].write() as connection:
        connection.execute("SELECT 1").fetchall()
    assert read_mark(log_of(path)) == before


def test_it_does_not_count_what_is_not_committed(
    path: Path, tmp_path: Path, pair: tuple[Catalogue, Catalogue]
) -> None:
    catalogue, _ = pair
    write(catalogue, "a")
    catalogue.connection().execute("PRAGMA cache_size = 5")  # pages go to the log before the end
    with catalogue.write() as connection:
        for letter in "bcdefgh":
            note(connection, letter, 9000)
        assert frames_of_this_log(path).frames > read_mark(log_of(path)).frames
        killed = tmp_path / "killed"
        killed.mkdir()
        for file in tmp_path.glob("catalogue.db*"):
            shutil.copy(file, killed)
    reopened = Catalogue(killed / path.name)
    assert names(reopened) == {"a"}
    reopened.close()


def test_a_log_that_ends_before_it_is_refused_until_it_is_deleted(
    path: Path, tmp_path: Path, pair: tuple[Catalogue, Catalogue]
) -> None:
    write(pair[0], "a")
    write(pair[0], "b")
    killed = tmp_path / "killed"
    killed.mkdir()
    for file in tmp_path.glob("catalogue.db*"):
        shutil.copy(file, killed)
    log = log_of(killed / path.name)
    log.write_bytes(log.read_bytes()[:-FRAME_BYTES])
    with pytest.raises(CorruptionError, match=mark_of(log).name):
        Catalogue(killed / path.name)
    mark_of(log).unlink()
    reopened = Catalogue(killed / path.name)
    assert names(reopened) == {"a"}
    reopened.close()


def test_a_commit_does_not_fail_because_it_cannot_be_marked(
    path: Path, pair: tuple[Catalogue, Catalogue]
) -> None:
    mark_of(log_of(path)).unlink(missing_ok=True)
    mark_of(log_of(path)).mkdir()
    write(pair[0], "a")
    assert names(pair[1]) == {"a"}
    assert read_mark(log_of(path)) == Mark()
