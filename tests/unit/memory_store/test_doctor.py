"""Whatever is broken on purpose is found, and repaired when it can be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from memory_store import (
    CorruptionError,
    JobStatus,
    MemoryStore,
    StoreError,
    Tier,
    WriteMode,
    WriteRequest,
)
from tests.unit.memory_store.making import WORKER, key_of, open_store, work, write


def only_shard(home: Path) -> Path:
    (path,) = (home / "shards").glob("*/*")
    return path


def flip(path: Path, at: int) -> None:
    damaged = bytearray(path.read_bytes())
    damaged[at] ^= 1
    path.write_bytes(damaged)


def sql(store: MemoryStore, statement: str) -> None:
    with store._storage.catalogue.write() as connection:
        connection.execute(statement)


def data_start(path: Path) -> int:
    return 8 + int.from_bytes(path.read_bytes()[:8], "little")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


DAMAGES: dict[str, Callable[[Path], object]] = {
    "code": lambda path: flip(path, data_start(path)),
    "key": lambda path: flip(path, -1),
    "header": lambda path: flip(path, 8),
    "truncated": cut,
    "missing": Path.unlink,
}


@pytest.mark.parametrize("damage", list(DAMAGES))
def test_a_damaged_memory_is_never_served_and_written_again(tmp_path: Path, damage: str) -> None:
    with open_store(tmp_path) as store:
        write(store, "some words", "d1", mode=WriteMode.FAST)
        memory = store.document("default", "d1").memories[0]
    DAMAGES[damage](only_shard(tmp_path))
    with open_store(tmp_path) as store:
        if damage == "key":
            assert store.select("default", key_of("some words"), 1) == []
        else:
            with pytest.raises(CorruptionError, match="doctor"):
                store.load_codes([memory])
        assert store.stats().checksum_failures == 1
        (problem,) = store.check()
        assert (problem.code, problem.repaired) == ("shard_damaged", False)
        (problem,) = store.check(repair=True)
        assert problem.repaired
        assert store.check() == []
        assert [job.status for job in work(store)] == [JobStatus.SUCCEEDED]
        (hit,) = store.select("default", key_of("some words"), 5)
        assert len(store.load_codes([hit.memory])) == 1
        assert store.check() == []


def test_the_sound_memories_of_a_damaged_shard_survive(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        for name in ("d1", "d2", "d3"):
            store.submit(WriteRequest(f"text of {name}", name, mode=WriteMode.FAST))
        work(store)
        flip(only_shard(tmp_path), data_start(only_shard(tmp_path)))
        assert store.check(repair=True)[0].repaired
        assert store.check() == []
        assert [job.document_id for job in store.jobs.list(status=JobStatus.QUEUED).items] == ["d1"]
        hits = store.select("default", key_of("text of d2"), 5)
        assert sorted(hit.memory.document_id for hit in hits) == ["d2", "d3"]
        assert len(store.load_codes([hit.memory for hit in hits])) == 2


def test_a_damaged_memory_without_text_is_removed_and_reported_as_lost(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        write(store, "some words", "d1", mode=WriteMode.FAST, keep_text=False)
        flip(only_shard(tmp_path), data_start(only_shard(tmp_path)))
        (problem,) = store.check(repair=True)
        assert not problem.repaired
        assert store.jobs.depth() == 0
        assert store.select("default", key_of("some words"), 1) == []
        assert store.check() == []


def test_a_damaged_refined_memory_is_refined_again(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        write(store, "some words", "d1")
        work(store)
        store.compact()
        flip(only_shard(tmp_path), data_start(only_shard(tmp_path)))
        store.check(repair=True)
        assert [job.tier for job in work(store)] == [Tier.FAST, Tier.FIT]


def test_damage_in_a_row_nobody_uses_costs_no_memory(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        for name in ("d1", "d2"):
            store.submit(WriteRequest(f"text of {name}", name, mode=WriteMode.FAST))
        work(store)
        store.delete_document("default", "d1")
        flip(only_shard(tmp_path), data_start(only_shard(tmp_path)))
        assert [problem.repaired for problem in store.check(repair=True)] == [True]
        assert store.check() == []
        assert store.jobs.depth() == 0
        assert len(store.select("default", key_of("text of d2"), 5)) == 1


def test_leftovers_of_a_crash_are_found_and_swept(store: MemoryStore, tmp_path: Path) -> None:
    write(store, "some words", "d1", mode=WriteMode.FAST)
    shards = tmp_path / "home" / "shards" / "1"
    (shards / "orphan.safetensors").write_bytes(b"x")
    (shards / ".torn.safetensors.0.tmp").write_bytes(b"x")
    (tmp_path / "home" / "index" / ".1.faiss.0.tmp").write_bytes(b"x")
    codes = sorted(problem.code for problem in store.check())
    assert codes == ["file_unfinished", "file_unfinished", "shard_orphan"]
    assert all(problem.repaired for problem in store.check(repair=True))
    assert len(list(shards.iterdir())) == 1
    assert store.check() == []


def test_leftovers_younger_than_the_grace_period_may_be_in_use(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        write(store, "some words", "d1")
        orphan = tmp_path / "shards" / "1" / "orphan.safetensors"
        orphan.write_bytes(b"x")
        assert store.check(repair=True) == []
    with open_store(tmp_path):
        assert orphan.exists()
    with open_store(tmp_path, orphan_grace_s=0.0):
        assert not orphan.exists()


def test_a_commit_whose_shard_was_swept_up_fails_cleanly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_store(tmp_path) as store:
        store.submit(WriteRequest("some words", "d1", mode=WriteMode.FAST))
        seal = store._storage.shards.seal

        def seal_and_sleep(*args: object) -> object:
            shard = seal(*args)  # type: ignore[arg-type]
            MemoryStore.open(tmp_path, orphan_grace_s=0.0).close()
            return shard

        monkeypatch.setattr(store._storage.shards, "seal", seal_and_sleep)
        with pytest.raises(StoreError, match="gone before its commit"):
            work(store)
        monkeypatch.undo()
        store.jobs.release(WORKER)
        assert [job.status for job in work(store)] == [JobStatus.SUCCEEDED]
        assert store.check() == []


BREAKS = {
    "job_outdated": "UPDATE jobs SET version = version + 1 WHERE document_id = 'queued'",
    "job_without_text": "DELETE FROM texts WHERE document_key ="
    " (SELECT document_key FROM documents WHERE document_id = 'queued')",
    "job_without_lease": "UPDATE jobs SET status = 'running' WHERE document_id = 'queued'",
    "document_lost": "DELETE FROM jobs WHERE document_id = 'queued'",
    "counter_wrong": "UPDATE collections SET num_memories = num_memories + 1",
    "memory_undead": "UPDATE documents SET is_current = 0 WHERE document_id = 'written'",
}


@pytest.mark.parametrize("code", list(BREAKS))
def test_rows_that_contradict_each_other_are_found_and_repaired(
    store: MemoryStore, code: str
) -> None:
    write(store, "some words", "written", mode=WriteMode.FAST)
    store.submit(WriteRequest("text", "queued"))
    assert store.check() == []
    sql(store, BREAKS[code])
    assert code in {problem.code for problem in store.check()}
    assert all(problem.repaired for problem in store.check(repair=True))
    # a repair may bring to light what it could not know: the next round mends that
    store.check(repair=True)
    assert store.check() == []


def test_two_memories_for_one_passage_are_found_and_the_newer_kept(store: MemoryStore) -> None:
    write(store, "old words.", "d1", mode=WriteMode.FAST)
    write(store, "new words!", "d1", mode=WriteMode.FAST)
    sql(store, "UPDATE memories SET removed_seq = NULL")
    sql(store, "UPDATE collections SET num_memories = 2")
    assert [problem.code for problem in store.check()] == ["memory_doubled"]
    store.check(repair=True)
    assert store.check() == []
    assert [memory.version for memory in store.document("default", "d1").memories] == [2]


def test_an_index_that_went_wrong_in_memory_is_rebuilt(store: MemoryStore) -> None:
    write(store, "some words", "d1", mode=WriteMode.FAST)
    store.select("default", key_of("some words"), 1)
    (index,) = store._indexes.loaded().values()
    index._index.remove(index._index.ids().tolist())
    assert [problem.code for problem in store.check(repair=True)] == ["index_wrong"]
    assert store.check() == []
    assert len(store.select("default", key_of("some words"), 1)) == 1


def test_a_damaged_catalogue_is_named_and_not_touched(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        for number in range(30):
            store.submit(WriteRequest("text " * 200, f"d{number}"))
        store.compact()
    path = tmp_path / "catalogue.db"
    damaged = bytearray(path.read_bytes())
    # the pages of the rows, not those of the schema
    for page in range(len(damaged) // 4096 - 8, len(damaged) // 4096):
        damaged[page * 4096 : page * 4096 + 8] = b"\xff" * 8
    path.write_bytes(damaged)
    with pytest.raises(CorruptionError, match="restore a snapshot"):
        MemoryStore.open(tmp_path)
    with MemoryStore.open(tmp_path, mend=False) as store:
        problems = store.check(repair=True)
    assert {problem.code for problem in problems} == {"catalogue_damaged"}
    assert not any(problem.repaired for problem in problems)
    assert path.read_bytes() == bytes(damaged)
