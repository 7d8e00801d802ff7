"""``Snapshots``: the snapshots of one home in one place."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from memory_store.catalogue.cursors import clamp_limit, decode_cursor, page_of
from memory_store.errors import ConflictError, CorruptionError, NotFoundError
from memory_store.file_lock import FileLock
from memory_store.files import make_directory, write_durably
from memory_store.records import Page
from memory_store.snapshots import pending
from memory_store.snapshots.manifest import Snapshot, checked_id, parse_manifest
from memory_store.snapshots.place import FILES, MANIFESTS, open_place
from memory_store.snapshots.restore import RestoreReport, prepare
from memory_store.snapshots.take import SnapshotReport, take
from memory_store.storage import Storage

LAST = "last-snapshot.json"


def _ignore(_fraction: float) -> None:
    pass


class Snapshots:
    """Needs no store to be open, and works while any number of processes have the home open.

    One operation at a time: a second one is refused.
    """

    def __init__(self, home: Path, place: str | Path | None = None) -> None:
        """``place``: directory or fsspec URL; None = ``snapshots`` under the home.

        Raises: StoreError if nothing speaks the URL's protocol.
        """
        self._home = home
        self.where = str(place or home / "snapshots")
        self._place = open_place(self.where)

    def take(self, storage: Storage, progress: Callable[[float], None] = _ignore) -> SnapshotReport:
        """Keep the home as it is now. Killed half way, there is no snapshot.

        Shards that the place has already are not read again.

        Raises:
            CorruptionError: a shard is damaged.
            ConflictError: another snapshot or restore of this home is running.
            DiskFullError
        """
        with self._alone():
            newest = next(iter(self._readable()), None)
            report = take(storage, self._place, newest, progress)
            last = {"snapshot_id": report.snapshot.snapshot_id, "where": self.where}
            write_durably(self._home / LAST, json.dumps(last).encode(), step="h-last")
        return report

    def page(self, *, cursor: str | None = None, limit: int = 100) -> Page[Snapshot]:
        """Newest first; one whose manifest is damaged is left out. Raises: InvalidCursorError."""
        limit = clamp_limit(limit)
        before = decode_cursor(cursor, 1)[0] if cursor else None
        found: list[Snapshot] = []
        for snapshot in self._readable(before):
            found.append(snapshot)
            if len(found) > limit:
                break
        return page_of(found, limit, lambda snapshot: (snapshot.snapshot_id,))

    def get(self, snapshot_id: str) -> Snapshot:
        """Raises: NotFoundError, CorruptionError, IncompatibleFormatError."""
        try:
            data = self._place.read(MANIFESTS, f"{checked_id(snapshot_id)}.json")
        except FileNotFoundError:
            raise NotFoundError(
                f"there is no snapshot {snapshot_id!r} in {self.where}", param="snapshot_id"
            ) from None
        return parse_manifest(data, snapshot_id)

    def newest(self) -> Snapshot:
        """Raises: NotFoundError."""
        for snapshot in self._readable():
            return snapshot
        raise NotFoundError(f"there is no snapshot in {self.where}", param="snapshot_id")

    def delete(self, snapshot_id: str) -> None:
        """With the files that no other snapshot needs.

        Raises:
            NotFoundError
            ConflictError: a snapshot or restore of this home is running.
        """
        with self._alone():
            name = f"{checked_id(snapshot_id)}.json"
            if name not in self._place.names(MANIFESTS):
                raise NotFoundError(
                    f"there is no snapshot {snapshot_id!r} in {self.where}", param="snapshot_id"
                )
            self._place.delete(MANIFESTS, name)
            # an unreadable manifest raises here: what it needs is not known, so nothing goes
            needed = {file.sha256 for one in self._ids() for file in self.get(one).files}
            for file in self._place.names(FILES).keys() - needed:
                self._place.delete(FILES, file)

    def restore(
        self, snapshot_id: str, progress: Callable[[float], None] = _ignore
    ) -> RestoreReport:
        """Verify a snapshot and let it replace the home's state: now, if nobody has it open.

        Else the first process does that which opens the home when no other has it open. What was
        there before is kept beside it (see :mod:`memory_store.snapshots.pending`).

        Raises:
            NotFoundError, CorruptionError, IncompatibleFormatError, DiskFullError: nothing changed.
            ConflictError: another snapshot or restore of this home is running.
        """
        snapshot = self.get(snapshot_id)
        with self._alone():
            prepare(self._home, self._place, snapshot, progress)
            applied = pending.apply_if_alone(self._home)
        return RestoreReport(snapshot_id, snapshot.num_bytes, snapshot.fingerprints, applied)

    def _ids(self) -> list[str]:
        """Newest first."""
        return sorted((n.removesuffix(".json") for n in self._place.names(MANIFESTS)), reverse=True)

    def _readable(self, before: str | None = None) -> Iterator[Snapshot]:
        for snapshot_id in self._ids():
            if before is None or snapshot_id < before:
                try:
                    yield self.get(snapshot_id)
                except (CorruptionError, NotFoundError):
                    continue

    @contextmanager
    def _alone(self) -> Iterator[None]:
        make_directory(self._home)
        with FileLock(self._home / ".snapshots") as lock:
            if not lock.try_exclusive():
                raise ConflictError(
                    "another snapshot or restore of this home is running; try again when it is done"
                )
            yield


def last_snapshot_at(home: Path) -> float | None:
    """When a snapshot of this home last succeeded, wherever it is kept; Unix seconds."""
    try:
        return (home / LAST).stat().st_mtime
    except FileNotFoundError:
        return None
