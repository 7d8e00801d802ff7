"""Taking a snapshot of a home in use.

Shards are pinned first: what compaction replaces meanwhile stays on disk. Then one statement copies
the catalogue at one point in time, and every shard that the copy names is there to be kept. The
manifest comes last.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from memory_store.audit.row_audit import damaged_rows
from memory_store.catalogue import collections, row_sums
from memory_store.crashpoints import reach
from memory_store.errors import CorruptionError
from memory_store.files import TEMP_SUFFIX, make_directory
from memory_store.shards.shard import ShardReader
from memory_store.snapshots.manifest import (
    Snapshot,
    SnapshotCollection,
    SnapshotFile,
    new_snapshot_id,
)
from memory_store.snapshots.place import FILES, MANIFESTS, Place, sha256_of
from memory_store.storage import Storage
from paramem import __version__

WORK = "snapshot.tmp"


@dataclass(frozen=True, slots=True)
class SnapshotReport:
    snapshot: Snapshot
    new_bytes: int  # that the place did not have yet


def take(
    storage: Storage, place: Place, newest: Snapshot | None, progress: Callable[[float], None]
) -> SnapshotReport:
    """See :meth:`memory_store.snapshots.snapshots.Snapshots.take`."""
    work = storage.home / WORK
    shutil.rmtree(work, ignore_errors=True)
    make_directory(work)
    try:
        with storage.shards.pinned():
            copied = work / "catalogue.db"
            storage.catalogue.copy_to(copied)
            _refuse_damaged_rows(copied)
            reach("h-catalogue-copied")
            sources = list(_sources(storage.home, copied))
            files, new_bytes = _keep(sources, place, newest, progress)
        place.sync()
        snapshot = Snapshot(
            snapshot_id=new_snapshot_id(),
            created_at=storage.clock(),
            paramem=__version__,
            collections=_collections(copied),
            files=files,
        )
        reach("h-before-manifest")
        place.write(MANIFESTS, f"{snapshot.snapshot_id}.json", snapshot.to_json())
        reach("h-after-manifest")
    finally:
        shutil.rmtree(work, ignore_errors=True)
    progress(1.0)
    return SnapshotReport(snapshot, new_bytes)


def _sources(home: Path, copied: Path) -> Iterator[tuple[str, Path]]:
    """Every file of the snapshot: its path below the home, and where it is to be read."""
    with closing(sqlite3.connect(copied)) as connection:
        shards = [name for (name,) in connection.execute("SELECT name FROM shards ORDER BY name")]
    for name in shards:
        yield f"shards/{name}", home / "shards" / name
    bundles = home / "bundles"
    for path in sorted(bundles.rglob("*")):
        parts = path.relative_to(bundles).parts
        unfinished = any(part.startswith(".") or part.endswith(TEMP_SUFFIX) for part in parts)
        if path.is_file() and not unfinished:
            yield path.relative_to(home).as_posix(), path
    yield "catalogue.db", copied


def _known(newest: Snapshot | None, kept: Mapping[str, int]) -> dict[str, SnapshotFile]:
    """Shards that the place has already: a shard of one name never changes.

    Args:
        kept: names of the place's files and their bytes.
    """
    if newest is None:
        return {}
    return {
        file.path: file
        for file in newest.files
        if file.path.startswith("shards/") and kept.get(file.sha256) == file.num_bytes
    }


def _keep(
    sources: list[tuple[str, Path]],
    place: Place,
    newest: Snapshot | None,
    progress: Callable[[float], None],
) -> tuple[list[SnapshotFile], int]:
    kept = place.names(FILES)
    known = _known(newest, kept)
    files: list[SnapshotFile] = []
    new_bytes = 0
    for done, (path, source) in enumerate(sources, 1):
        file = known.get(path)
        if file is None:
            is_shard = path.startswith("shards/")
            if is_shard:
                _refuse_damage(source)
            file = SnapshotFile(path, sha256_of(source), source.stat().st_size)
            if kept.get(file.sha256) != file.num_bytes:
                place.store(file.sha256, source, immutable=is_shard)
                kept[file.sha256] = file.num_bytes
                new_bytes += file.num_bytes
                reach("h-file-kept")
        files.append(file)
        progress(done / (len(sources) + 1))
    return files, new_bytes


def _refuse_damaged_rows(copied: Path) -> None:
    with closing(sqlite3.connect(copied)) as connection:
        row_sums.install(connection)
        row = next(damaged_rows(connection), None)
    if row is not None:
        raise CorruptionError(
            f"row {row.rowid} of {row.table} in the catalogue is damaged, so no snapshot was "
            "taken: run paramem doctor --repair"
        )


def _refuse_damage(shard: Path) -> None:
    """A snapshot of damage would be found out only when it is needed."""
    try:
        damaged = bool(ShardReader(shard).damaged_tensors())
    except (FileNotFoundError, CorruptionError):
        damaged = True
    if damaged:
        raise CorruptionError(
            f"shard {shard.name} is damaged, so no snapshot was taken: run paramem doctor --repair"
        )


def _collections(copied: Path) -> list[SnapshotCollection]:
    with closing(sqlite3.connect(copied)) as connection:
        row_sums.install(connection)
        found = [row.collection for row in collections.live(connection)]
    return [
        SnapshotCollection(
            name=one.name,
            fingerprint=one.spec.fingerprint,
            slots=one.spec.slots,
            z_dim=one.spec.z_dim,
            code_format=str(one.spec.code_format),
            documents=one.documents,
            memories=one.memories,
        )
        for one in found
    ]
