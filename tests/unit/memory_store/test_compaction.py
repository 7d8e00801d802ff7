"""Compaction gives bytes back and changes nothing anybody can see."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from memory_store import CodeFormat, MemorySpec, MemoryStore, WriteMode, WriteRequest
from tests.unit.memory_store.making import SPEC, key_of, open_store, passages_of, work, write


def shard_files(home: Path) -> list[Path]:
    return sorted((home / "shards").glob("*/*"))


def fill(store: MemoryStore, *names: str, spec: MemorySpec = SPEC) -> None:
    for name in names:
        store.submit(WriteRequest(f"text of {name}", name, mode=WriteMode.FAST))
        work(store, spec=spec)


@pytest.mark.parametrize("code_format", list(CodeFormat))
def test_small_shards_are_merged_and_every_code_stays(
    tmp_path: Path, code_format: CodeFormat
) -> None:
    spec = MemorySpec("bundle-1", 2, 8, code_format)
    with open_store(tmp_path, spec=spec) as store:
        fill(store, "a", "b", "c", spec=spec)
        hits = store.select("default", key_of("text of b"), 3)
        before = store.load_codes([hit.memory for hit in hits])
        report = store.compact()
        assert (report.shards_before, report.shards_after, report.rows_dropped) == (3, 1, 0)
        assert len(shard_files(tmp_path)) == 1
        # the hits still point to the old shards
        after = store.load_codes([hit.memory for hit in hits])
        np.testing.assert_array_equal(before, after)
        assert [h.memory.document_id for h in store.select("default", key_of("text of b"), 3)] == [
            hit.memory.document_id for hit in hits
        ]
        assert store.check() == []


def test_the_bytes_of_a_deleted_document_are_gone(tmp_path: Path) -> None:
    secret = "the secret of " * 4
    with open_store(tmp_path) as store:
        write(
            store, secret, "d1", mode=WriteMode.FAST, title="a secret title", metadata={"k": "m3ta"}
        )
        fill(store, "kept")
        codes = passages_of(secret)[0].codes.astype("bfloat16").tobytes()
        needles = [codes, b"a secret title", b"m3ta"]
        assert all(any(n in p.read_bytes() for p in all_files(tmp_path)) for n in needles)
        store.delete_document("default", "d1")
        report = store.compact()
        assert report.rows_dropped == 6
        assert report.bytes_freed > 0
        for path in all_files(tmp_path):
            assert not any(needle in path.read_bytes() for needle in needles), path
        assert store.stats().dead_rows == 0
        assert store.check() == []


def all_files(home: Path) -> list[Path]:
    return [path for path in home.rglob("*") if path.is_file()]


def test_a_deleted_collection_leaves_no_file(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        fill(store, "a", "b")
        store.rebuild_index()
        store.delete_collection("default")
        store.compact()
        assert shard_files(tmp_path) == []
        assert list((tmp_path / "index").iterdir()) == []
        assert store.jobs.list().items != []
        assert store.check() == []


def test_compacting_twice_does_nothing_the_second_time(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        fill(store, "a", "b", "a")
        store.compact()
        files = shard_files(tmp_path)
        report = store.compact()
        assert (report.shards_before, report.shards_after, report.rows_dropped) == (1, 1, 0)
        assert shard_files(tmp_path) == files


def test_progress_runs_from_zero_to_one(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        fill(store, "a", "b")
        told: list[float] = []
        store.compact(progress=told.append)
        assert told == sorted(told)
        assert told[-1] == 1.0


def test_large_shards_with_few_dead_rows_are_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memory_store.shards.compaction.SMALL_ROWS", 1)
    with open_store(tmp_path) as store:
        for name in "abcd":
            store.submit(WriteRequest(f"text of {name}", name, mode=WriteMode.FAST))
        work(store)
        store.delete_document("default", "a")
        assert store.compact(min_dead_fraction=0.5).rows_dropped == 0
        assert store.compact(min_dead_fraction=0.25).rows_dropped == 1


def test_a_full_group_starts_another_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memory_store.shards.compaction.TARGET_ROWS", 2)
    with open_store(tmp_path) as store:
        fill(store, *"abcde")
        assert store.compact().shards_after == 3
        assert store.check() == []


def test_a_damaged_shard_is_left_for_the_doctor(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        fill(store, "a", "b", "c")
        victim = shard_files(tmp_path)[0]
        damaged = bytearray(victim.read_bytes())
        damaged[-1] ^= 1
        victim.write_bytes(damaged)
        report = store.compact()
        assert (report.shards_skipped, report.shards_after) == (1, 2)
        assert victim.exists()


def test_a_replaced_document_keeps_its_versions_after_compaction(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        for _ in range(3):
            fill(store, "a")
        store.compact()
        assert store.document("default", "a").version == 3
        fill(store, "a")
        assert store.document("default", "a").version == 4
        assert store.check() == []


def test_two_compactions_at_once_lose_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_store(tmp_path) as store, open_store(tmp_path) as other:
        fill(store, "a", "b", "c")
        store.delete_document("default", "c")

        def compact_too(point: str) -> None:
            if point == "g-before-repoint":
                monkeypatch.undo()
                other.compact()

        monkeypatch.setattr("memory_store.shards.compaction.reach", compact_too)
        store.compact()
        assert len(shard_files(tmp_path)) == 1
        assert len(store.select("default", key_of("text of a"), 5)) == 2
        assert store.check() == []


def test_a_memory_deleted_while_its_shard_is_copied_stays_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_store(tmp_path) as store, open_store(tmp_path) as other:
        fill(store, "a", "b")

        def delete(point: str) -> None:
            if point == "g-before-repoint":
                other.delete_document("default", "a")

        monkeypatch.setattr("memory_store.shards.compaction.reach", delete)
        store.compact()
        found = store.select("default", key_of("text of a"), 5)
        assert [hit.memory.document_id for hit in found] == ["b"]
        assert store.check() == []


def test_old_finished_jobs_are_forgotten_with_their_keys(store: MemoryStore, clock: object) -> None:
    write(store, "some words", "a", mode=WriteMode.FAST)
    first = store.submit(WriteRequest("text", "a", mode=WriteMode.FAST), idempotency_key="k")
    work(store)
    write(store, "new words!", "a", mode=WriteMode.FAST)
    clock.advance(31 * 86_400.0)  # type: ignore[attr-defined]
    store.compact()
    assert [job.version for job in store.jobs.list().items] == [3]
    again = store.submit(WriteRequest("text", "a", mode=WriteMode.FAST), idempotency_key="k")
    assert again.created
    assert again.job.job_id != first.job.job_id
