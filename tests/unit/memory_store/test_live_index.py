"""The index follows the catalogue, whoever writes it, and a bad index file is rebuilt."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest

from memory_store import CompressedIndex, MemoryStore, WriteMode
from memory_store.index import flat_index
from memory_store.shared_lock import SharedLock
from tests.unit.memory_store.making import key_of, open_store, work, write


def found(store: MemoryStore, text: str) -> list[str]:
    return [hit.memory.document_id for hit in store.select("default", key_of(text), 20)]


def fill(store: MemoryStore, *names: str) -> None:
    for name in names:
        write(store, f"text of {name}", name, mode=WriteMode.FAST)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def test_a_reader_sees_what_another_process_wrote_and_removed(home: Path) -> None:
    with open_store(home) as writer, open_store(home) as reader:
        assert found(reader, "text of a") == []
        fill(writer, "a", "b")
        assert sorted(found(reader, "text of a")) == ["a", "b"]
        writer.delete_document("default", "a")
        assert found(reader, "text of a") == ["b"]


def test_a_reader_that_missed_the_tombstones_of_a_compaction_catches_up(home: Path) -> None:
    with open_store(home) as writer, open_store(home) as reader:
        fill(writer, "a", "b", "c")
        assert len(found(reader, "text of a")) == 3
        writer.delete_document("default", "a")
        fill(writer, "b", "d")
        writer.compact()
        assert sorted(found(reader, "text of a")) == ["b", "c", "d"]
        assert found(reader, "text of d")[0] == "d"
        assert reader.check() == []


def test_a_saved_index_is_loaded_instead_of_rebuilt(home: Path) -> None:
    with open_store(home) as store:
        fill(store, "a", "b")
        found(store, "text of a")
        store.save_index()
        fill(store, "c")
    for shard in sorted((home / "shards").glob("*/*"))[:2]:
        shard.unlink()  # without the file, nothing of a and b could be indexed
    with open_store(home) as store:
        assert sorted(found(store, "text of a")) == ["a", "b", "c"]
        assert store.stats().index_rebuilds == 0


@pytest.mark.parametrize("at", [0, 3, 9, 30, 120, -40, -1])
def test_a_flipped_bit_in_the_index_file_makes_it_a_rebuild(home: Path, at: int) -> None:
    with open_store(home) as store:
        fill(store, "a", "b")
        found(store, "text of a")
        store.save_index()
    (path,) = (home / "index").iterdir()
    damaged = bytearray(path.read_bytes())
    damaged[at] ^= 4
    path.write_bytes(damaged)
    with open_store(home) as store:
        assert [problem.code for problem in store.check()] == ["index_damaged"]
        assert sorted(found(store, "text of a")) == ["a", "b"]
        assert store.stats().index_rebuilds == 1
        assert [problem.repaired for problem in store.check(repair=True)] == [True]
        assert store.check() == []


def test_a_cut_or_lost_index_file_is_rebuilt(home: Path) -> None:
    with open_store(home) as store:
        fill(store, "a", "b")
        found(store, "text of a")
        store.save_index()
    (path,) = (home / "index").iterdir()
    path.write_bytes(path.read_bytes()[:-50])
    with open_store(home) as store:
        assert sorted(found(store, "text of a")) == ["a", "b"]
    path.unlink()
    with open_store(home) as store:
        assert sorted(found(store, "text of a")) == ["a", "b"]


def test_the_index_of_another_history_is_not_believed(home: Path, tmp_path: Path) -> None:
    with open_store(home) as store:
        fill(store, "a")
    shutil.copytree(home, tmp_path / "copy")
    with open_store(tmp_path / "copy") as other:
        fill(other, "b")
        found(other, "text of b")
        other.save_index()
    with open_store(home) as store:
        fill(store, "c")
        shutil.copy(tmp_path / "copy" / "index" / "1.faiss", home / "index" / "1.faiss")
        assert [problem.code for problem in store.check()] == ["index_damaged"]
        assert sorted(found(store, "text of c")) == ["a", "c"]
        assert store.stats().index_rebuilds == 1


def test_an_index_older_than_a_compaction_is_rebuilt(home: Path) -> None:
    with open_store(home) as store:
        fill(store, "a", "b")
        found(store, "text of a")
        store.save_index()
        store.delete_document("default", "a")
        store.compact()
    with open_store(home) as store:
        assert store.check() == []
        assert found(store, "text of a") == ["b"]


def test_rebuilding_counts_the_vectors_and_saves_them(home: Path) -> None:
    with open_store(home) as store:
        fill(store, "a", "b", "c")
        assert store.rebuild_index("default") == 3
        assert store.rebuild_index() == 3
        assert store.stats().index_bytes > 0


def test_searching_while_writing_never_shows_a_replaced_memory(home: Path) -> None:
    with open_store(home) as store:
        fill(store, "a")
        seen: list[int] = []
        stop = threading.Event()

        def search() -> None:
            while not stop.is_set():
                hits = store.select("default", key_of("text of a"), 5)
                seen.append(len(hits))
                store.load_codes([hit.memory for hit in hits])

        threads = [threading.Thread(target=search) for _ in range(2)]
        for thread in threads:
            thread.start()
        for round_ in range(10):
            write(store, f"text {round_}", "a")
            work(store)
            if round_ % 4 == 3:
                store.compact()
        stop.set()
        for thread in threads:
            thread.join()
        assert set(seen) == {1}
        assert store.check() == []


def test_the_shared_lock_lets_readers_in_together_and_a_writer_alone() -> None:
    lock = SharedLock()
    together = threading.Barrier(2, timeout=10)
    inside: list[str] = []

    def read() -> None:
        with lock.shared():
            together.wait()

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()

    def write_() -> None:
        with lock.exclusive():
            inside.append("in")
            assert len(inside) == 1
            inside.pop()

    writers = [threading.Thread(target=write_) for _ in range(4)]
    with lock.shared():
        for writer in writers:
            writer.start()
        assert inside == []
    for writer in writers:
        writer.join()
    with lock.shared():
        assert inside == []


def test_a_collection_that_outgrew_its_index_gets_a_larger_one_and_saves_it(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flat_index, "FLAT_LIMIT", 16)
    names = [chr(ord("a") + number) for number in range(18)]
    with open_store(home) as store:
        fill(store, *names)
        before = found(store, "text of a")  # starts the growth
        (live,) = store._indexes.loaded().values()
        live.wait_grown()
        assert isinstance(live._index, CompressedIndex)
        assert found(store, "text of a") == before
        store.delete_document("default", "b")
        fill(store, "z")
        assert found(store, "text of z")[0] == "z"
        assert sorted(found(store, "text of a")) == ["a", *names[2:], "z"]
        assert store.check() == []
    for shard in sorted((home / "shards").glob("*/*"))[:18]:
        shard.unlink()  # without the saved file, only z could be indexed
    with open_store(home) as store:
        assert sorted(found(store, "text of a")) == ["a", *names[2:], "z"]
        assert store.stats().index_rebuilds == 0
