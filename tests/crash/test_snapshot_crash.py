"""SIGKILL in a snapshot leaves no half snapshot, in a restore no half state."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from memory_store import CRASH_POINTS, Snapshots
from tests.crash.store_process import DOCUMENTS, submit
from tests.crash.test_store_crash import run
from tests.unit.memory_store.making import open_store, work, write

POINTS = [point for point in CRASH_POINTS if point.startswith("h-")]
FIRST_OF_RESTORE = POINTS.index("h-file-fetched")
TAKING, RESTORING = POINTS[:FIRST_OF_RESTORE], POINTS[FIRST_OF_RESTORE:]
WHOLE = {"h-renamed", "h-after-manifest"}
"""Points after which the manifest is there."""
PROMISED = {"h-ready-renamed", "h-swap-between", "h-swap-entry", "h-swapped"}
"""Points after which the restore will happen."""


def documents(home: Path) -> set[str]:
    with open_store(home, orphan_grace_s=0.0) as store:
        assert store.check() == []
        return {document.document_id for document in store.documents().items}


@pytest.mark.parametrize("point", TAKING)
def test_a_killed_snapshot_is_whole_or_not_listed(tmp_path: Path, point: str) -> None:
    with open_store(tmp_path) as store:
        submit(store)
        work(store)
    assert run(tmp_path, "snapshot", point).returncode == -signal.SIGKILL
    snapshots = Snapshots(tmp_path)
    assert len(snapshots.page().items) == (point in WHOLE)
    with open_store(tmp_path, orphan_grace_s=0.0) as store:
        store.compact()  # nothing stays pinned
        again = store.snapshot(snapshots).snapshot
        assert store.check() == []
    assert not (tmp_path / "snapshot.tmp").exists()
    assert snapshots.restore(again.snapshot_id).applied
    assert documents(tmp_path) == set(DOCUMENTS)


@pytest.mark.parametrize("point", RESTORING)
def test_a_killed_restore_leaves_the_old_state_or_the_new_one(tmp_path: Path, point: str) -> None:
    with open_store(tmp_path) as store:
        submit(store)
        work(store)
    with open_store(tmp_path) as store:
        store.snapshot(Snapshots(tmp_path))
        store.delete_document("default", "d0")
        write(store, "text of later", "later")
    assert run(tmp_path, "restore", point).returncode == -signal.SIGKILL
    old, new = {*DOCUMENTS, "later"} - {"d0"}, set(DOCUMENTS)
    assert documents(tmp_path) == (new if point in PROMISED else old)
    if point in PROMISED:
        assert not (tmp_path / "restore").exists()
        [aside] = tmp_path.glob("before-restore-*")
        aside.rename(tmp_path / "old")  # what was there before is a home
        assert documents(tmp_path / "old") == old
    snapshots = Snapshots(tmp_path)
    assert snapshots.restore(snapshots.newest().snapshot_id).applied
    assert documents(tmp_path) == new
