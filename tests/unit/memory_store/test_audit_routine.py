"""The audit that comes by itself, and what is known of the last one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from memory_store import MemoryStore, Problem, WriteMode
from memory_store.audit import doctor
from memory_store.audit.doctor import check as doctor_check
from memory_store.file_lock import FileLock
from memory_store.records import StoreStats
from tests.unit.memory_store.making import Clock, open_store, write

DAY_S = 86_400.0


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[MemoryStore]:
    with open_store(tmp_path, clock=clock) as store:
        write(store, "some words", "d1", mode=WriteMode.FAST)
        yield store


def damage(home: Path) -> None:
    (shard,) = (home / "shards").glob("*/*")
    shard.write_bytes(shard.read_bytes()[:-1])


def known(stats: StoreStats) -> tuple[float, int]:
    return stats.last_audit_age_s, stats.audit_problems


def test_a_store_is_audited_when_it_never_was_and_again_when_it_is_time(
    store: MemoryStore, clock: Clock
) -> None:
    assert known(store.stats()) == (float("inf"), 0)
    assert store.check_if_due(DAY_S) == []
    assert store.check_if_due(DAY_S) is None
    clock.advance(DAY_S - 1)
    assert store.check_if_due(DAY_S) is None
    assert known(store.stats()) == (DAY_S - 1, 0)
    clock.advance(1)
    assert store.check_if_due(DAY_S) == []


def test_what_it_finds_is_known_until_it_is_repaired(store: MemoryStore, tmp_path: Path) -> None:
    damage(tmp_path)
    problems = store.check_if_due(DAY_S)
    assert problems
    assert known(store.stats()) == (0, len(problems))
    store.check(repair=True)
    assert known(store.stats()) == (0, 0)


def test_an_audit_by_hand_counts_as_one(store: MemoryStore) -> None:
    store.check()
    assert store.check_if_due(DAY_S) is None


def test_two_processes_do_not_audit_at_once(store: MemoryStore, tmp_path: Path) -> None:
    with FileLock(tmp_path / ".audit") as other:
        assert other.try_exclusive()
        assert store.check_if_due(DAY_S) is None
    assert store.check_if_due(DAY_S) == []


def test_a_problem_that_is_gone_at_the_second_look_was_none(
    store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (shard,) = (tmp_path / "shards").glob("*/*")
    sound = shard.read_bytes()
    damage(tmp_path)
    looks = []

    def check(*args: Any, **options: Any) -> list[Problem]:
        """Between the first look and the second somebody finishes what he was writing."""
        if looks:
            shard.write_bytes(sound)
        looks.append(doctor_check(*args, **options))
        return looks[-1]

    monkeypatch.setattr(doctor, "check", check)
    assert store.check_if_due(DAY_S) == []
    assert [bool(found) for found in looks] == [True, False]
    assert known(store.stats()) == (0, 0)
