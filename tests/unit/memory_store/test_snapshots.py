"""Snapshots: taken while the home is in use, verified before they replace anything."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from memory_store import (
    ConflictError,
    CorruptionError,
    IncompatibleFormatError,
    MemoryStore,
    NotFoundError,
    Snapshots,
    StoreError,
    WriteMode,
    WriteRequest,
)
from memory_store.snapshots import take as taking
from memory_store.snapshots.manifest import parse_manifest
from memory_store.snapshots.place import open_place
from tests.unit.memory_store.making import WORKER, Clock, best, open_store, work, write


@pytest.fixture(params=["directory", "other directory", "url"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str | None]:
    """Every kind of place there is."""
    if request.param != "url":
        yield None if request.param == "directory" else str(tmp_path / "elsewhere")
        return
    fsspec = pytest.importorskip("fsspec")
    yield f"memory://{tmp_path.name}"
    fsspec.filesystem("memory").rm(f"/{tmp_path.name}", recursive=True)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def snapshots(home: Path) -> Snapshots:
    return Snapshots(home)


def names(home: Path) -> list[str]:
    with open_store(home) as store:
        assert store.check() == []
        return [document.document_id for document in store.documents().items]


def stored_files(home: Path) -> set[str]:
    return {path.name for path in (home / "snapshots" / "files").iterdir()}


def test_what_was_there_comes_back_wherever_it_was_kept(
    store: MemoryStore, home: Path, place: str | None
) -> None:
    write(store, "the ferry sails", "ferry", metadata={"year": 1911})
    bundle = home / "bundles" / "untrained-1" / "bundle.json"
    bundle.parent.mkdir(parents=True)
    bundle.write_text("{}")
    taken = store.snapshot(Snapshots(home, place)).snapshot
    store.delete_document("default", "ferry")
    write(store, "the mine closed", "mine")
    store.compact()
    bundle.unlink()
    store.close()
    report = Snapshots(home, place).restore(taken.snapshot_id)
    assert (report.applied, report.fingerprints) == (True, ["bundle-1"])
    assert names(home) == ["ferry"]
    assert bundle.read_text() == "{}"
    with open_store(home) as restored:
        document = restored.document("default", "ferry")
        assert document.metadata == {"year": 1911}
        assert len(restored.load_codes(document.memories)) == len(document.memories)
        assert best(restored, "the ferry ") == ("ferry", 0)
        write(restored, "life goes on", "after")


def test_a_new_home_can_be_made_of_a_snapshot(
    store: MemoryStore, home: Path, tmp_path: Path
) -> None:
    write(store, "the ferry sails", "ferry")
    taken = store.snapshot(Snapshots(home)).snapshot
    elsewhere = Snapshots(tmp_path / "new", home / "snapshots")
    assert elsewhere.restore(taken.snapshot_id).applied
    write(store, "the mine closed", "mine")
    assert names(tmp_path / "new") == ["ferry"]
    assert names(home) == ["ferry", "mine"]


def test_a_damaged_catalogue_is_replaced_and_kept_aside(
    store: MemoryStore, home: Path, snapshots: Snapshots
) -> None:
    write(store, "the ferry sails", "ferry")
    taken = store.snapshot(snapshots).snapshot
    store.close()
    for journal in home.glob("catalogue.db-*"):
        journal.unlink()
    (home / "catalogue.db").write_bytes(b"not a database" * 1000)
    with pytest.raises(CorruptionError, match="restore a snapshot"):
        MemoryStore.open(home)
    assert snapshots.restore(taken.snapshot_id).applied
    assert names(home) == ["ferry"]
    [aside] = home.glob("before-restore-*")
    assert (aside / "catalogue.db").read_bytes().startswith(b"not a database")


def test_writes_and_compaction_go_on_while_a_snapshot_is_taken(
    store: MemoryStore, home: Path, snapshots: Snapshots, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(4):
        write(store, f"text {number}", f"d{number}", mode=WriteMode.FAST)
    copied, go_on = threading.Event(), threading.Event()

    def stop_after_the_catalogue(point: str) -> None:
        if point == "h-catalogue-copied":
            copied.set()
            assert go_on.wait(30)

    monkeypatch.setattr(taking, "reach", stop_after_the_catalogue)
    thread = threading.Thread(target=store.snapshot, args=[snapshots])
    thread.start()
    assert copied.wait(30)
    store.delete_document("default", "d0")
    write(store, "text of later", "later", mode=WriteMode.FAST)
    assert store.compact().shards_after == 1
    assert best(store, "text of la") == ("later", 0)
    with pytest.raises(ConflictError, match="another snapshot"):
        store.snapshot(snapshots)
    go_on.set()
    thread.join()
    taken = snapshots.newest()
    store.close()
    with open_store(home, orphan_grace_s=0.0) as again:  # what was pinned is swept
        assert again.check() == []
        assert len(list((home / "shards" / "1").iterdir())) == 1
    snapshots.restore(taken.snapshot_id)
    assert names(home) == ["d0", "d1", "d2", "d3"]


def test_a_second_snapshot_keeps_only_what_is_new(
    store: MemoryStore, home: Path, snapshots: Snapshots
) -> None:
    write(store, "the ferry sails", "ferry")
    first = store.snapshot(snapshots)
    shards = [file for file in first.snapshot.files if file.path.startswith("shards/")]
    kept = home / "snapshots" / "files" / shards[0].sha256
    assert kept.stat().st_nlink == 2  # no second copy on the same disk
    write(store, "the mine closed", "mine")
    second = store.snapshot(snapshots)
    old = {file.sha256 for file in first.snapshot.files}
    added = [file for file in second.snapshot.files if file.sha256 not in old]
    assert sorted(file.path.partition("/")[0] for file in added) == ["catalogue.db", "shards"]
    assert second.new_bytes == sum(file.num_bytes for file in added)


def test_what_the_place_lost_is_kept_again(
    store: MemoryStore, home: Path, snapshots: Snapshots
) -> None:
    write(store, "the ferry sails", "ferry")
    first = store.snapshot(snapshots).snapshot
    (home / "snapshots" / "files" / first.files[0].sha256).unlink()
    with pytest.raises(CorruptionError, match="missing in its place"):
        snapshots.restore(first.snapshot_id)
    store.snapshot(snapshots)
    store.close()
    assert snapshots.restore(first.snapshot_id).applied


def test_deleting_a_snapshot_leaves_the_others_whole(
    store: MemoryStore, home: Path, snapshots: Snapshots
) -> None:
    write(store, "the ferry sails", "ferry")
    first = store.snapshot(snapshots).snapshot
    write(store, "the mine closed", "mine")
    second = store.snapshot(snapshots).snapshot
    snapshots.delete(first.snapshot_id)
    assert [one.snapshot_id for one in snapshots.page().items] == [second.snapshot_id]
    assert stored_files(home) == {file.sha256 for file in second.files}
    store.close()
    snapshots.restore(second.snapshot_id)
    assert names(home) == ["ferry", "mine"]
    snapshots.delete(second.snapshot_id)
    assert stored_files(home) == set()
    with pytest.raises(NotFoundError):
        snapshots.newest()


def test_while_others_use_the_home_a_restore_waits_for_the_next_start(
    store: MemoryStore, home: Path, snapshots: Snapshots
) -> None:
    write(store, "the ferry sails", "ferry")
    taken = store.snapshot(snapshots).snapshot
    store.delete_document("default", "ferry")
    assert not snapshots.restore(taken.snapshot_id).applied
    assert names(home) == []  # opened beside the first: nothing is swapped under it
    write(store, "the mine closed", "mine")
    store.close()
    assert names(home) == ["ferry"]


def test_running_jobs_come_back_queued_and_workers_forgotten(
    store: MemoryStore, home: Path, snapshots: Snapshots, clock: Clock
) -> None:
    store.submit(WriteRequest("the ferry sails", "ferry"))
    [leased] = store.jobs.lease(WORKER, limit=1, lease_s=1e9)
    taken = store.snapshot(snapshots).snapshot
    store.close()
    snapshots.restore(taken.snapshot_id)
    with open_store(home, clock=clock) as restored:
        assert restored.jobs.get(leased.job_id).attempts == 0
        assert len(work(restored)) == 2


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink()  # not the shard it is linked to
    path.write_bytes(data)


@pytest.mark.parametrize("kind", ["catalogue.db", "shards/"])
def test_a_flipped_bit_is_refused_and_the_home_stays_as_it_was(
    store: MemoryStore, home: Path, snapshots: Snapshots, kind: str
) -> None:
    write(store, "the ferry sails", "ferry")
    taken = store.snapshot(snapshots).snapshot
    store.delete_document("default", "ferry")
    store.close()
    [file] = [file for file in taken.files if file.path.startswith(kind)]
    damage(home / "snapshots" / "files" / file.sha256)
    with pytest.raises(CorruptionError, match="does not match its checksum"):
        snapshots.restore(taken.snapshot_id)
    assert not (home / "restore").exists()
    assert names(home) == []


def test_a_damaged_shard_is_not_kept_as_if_it_were_sound(
    store: MemoryStore, home: Path, snapshots: Snapshots
) -> None:
    write(store, "the ferry sails", "ferry")
    [shard] = (home / "shards").glob("1/*")
    damage(shard)
    with pytest.raises(CorruptionError, match="doctor --repair"):
        store.snapshot(snapshots)
    store.check(repair=True)
    work(store)
    store.snapshot(snapshots)
    assert len(snapshots.page().items) == 1


@pytest.mark.parametrize(
    "snapshot_id", ["../../etc/passwd", "snap_1", f"../snap_{0:032}", f"snap_{0:032}/..", ""]
)
def test_only_ids_of_snapshots_are_looked_for(snapshots: Snapshots, snapshot_id: str) -> None:
    for call in (snapshots.get, snapshots.delete, snapshots.restore):
        with pytest.raises(NotFoundError):
            call(snapshot_id)


@pytest.mark.parametrize(
    "path",
    ["../evil", "/etc/cron.d/evil", "shards/../../evil", "bundles/../../evil", "bundles/.lock"],
)
def test_a_manifest_cannot_write_outside_of_what_a_snapshot_has(
    store: MemoryStore, home: Path, snapshots: Snapshots, path: str
) -> None:
    taken = store.snapshot(snapshots).snapshot
    file = home / "snapshots" / "manifests" / f"{taken.snapshot_id}.json"
    manifest = json.loads(file.read_text())
    manifest["files"][0]["path"] = path
    file.write_text(json.dumps(manifest))
    with pytest.raises(CorruptionError, match="manifest"):
        snapshots.restore(taken.snapshot_id)


def test_a_manifest_of_a_newer_paramem_is_refused(store: MemoryStore, snapshots: Snapshots) -> None:
    taken = store.snapshot(snapshots).snapshot
    data = taken.to_json()
    assert parse_manifest(data, taken.snapshot_id) == taken
    newer = data.replace(b'"format_version": 1', b'"format_version": 2')
    with pytest.raises(IncompatibleFormatError, match="upgrade paramem"):
        parse_manifest(newer, taken.snapshot_id)


def test_lists_have_pages(store: MemoryStore, snapshots: Snapshots) -> None:
    taken = [store.snapshot(snapshots).snapshot.snapshot_id for _ in range(3)]
    first = snapshots.page(limit=2)
    assert [one.snapshot_id for one in first.items] == [taken[2], taken[1]]
    last = snapshots.page(limit=2, cursor=first.next_cursor)
    assert ([one.snapshot_id for one in last.items], last.next_cursor) == ([taken[0]], None)


def test_a_url_nobody_speaks_is_refused_with_what_to_install() -> None:
    with pytest.raises(StoreError, match="nowhere"):
        open_place("nowhere://bucket")
